"""Positions: how order gets in. Attention alone hears a bag of tokens; each way here tells it where they stand.

    learned     a trained row for each place, added to the token's row: an nn.Embedding (Radford et al. 2018)
    sinusoidal  such rows by a formula, for any place (Vaswani et al. 2017)
    rotary      nothing added; queries and keys are turned by an angle that grows with their place (Su et al. 2021)
    none        nothing at all; what order is left comes from the causal mask

A place is a number 0, 1, 2, …: all of these can begin anywhere, so that a text may be continued.

B batch · T positions · C channels (n_embd) · D channels a head
"""

import torch
from torch import Tensor, nn

ENCODINGS = ("learned", "sinusoidal", "rotary", "none")
BASE = 10_000.0  # the slowest pair of channels needs about 2π · BASE positions for one turn


def angles(positions: Tensor, channels: int, base: float = BASE, dtype: torch.dtype = torch.float32) -> Tensor:
    """How far each pair of channels has turned at each position: position · base^(-2i / channels), in radians.

    positions (...) -> (..., channels / 2): pair 0 turns fastest, one radian a position. Vaswani et al. 2017, section
    3.5. Raises ValueError when the channels cannot be paired.

    >>> angles(torch.tensor([0, 1, 2]), channels=4)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])
    """
    if channels % 2:
        raise ValueError(f"{channels} channels cannot be paired, one sine with one cosine: choose an even number")
    pair = torch.arange(channels // 2, dtype=dtype, device=positions.device)
    return positions[..., None] * base ** (-2 * pair / channels)


def sinusoid(positions: Tensor, n_embd: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A row for each position, without anything learned: sine and cosine of one angle side by side, pair after pair.

    positions (T,) -> (T, C). Vaswani et al. 2017, section 3.5. Raises ValueError when `n_embd` is odd.
    """
    turned = angles(positions, n_embd, dtype=dtype)  # (T, C / 2)
    return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(-2)


def rotate(x: Tensor, positions: Tensor | None = None, base: float = BASE) -> Tensor:
    """Turn each pair of channels of a query or key by the angle of its position, so that scores see distance alone.

    x (..., T, D) -> (..., T, D). `positions` (T,) are 0 … T - 1 unless given; any shape that fits x's (..., T) will do.
    Su et al. 2021, section 3.2. The paper pairs neighbours, channels 2i and 2i + 1. Here channel i of the first half is
    paired with channel i of the second, as `transformers` does for LLaMA and its kin: the same up to a reordering of
    the channels, which learned projections take in their stride.
    Raises ValueError when the head size D is odd.
    """
    if positions is None:
        positions = torch.arange(x.shape[-2], device=x.device)
    exact = torch.promote_types(x.dtype, torch.float32)  # half a number's digits are too few for an angle
    turned = angles(positions, x.shape[-1], base, exact)  # (T, D / 2)
    cos, sin = turned.cos(), turned.sin()
    first, second = x.chunk(2, dim=-1)  # each (..., T, D / 2)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


class Sinusoidal(nn.Module):
    """What stands in the place of a learned table: the sinusoid, as quiet beside the tokens as in the paper.

    There token rows reach the sum with deviation 1 and the waves with height 1. A GPT's rows start at deviation 0.02,
    so the waves get height 0.02. Unscaled they would drown what the tokens say.
    """

    def __init__(self, n_embd: int, height: float = 0.02):
        super().__init__()
        self.n_embd = n_embd
        self.height = height
        self.register_buffer("like", torch.empty(0), persistent=False)  # follows the model to its type of number

    def forward(self, positions: Tensor) -> Tensor:
        """positions (T,) -> (T, C)"""
        exact = torch.promote_types(self.like.dtype, torch.float32)
        return (self.height * sinusoid(positions, self.n_embd, exact)).to(self.like.dtype)


class Nothing(nn.Module):
    """What stands in the place of a learned table when nothing is added to the tokens."""

    def forward(self, positions: Tensor) -> Tensor:
        """positions (T,) -> zeros (T, 1)"""
        return torch.zeros_like(positions)[..., None]  # whole numbers: they leave the tokens' type of number as it is


def embedding(encoding: str, context_length: int, n_embd: int) -> nn.Module:
    """The rows that `encoding` adds to the tokens', as a module: positions (T,) -> (T, C), or zeros (T, 1)."""
    if encoding == "learned":
        return nn.Embedding(context_length, n_embd)
    return Sinusoidal(n_embd) if encoding == "sinusoidal" else Nothing()
