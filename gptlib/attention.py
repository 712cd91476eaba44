"""Attention: each position gathers what it needs from the positions before it.

A position asks (query), every position offers (key) and gives (value). A head is one such exchange;
multi-head attention is several side by side, each on its own share of the channels.

B batch · T positions · C channels (n_embd) · H heads · D channels a head (C = H * D)
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.cache import NO_CACHE, LayerCache, NoCache


def attention_weights(q: Tensor, k: Tensor, causal: bool = True) -> Tensor:
    """How strongly each query attends to each key: softmax(q kᵀ / √D), the future left out when `causal`.

    q (..., T, D), k (..., S, D) -> (..., T, S); every row sums to 1. Usually S = T. With more keys than queries, the
    queries stand at the last T of the S positions. Vaswani et al. 2017, equation 1.

    >>> attention_weights(torch.zeros(2, 4), torch.zeros(2, 4))
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    (T, D), S = q.shape[-2:], k.shape[-2]
    scores = q @ k.mT / math.sqrt(D)  # (..., T, S)
    if causal:
        future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(1 + S - T)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(dim=-1)


class Attend(nn.Module):
    """The core of attention, without parameters: mix the values by the weights of queries and keys.

    PyTorch's fused kernel never stores the (T, T) weights. Every q and k passes through here,
    so `probe.attention` can watch from outside.
    """

    def __init__(self, causal: bool = True, dropout: float = 0.0):
        super().__init__()
        self.causal = causal
        self.dropout = dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (..., T, D), k, v (..., S, D) -> (..., T, D); when causal, q stands at the last T of the S positions."""
        T, S = q.shape[-2], k.shape[-2]
        dropout = self.dropout if self.training else 0.0
        if not self.causal or T == S or T == 1:  # a single last position sees all: nothing to mask
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal and T == S)
        past = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)  # the kernel's own mask starts at 0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=past, dropout_p=dropout)


class Head(nn.Module):
    """One head of self-attention: project to queries, keys and values, then attend."""

    def __init__(self, n_embd: int, head_size: int, causal: bool = True):
        super().__init__()
        self.query = nn.Linear(n_embd, head_size)
        self.key = nn.Linear(n_embd, head_size)
        self.value = nn.Linear(n_embd, head_size)
        self.attend = Attend(causal)

    def forward(self, x: Tensor, past: LayerCache | NoCache = NO_CACHE) -> Tensor:
        """x (B, T, C) -> (B, T, D)"""
        k, v = past.append(self.key(x), self.value(x))  # each (B, S, D)
        return self.attend(self.query(x), k, v)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Give each head its share of the channels: (B, T, C) -> (B, H, T, D)."""
    return x.unflatten(-1, (n_head, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads' channels side by side again: (B, H, T, D) -> (B, T, C)."""
    return x.transpose(-3, -2).flatten(-2)


def unturned(x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Leave queries and keys as they are; `positions.rotate` in its place turns them."""
    return x


class MultiHeadAttention(nn.Module):
    """Several heads in one pair of matrix products: one makes every query, key and value, one mixes the results.

    The same as `n_head` copies of `Head` side by side, followed by a projection (Vaswani et al. 2017, section 3.2.2).
    `rotate(x, positions)` turns queries and keys by their place before they meet; it does nothing unless given.
    Raises ValueError when `n_head` does not divide `n_embd`.
    """

    def __init__(
        self, n_embd: int, n_head: int, dropout: float = 0.0, causal: bool = True, rotate: Callable = unturned
    ):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd={n_embd} cannot be shared equally by n_head={n_head}: choose a multiple of it")
        self.n_head = n_head
        self.rotate = rotate
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.attend = Attend(causal, dropout)
        self.project = nn.Linear(n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: LayerCache | NoCache = NO_CACHE) -> Tensor:
        """x (B, T, C), at the positions after those that `past` holds -> (B, T, C)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, T, C)
        q, k, v = (split_heads(part, self.n_head) for part in (q, k, v))  # each (B, H, T, D)
        positions = torch.arange(past.length, past.length + x.shape[-2], device=x.device)  # (T,)
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        k, v = past.append(k, v)  # each (B, H, S, D): the S positions so far
        heads = self.attend(q, k, v)  # (B, H, T, D)
        return self.dropout(self.project(merge_heads(heads)))  # (B, T, C)
