"""Position encodings by formula: sinusoidal, and rotary. (A learned one is a table of parameters: see `model`.)

T positions · C channels (n_embd) · D channels per head
"""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cosines and sines
BASE = 10_000.0  # the slowest pair of channels turns once in about 2π · BASE positions


def angles(positions: Tensor, channels: int, base: float = BASE, dtype: torch.dtype = torch.float32) -> Tensor:
    """The angle of each pair of channels i at each position: position · base^(-2i / channels), in radians.

    positions (...) -> (..., channels / 2). Vaswani et al. 2017, section 3.5. Raises ValueError for odd `channels`.
    """
    if channels % 2:
        raise ValueError(f"{channels} channels cannot be split into pairs: choose an even number")
    pair = torch.arange(channels // 2, dtype=dtype, device=positions.device)
    return positions[..., None] * base ** (-2 * pair / channels)


def sinusoid(positions: Tensor, n_embd: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The sine and the cosine of each angle in turn: positions (T,) -> (T, C). Vaswani et al. 2017, section 3.5."""
    a = angles(positions, n_embd, dtype=dtype)  # (T, C / 2)
    return torch.stack([a.sin(), a.cos()], dim=-1).flatten(-2)


def rotation(positions: Tensor, head_size: int, base: float = BASE, dtype: torch.dtype = torch.float32) -> Rotation:
    """The cosine and the sine of each angle, for `rotate`: positions (T,) -> two tensors (T, D / 2)."""
    a = angles(positions, head_size, base, dtype)
    return a.cos(), a.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: turn each pair of channels of x (..., T, D) by its angle -> (..., T, D). Su et al. 2021, 3.2.

    Scores between rotated queries and keys depend on the distance of their positions only. The paper pairs the channels
    2i and 2i + 1; here channel i of the first half is paired with channel i of the second, as in Llama.
    """
    first, second = x.chunk(2, dim=-1)  # each (..., T, D / 2)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
