"""What a training step costs: floating-point operations and bytes by formula, and the most that a device can do.

T positions (context_length) · C channels (n_embd) · V vocabulary
"""

import time

import torch

from gptlib.model import GPT, GPTConfig
from gptlib.modern import ModernConfig, ModernGPT

# Floating-point operations per second in bfloat16, dense, by NVIDIA's data sheets. The first name that occurs counts.
PEAK_FLOPS = {"B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
PEAK_FLOPS |= {"L4": 121e12, "RTX 4090": 165e12}


def flops_per_token(config: GPTConfig | ModernConfig, context_length: int | None = None) -> int:
    """Floating-point operations per token of a training step, forward and backward: 6 N + 12 · n_layer · C · T.

    N counts the weights in matrix products: the output layer is one of them, the tables that are looked up are not.
    The second term is attention's, with all T² products as if nothing were masked (Chowdhery et al. 2022, appendix B).
    """
    with torch.device("meta"):  # shapes without values
        model = GPT(config) if isinstance(config, GPTConfig) else ModernGPT(config)
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters() if parameter.ndim == 2)
    products = blocks + config.vocab_size * config.n_embd
    return 6 * products + 12 * config.n_layer * config.n_embd * (context_length or config.context_length)


@torch.no_grad()
def peak_flops(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Floating-point operations per second that `device` can do in `dtype`, from data sheets where they are known.

    Elsewhere it is measured: the fastest of ten products of two matrices (size, size), with the threads in use.
    """
    device = torch.device(device)
    if device.type == "cuda" and dtype == torch.bfloat16:
        for name, peak in PEAK_FLOPS.items():
            if name in torch.cuda.get_device_name(device):
                return peak
    a, b = torch.rand(2, size, size, device=device).to(dtype)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the result
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def training_memory(
    config: GPTConfig, batch_size: int, context_length: int | None = None, *, checkpointed: bool = False,
    mixed_precision: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Bytes that a training step of a GPT holds at once, by part; their sum is the peak.

    For AdamW, fused attention, parameters in float32 and no dropout. Of every block, the backward pass needs the inputs
    of its layers. With `checkpointed`, the input of each block is kept, and one block at a time is computed again, when
    what output and loss needed is free (Chen et al. 2016). With `mixed_precision`, the operands of matrix products and
    copies of the weights in them are bfloat16.
    """
    C, V, tokens = config.n_embd, config.vocab_size, batch_size * (context_length or config.context_length)
    operand = 2 if mixed_precision else 4  # bytes per number
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in GPT(config).parameters())
    products = config.n_layer * 12 * C**2 + V * C  # weights in matrix products
    block = 4 * (2 * C + config.n_head + 4) + operand * 14 * C  # per token: two norms' inputs, statistics; the rest
    output, temporary = 4 * (C + 2 + V) + operand * C + 16, 8 * V  # final norm, log-probabilities, ids; two gradients
    kept = config.n_layer * block
    if checkpointed:
        kept = config.n_layer * 4 * C + max(0, block - 4 * C - output - temporary)
    return {
        "parameters": 4 * parameters,
        "gradients": 4 * parameters,
        "moments": 8 * parameters,
        "copies": operand * products if mixed_precision else 0,
        "blocks": tokens * kept,
        "output": tokens * output,
        "temporary": tokens * temporary,  # the gradients of the log-probabilities and of the logits
    }
