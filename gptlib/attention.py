"""Attention: each position computes a weighted average of the values of the positions that it attends to.

B batch · T positions · S positions attended to · C channels (n_embd) · H heads · D channels per head (C = H * D)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.positions import Rotation, rotate


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Which of S positions each of the last T may attend to: (T, S), true for itself and everything before it.

    >>> causal_mask(2, 3)
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def attention_weights(q: Tensor, k: Tensor, causal: bool = True, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D), 0 for the future when `causal` and where `mask` is false (Vaswani et al. 2017, equation 1).

    q (..., T, D), k (..., S, D) -> (..., T, S); rows sum to 1. The queries belong to the last T of S positions.
    """
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (..., T, S)
    if causal:
        mask = causal_mask(q.shape[-2], k.shape[-2], q.device) & (True if mask is None else mask)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1)


class Attend(nn.Module):
    """`attention_weights(q, k) @ v` by PyTorch's fused kernel: a module without parameters, which `probe` can hook."""

    def __init__(self, causal: bool = True, dropout: float = 0.0):
        super().__init__()
        self.causal, self.dropout = causal, dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (..., T, D), k and v (..., S, D), mask (..., T, S) true where a query may attend -> (..., T, D)"""
        T, S = q.shape[-2], k.shape[-2]
        square = self.causal and mask is None and T == S  # the kernel makes this mask itself
        if self.causal and T > 1 and not square:  # a single query, the last one, attends to everything before it
            mask = causal_mask(T, S, q.device) & (True if mask is None else mask)
        return F.scaled_dot_product_attention(q, k, v, mask, self.dropout * self.training, is_causal=square)


class KVCache:
    """The keys and values of one layer for the positions processed so far; `shape` is (..., capacity, D)."""

    def __init__(self, *shape: int, dtype: torch.dtype | None = None, device: torch.device | None = None):
        self.keys = torch.empty(shape, dtype=dtype, device=device)  # all at once: nothing is copied as the text grows
        self.values = torch.empty_like(self.keys)
        self.length = 0  # positions stored

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (..., T, D) of the next T positions; return those of all positions so far, each (..., S, D)."""
        start, end = self.length, self.length + k.shape[-2]
        if self.keys[..., start:end, :].shape != k.shape:
            raise ValueError(f"keys {tuple(k.shape)} do not fit a cache {tuple(self.keys.shape)} of length {start}")
        if k.requires_grad:
            raise ValueError("a cache stores no gradients: call the model under torch.no_grad(), or without a cache")
        self.keys[..., start:end, :], self.values[..., start:end, :] = k, v
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :]


class Linear(nn.Linear):
    """`nn.Linear`, faster on a CPU for a large W and at most four rows, as in decoding: (W xᵀ)ᵀ reads W in order."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C_in) -> (..., C_out)"""
        n, large = x.numel() // self.in_features, self.weight.numel() > 2**18 and self.out_features >= self.in_features
        if not (large and 0 < n <= 4 and x.device.type == "cpu"):
            return super().forward(x)
        rows = torch.cat([x.reshape(n, -1)] * (2 if n == 1 else 1))  # the routines for one column are slow
        y = (self.weight @ rows.mT).mT[:n].unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


class Head(nn.Module):
    """One head of self-attention: queries say what is looked for, keys what is offered, values what is passed on."""

    def __init__(self, n_embd: int, head_size: int, causal: bool = True):
        super().__init__()
        self.query = nn.Linear(n_embd, head_size)
        self.key = nn.Linear(n_embd, head_size)
        self.value = nn.Linear(n_embd, head_size)
        self.attend = Attend(causal)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, D)"""
        q, k, v = self.query(x), self.key(x), self.value(x)  # each (B, T, D)
        if cache is not None:
            k, v = cache.append(k, v)  # each (B, S, D)
        return self.attend(q, k, v)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Give each head its share of the channels: (B, T, C) -> (B, H, T, D)."""
    return x.unflatten(-1, (n_head, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Concatenate the heads' channels again: (B, H, T, D) -> (B, T, C)."""
    return x.transpose(-3, -2).flatten(-2)


class MultiHeadAttention(nn.Module):
    """`n_head` heads in parallel, then a projection that mixes them (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, causal: bool = True):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd={n_embd} is not a multiple of n_head={n_head}: every head needs as many channels")
        self.n_head = n_head
        self.qkv_proj = Linear(n_embd, 3 * n_embd)  # the projections of all heads in one matrix
        self.attend = Attend(causal, dropout)
        self.out_proj = Linear(n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None,
        rotation: Rotation | None = None, cache: KVCache | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, T, C), mask (B, 1, 1 or T, S) -> (B, T, C); cross-attention where a `context` (B, S, C) is given."""
        q, k, v = self.project(x, context)  # (B, T, C), (B, S, C), (B, S, C); S = T without a context
        q, k, v = (split_heads(part, self.n_head) for part in (q, k, v))  # each (B, H, ..., D)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.append(k, v)  # each (B, H, S, D)
        heads = self.attend(q, k, v, mask)  # (B, H, T, D)
        return self.dropout(self.out_proj(merge_heads(heads)))  # (B, T, C)

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """Queries from x; keys and values from x too, or from `context`."""
        if context is None:
            return self.qkv_proj(x).chunk(3, dim=-1)
        if self.attend.causal:
            raise ValueError("a context has no order relative to x: build cross-attention with causal=False")
        q, k, v = zip(self.qkv_proj.weight.chunk(3), self.qkv_proj.bias.chunk(3), strict=True)  # each (weight, bias)
        return F.linear(x, *q), F.linear(context, *k), F.linear(context, *v)
