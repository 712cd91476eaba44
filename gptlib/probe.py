"""Probe: see inside a model from outside. The model runs its fast path and holds no trace of being watched.

B batch · T positions · H heads · D channels a head
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from gptlib.attention import Attend, attention_weights


@contextmanager
def attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention weights of every layer during one forward pass of `model`.

    Yields a list that the forward pass fills: one tensor (B, H, T, T) for each layer, first layer first; (B, T, T)
    for a single `Head`. A pass that reads on from a cache of S positions fills it with the rows of its T new ones,
    (B, H, T, S + T). A second forward pass starts the list anew. The weights are computed from the queries and
    keys that reach the attention core, on their way; dropout on the weights is not part of them. On leaving, by an
    error too, every hook is removed. Raises ValueError when the model has no attention to watch.

        with probe.attention(model) as maps:
            model(idx)
        maps[0]  # (B, H, T, T)
    """
    cores = [module for module in model.modules() if isinstance(module, Attend)]
    if not cores:
        raise ValueError(f"{type(model).__name__} has no attention to watch: it must use gptlib's Attend")
    maps: list[Tensor] = []

    def record(core: Attend, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        q, k, v = inputs
        if core is cores[0]:
            maps.clear()
        maps.append(attention_weights(q.detach(), k.detach(), core.causal))

    hooks = [core.register_forward_hook(record) for core in cores]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
