"""Probe: look inside a model from outside, with hooks. The model itself has no code for it and pays nothing.

B batch · T positions · H heads · C channels
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from gptlib.attention import Attend, attention_weights


@contextmanager
def attention(model: nn.Module, name: str = "") -> Iterator[list[Tensor]]:
    """Record the attention weights of every layer during the latest forward pass of `model`.

    Yields a list that the forward pass fills: one tensor (B, H, T, T) per layer, first layer first; (B, T, T) for a
    single `Head`; (B, H, T, S + T) after a cache of S positions. They are computed from the queries and keys, without
    dropout. Only layers with `name` in their name in the model, such as "cross_attention". ValueError if there is none.

        with probe.attention(model) as maps:
            model(idx)
        maps[0]  # (B, H, T, T)
    """

    def weights(core: Attend, inputs: tuple, out: Tensor) -> Tensor:
        return attention_weights(inputs[0].detach(), inputs[1].detach(), core.causal, *inputs[3:])

    with _recording(model, Attend, weights, name) as maps:
        yield maps


@contextmanager
def record(model: nn.Module, kind: type[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the output of every module of this `kind` during the latest forward pass, in the order of the model.

    Raises ValueError when the model has none.

        with probe.record(model, Block) as residual:
            model(idx)
        residual[-1]  # (B, T, C): the residual stream after the last block
    """
    with _recording(model, kind, lambda module, inputs, out: out.detach()) as outputs:
        yield outputs


@contextmanager
def patch(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of `module` by `change(output)` in every forward pass inside.

    On leaving, by an error too, the module is as it was.

        with probe.patch(model.blocks[2].attention, torch.zeros_like):
            model(idx)  # without what this layer's attention adds to the residual stream
    """
    hook = module.register_forward_hook(lambda module, inputs, out: change(out))
    try:
        with _eager():
            yield
    finally:
        hook.remove()


@contextmanager
def _recording(model: nn.Module, kind: type[nn.Module], value: Callable, part: str = "") -> Iterator[list[Tensor]]:
    modules = [module for name, module in model.named_modules() if isinstance(module, kind) and part in name]
    if not modules:
        raise ValueError(
            f"{type(model).__name__} contains no {kind.__name__} to record" + f" in any {part!r}" * bool(part)
        )
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple, named: dict, out: Tensor) -> None:
        if module is modules[0]:
            found.clear()
        found.append(value(module, (*inputs, *named.values()), out))

    hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with _eager():
            yield found
    finally:
        for one in hooks:
            one.remove()


def _eager():
    """A compiled model would skip new hooks: inside, `torch.compile` has no effect (from PyTorch 2.6 on)."""
    return torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
