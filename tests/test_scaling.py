"""The costs of a training step by formula, against PyTorch's own counts."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import gptlib
from gptlib import GPT, GPTConfig, ModernConfig, ModernGPT, scaling

SMALL = GPTConfig(65, 32, n_layer=3, n_head=4, n_embd=64)
CONFIGS = [
    SMALL,
    GPTConfig(300, 16, n_layer=1, n_head=2, n_embd=32),
    ModernConfig(100, 48, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_hidden=88),
    ModernConfig(100, 48, n_layer=2, n_head=4, n_kv_head=1, n_embd=32, n_hidden=88, tied=False, activation="relu2"),
]


def new(config):
    torch.manual_seed(0)
    return GPT(config) if isinstance(config, GPTConfig) else ModernGPT(config)


def step(model, B, T):
    x, y = torch.randint(model.config.vocab_size, (2, B, T))
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("part", [1, 2])
def test_flops_equal_the_products_that_pytorch_counts(config, part):
    T = config.context_length // part
    # The counter knows no fused attention on a CPU; this kernel consists of ordinary products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step(new(config), 2, T).backward()
    assert counter.get_total_flops() == 2 * T * scaling.flops_per_token(config, T)
    assert scaling.flops_per_token(config) == scaling.flops_per_token(config, config.context_length)


def test_flops_of_gpt2_by_hand():
    products = 12 * (4 * 768**2 + 8 * 768**2) + 50257 * 768  # 12 blocks and the output layer
    config = gptlib.gpt2.SIZES["124M"].config
    assert scaling.flops_per_token(config, 1024) == 6 * products + 12 * 12 * 768 * 1024


def kept_bytes(model, B, T, mixed_precision):
    """Bytes of all different tensors that autograd keeps for the backward pass, parameters excluded."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
            loss = step(model, B, T)
    del loss
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("config", [SMALL, GPTConfig(300, 16, n_layer=2, n_head=2, n_embd=32)])
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_activations_equal_what_autograd_keeps(config, mixed_precision):
    B, T = 4, config.context_length
    found = scaling.training_memory(config, B, mixed_precision=mixed_precision)
    kept = kept_bytes(new(config), B, T, mixed_precision)
    ids_and_scalar = 8 * T + 4  # the position ids, and the number of targets in the loss
    assert found["blocks"] + found["output"] + found["copies"] + ids_and_scalar == kept


def test_states_are_four_numbers_per_parameter():
    model, found = new(SMALL), scaling.training_memory(SMALL, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, 1, 4).backward()
    optimizer.step()
    moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    assert found["moments"] == moments
    assert found["parameters"] == found["gradients"] == sum(p.nbytes for p in model.parameters())


def test_checkpointing_keeps_inputs_and_the_block_that_is_computed_again():
    whole, less = (scaling.training_memory(SMALL, 2, checkpointed=on) for on in (False, True))
    block, output, gradients = 16 * 64 + 4 + 4, 2 * 64 + 2 + 65 + 4, 2 * 65  # numbers per token
    assert less["blocks"] == 2 * 32 * 4 * (3 * 64 + block - 64 - output - gradients)
    assert {**whole, "blocks": 0} == {**less, "blocks": 0}


def test_with_a_large_vocabulary_checkpointing_keeps_only_inputs():
    config = GPTConfig(50257, 32, n_layer=3, n_head=4, n_embd=64)
    assert scaling.training_memory(config, 2, checkpointed=True)["blocks"] == 2 * 32 * 4 * 3 * 64


def test_peak_is_measured_where_no_data_sheet_is_known(monkeypatch):
    clock = iter(x for k in range(10) for x in (k, k + 0.5 + 0.1 * k))  # the first product is the fastest
    monkeypatch.setattr(scaling.time, "perf_counter", lambda: next(clock))
    assert scaling.peak_flops("cpu", torch.float32, size=8) == 2 * 8**3 / 0.5


@pytest.mark.parametrize(
    "name, peak",
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("NVIDIA L40S", 362e12)],
)
def test_peak_of_a_known_gpu(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert scaling.peak_flops("cuda", torch.bfloat16) == peak
