"""Cache: what attention has computed for the positions read so far, kept so that each is computed once.

A key and a value depend on the past alone, and the past of a text does not change as the text grows.

B batch · H heads · S positions read so far · T new positions · D channels a head
"""

from itertools import repeat

import torch
from torch import Tensor


class LayerCache:
    """Room for the keys and values of one layer, filled position by position: what was computed once is kept.

    `shape` (..., capacity, D): (B, H, capacity, D) for many heads, (B, capacity, D) for one. All of the memory is
    taken at the start, so that nothing is copied as the text grows.
    """

    def __init__(self, *shape: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None):
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v (..., T, D) of the next T positions, and return those of all so far: two (..., length, D).

        Raises ValueError when they do not fit, or carry gradients: a cache is for drawing text, not for training.
        """
        start, end = self.length, self.length + k.shape[-2]
        room = self.keys[..., start:end, :]
        if room.shape != k.shape:
            raise ValueError(
                f"keys of shape {tuple(k.shape)} do not fit a cache of {tuple(self.keys.shape)} that holds {start} "
                "positions: make it for as many texts and positions as you read, or clear it"
            )
        if k.requires_grad:
            raise ValueError("a cache keeps no gradients: call the model under torch.no_grad(), or without a cache")
        room.copy_(k)
        self.values[..., start:end, :] = v
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :]


class Cache:
    """The keys and values of every layer of a model. `GPT.make_cache` makes one of the right size."""

    def __init__(self, n_layer: int, *shape: int, dtype: torch.dtype | None = None, device=None):
        self.layers = [LayerCache(*shape, dtype=dtype, device=device) for _ in range(n_layer)]

    @property
    def length(self) -> int:
        """How many positions have been read."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """The memory taken, in bytes: 2 · layers · B · H · capacity · D numbers."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def clear(self) -> None:
        """Forget every position, and keep the room."""
        for layer in self.layers:
            layer.length = 0


class NoCache:
    """Keeps nothing and hands back what it is given, for a model and for each layer: every text is read whole."""

    length = 0

    @property
    def layers(self):
        return repeat(self)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


NO_CACHE = NoCache()
