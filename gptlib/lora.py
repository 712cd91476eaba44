"""LoRA (Hu et al. 2021): the weights of a model stay, and what is trained is a change of low rank beside each matrix.

C_in, C_out channels of a layer · r rank
"""

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gptlib.files import atomic_write


class LoRALinear(nn.Module):
    """y = base(x) + alpha/r · (x Aᵀ) Bᵀ: A (r, C_in) is random and B (C_out, r) zero at first (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float = 32.0, generator: torch.Generator | None = None):
        super().__init__()
        C_out, C_in = base.weight.shape
        if not 1 <= rank <= min(C_out, C_in):
            raise ValueError(f"rank={rank}: a matrix ({C_out}, {C_in}) has a rank from 1 to {min(C_out, C_in)}")
        A = (2 * torch.rand(rank, C_in, generator=generator) - 1) / C_in**0.5
        self.base, self.rank, self.alpha = base, rank, alpha
        self.A, self.B = nn.Parameter(A.to(base.weight)), nn.Parameter(base.weight.new_zeros(C_out, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C_in) -> (..., C_out)"""
        return self.base(x) + self.alpha / self.rank * (x @ self.A.mT @ self.B.mT)

    def change(self) -> Tensor:
        """What merging adds to the weights of the base: (C_out, C_in), of rank r at most."""
        return self.alpha / self.rank * self.B @ self.A


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def add_lora(
    model: nn.Module, rank: int, alpha: float = 32.0, targets: Collection[str] | None = None, seed: int = 0
) -> list[LoRALinear]:
    """Replace linear layers in place by LoRA layers and freeze all else; the output stays the same, bit for bit.

    `targets` are names such as "qkv_proj"; by default they are all but `lm_head`. Raises ValueError for a rank above a
    matrix, a target that is no linear layer with weights of its own, and for a second adapter.
    """
    if lora_layers(model):
        raise ValueError("the model has an adapter already: merge_lora(model) first")
    tied = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
              if isinstance(child, nn.Linear) and child.weight not in tied]  # fmt: skip
    names = {name for _, name, _ in linear}
    targets = names - {"lm_head"} if targets is None else set(targets)
    if not targets or not targets <= names:
        raise ValueError(f"targets={sorted(targets)}: the linear layers with weights of their own are {sorted(names)}")
    generator = torch.Generator().manual_seed(seed)
    found = [
        (parent, name, LoRALinear(child, rank, alpha, generator)) for parent, name, child in linear if name in targets
    ]
    model.requires_grad_(False)
    for parent, name, layer in found:
        setattr(parent, name, layer)
    return [layer for _, _, layer in found]


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add each change to its weights and put the linear layers back; every parameter can then be trained again."""
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, LoRALinear):
                layer.base.weight += layer.change()
                setattr(parent, name, layer.base)
    model.requires_grad_(True)


def describe_base(model: Any) -> dict[str, Any]:
    """By what a base model is recognized: its configuration, and the first number of each of its parameters."""
    base = [parameter for name, parameter in model.named_parameters() if not name.endswith((".A", ".B"))]
    return {"config": vars(model.config), "numbers": [parameter.flatten()[0].item() for parameter in base]}


def save_adapter(model: nn.Module, path: str | Path, **card: Any) -> None:
    """Write A and B of each layer as safetensors, atomically, with its sizes, its base and the facts in `card`."""
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no adapter: call add_lora first, and save before merge_lora")
    tensors = {f"{name}.{part}": getattr(layer, part).detach() for name, layer in layers.items() for part in "AB"}
    one, targets = next(iter(layers.values())), sorted({name.split(".")[-1] for name in layers})
    facts = card | {"rank": one.rank, "alpha": one.alpha, "targets": targets, "base": describe_base(model)}
    content = save(tensors, {"adapter": json.dumps(facts, ensure_ascii=False)})
    atomic_write(path, partial(Path.write_bytes, data=content))


@torch.no_grad()
def load_adapter(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Add the adapter at `path` to its base model and return its facts.

    Raises ValueError, with the model unchanged, for another model, a second adapter and a damaged file.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            facts = json.loads(stored.metadata()["adapter"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged or holds no adapter ({error!r:.200})") from error
    if facts["base"] != describe_base(model):
        raise ValueError(f"{path} belongs to another base model, in float32: {facts['base']['config']}")
    add_lora(model, facts["rank"], facts["alpha"], facts["targets"])
    for name, layer in lora_layers(model).items():
        layer.A.copy_(tensors[f"{name}.A"])
        layer.B.copy_(tensors[f"{name}.B"])
    return facts
