"""What several tests share: a small model in which every weight counts, and another GPT-2 with the same weights."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gptlib.model import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=13, context_length=8, n_layer=2, n_head=3, n_embd=12)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def stir(model: nn.Module) -> nn.Module:
    """Make every bias and every norm's gain count, and every weight large enough to be seen."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    return model


@pytest.fixture
def model() -> GPT:
    return stir(GPT(SMALL)).eval()


@pytest.fixture
def idx() -> torch.Tensor:
    return torch.randint(SMALL.vocab_size, (4, SMALL.context_length))


class OneDevice(TorchDispatchMode):
    """Raises RuntimeError for an operation on several devices, as a GPU would; PyTorch lets meta pass some."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim}
        if len(found) > 1 and "copy" not in str(operation):
            raise RuntimeError(f"{operation} mixes {found}")
        return operation(*args, **(kwargs or {}))


@contextmanager
def full_disk():
    """No file may grow beyond 4 kB, as the operating system sees it; pytest's own output may, afterwards."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def copy_into_gpt2(model: GPT, attention: str = "eager"):
    """transformers' GPT-2 with the weights of `model`; its Conv1D stores each matrix the other way round."""
    transformers = pytest.importorskip("transformers")
    c = model.config
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=c.vocab_size, n_positions=c.context_length, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
            resid_pdrop=c.dropout, embd_pdrop=c.dropout, attn_pdrop=c.dropout,
            bos_token_id=0, eos_token_id=0, attn_implementation=attention,
        )
    )  # fmt: skip
    core = theirs.transformer
    pairs = [(core.wte, model.token_embedding), (core.wpe, model.position_embedding), (core.ln_f, model.final_norm)]
    for layer, block in zip(core.h, model.blocks, strict=True):
        pairs += [
            (layer.ln_1, block.norm1), (layer.attn.c_attn, block.attention.qkv_proj),
            (layer.attn.c_proj, block.attention.out_proj), (layer.ln_2, block.norm2),
            (layer.mlp.c_fc, block.feed_forward.up_proj), (layer.mlp.c_proj, block.feed_forward.down_proj),
        ]  # fmt: skip
    with torch.no_grad():
        for target, source in pairs:
            target.weight.copy_(source.weight.mT if isinstance(source, nn.Linear) else source.weight)
            if not isinstance(source, nn.Embedding):
                target.bias.copy_(source.bias)
    return theirs.to(next(model.parameters()).dtype).eval()
