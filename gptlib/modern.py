"""The architecture that most open models have shared since Llama (Touvron et al. 2023), to be read beside `model`.

RMSNorm replaces LayerNorm, rotary positions the table of positions, and SwiGLU the feed-forward layer with GELU;
several query heads share a key and a value head; no layer has a bias, and there is no dropout.

B batch · T positions · S positions attended to · C channels (n_embd) · H query heads · G key and value heads
D channels per head · V vocabulary
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.attention import Attend, KVCache, Linear, merge_heads, split_heads
from gptlib.model import check_ids, init_weights
from gptlib.positions import BASE, Rotation, rotate, rotation


@dataclass(frozen=True)
class ModernConfig:
    """The sizes of a ModernGPT and its few options. Raises ValueError when no model can have them."""

    vocab_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_kv_head: int  # as many as n_head: multi-head attention; 1: multi-query attention
    n_embd: int
    n_hidden: int  # of the feed-forward layer; a SwiGLU of 8/3 n_embd has as many parameters as GPT-2's
    activation: str = "swiglu"
    rotary_base: float = BASE
    norm_eps: float = 1e-5
    tied: bool = True  # one matrix embeds the tokens and computes the logits
    qk_norm: bool = False  # RMSNorm of each query and key (Henry et al. 2020; Qwen3)
    soft_cap: float | None = None  # keeps logits between -soft_cap and soft_cap (Gemma 2)
    position_encoding = "rotary"  # the only one here, so not a field

    def __post_init__(self):
        if min(size for size in vars(self).values() if type(size) is int) < 1:
            raise ValueError(f"{self}: every size must be at least 1")
        if self.n_embd % self.n_head or self.n_embd // self.n_head % 2:
            raise ValueError(f"n_embd={self.n_embd} is no even number of channels for each of n_head={self.n_head}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head={self.n_head} is not a multiple of n_kv_head={self.n_kv_head}")
        if self.activation not in FEED_FORWARD:
            raise ValueError(f"activation={self.activation!r}: choose from {tuple(FEED_FORWARD)}")
        if not (self.rotary_base > 0 and self.norm_eps > 0 and (self.soft_cap is None or self.soft_cap > 0)):
            raise ValueError(f"{self}: rotary_base, norm_eps and soft_cap must be positive (no soft_cap is None)")


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight: LayerNorm without its mean and its bias (Zhang & Sennrich 2019)."""

    def __init__(self, n_embd: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n_embd)), eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)"""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # float16 has no squares above 65,504
        return (wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype) * self.weight


class GroupedQueryAttention(nn.Module):
    """`MultiHeadAttention` in which groups of query heads share a key and a value head (Ainslie et al. 2023)."""

    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, qk_norm: bool = False, eps: float = 1e-5):
        super().__init__()
        if n_embd % n_head or n_head % n_kv_head:
            raise ValueError(f"n_embd={n_embd}, n_head={n_head}, n_kv_head={n_kv_head}: each is a multiple of the next")
        self.n_head, self.n_kv_head, head_size = n_head, n_kv_head, n_embd // n_head
        self.qkv_proj = Linear(n_embd, (n_head + 2 * n_kv_head) * head_size, bias=False)
        self.q_norm = RMSNorm(head_size, eps) if qk_norm else None
        self.k_norm = RMSNorm(head_size, eps) if qk_norm else None
        self.attend = Attend()
        self.out_proj = Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor, *, rotation: Rotation | None = None, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        H, G = self.n_head, self.n_kv_head
        q, k, v = split_heads(self.qkv_proj(x), H + 2 * G).split([H, G, G], dim=1)  # (B, H, T, D), two (B, G, T, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.append(k, v)  # each (B, G, S, D)
        k, v = repeat_heads(k, H // G), repeat_heads(v, H // G)  # each (B, H, S, D)
        return self.out_proj(merge_heads(self.attend(q, k, v)))  # (B, T, C)


def repeat_heads(x: Tensor, n: int) -> Tensor:
    """Each head n times in a row, for the n query heads that share it: (B, G, S, D) -> (B, n G, S, D)."""
    return x[:, :, None].expand(-1, -1, n, -1, -1).flatten(1, 2)


class SwiGLU(nn.Module):
    """A feed-forward layer with two up-projections: SiLU of one is multiplied with the other (Shazeer 2020)."""

    def __init__(self, n_embd: int, n_hidden: int):
        super().__init__()
        self.gate_proj, self.up_proj = (Linear(n_embd, n_hidden, bias=False) for _ in range(2))
        self.down_proj = Linear(n_hidden, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SquaredReLU(nn.Module):
    """A feed-forward layer like GPT-2's, with max(0, x)² as the activation function (So et al. 2021)."""

    def __init__(self, n_embd: int, n_hidden: int):
        super().__init__()
        self.up_proj = Linear(n_embd, n_hidden, bias=False)
        self.down_proj = Linear(n_hidden, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return self.down_proj(F.relu(self.up_proj(x)).square())


FEED_FORWARD = {"swiglu": SwiGLU, "relu2": SquaredReLU}


class ModernBlock(nn.Module):
    """One layer: attention, then feed-forward; each is normalized before and added to the residual stream after."""

    def __init__(self, c: ModernConfig):
        super().__init__()
        self.norm1 = RMSNorm(c.n_embd, c.norm_eps)
        self.attention = GroupedQueryAttention(c.n_embd, c.n_head, c.n_kv_head, c.qk_norm, c.norm_eps)
        self.norm2 = RMSNorm(c.n_embd, c.norm_eps)
        self.feed_forward = FEED_FORWARD[c.activation](c.n_embd, c.n_hidden)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        x = x + self.attention(self.norm1(x), rotation=rotation, cache=cache)
        x = x + self.feed_forward(self.norm2(x))
        return x


class ModernGPT(nn.Module):
    """A decoder-only Transformer of today: logits of the next token at every position."""

    def __init__(self, config: ModernConfig):
        super().__init__()
        self.config = c = config
        self.token_embedding = nn.Embedding(c.vocab_size, c.n_embd)
        self.blocks = nn.ModuleList([ModernBlock(c) for _ in range(c.n_layer)])
        self.final_norm = RMSNorm(c.n_embd, c.norm_eps)
        self.lm_head = Linear(c.n_embd, c.vocab_size, bias=False)
        if c.tied:
            self.lm_head.weight = self.token_embedding.weight
        init_weights(self, c.n_layer)

    def make_cache(self, batch_size: int, length: int | None = None) -> list[KVCache]:
        """An empty cache per layer for `batch_size` sequences of up to `length` positions (the context by default)."""
        c, like = self.config, self.token_embedding.weight
        length = c.context_length if length is None else length
        if batch_size < 1 or not 1 <= length <= c.context_length:
            raise ValueError(f"no cache can hold {batch_size} × {length} positions: the context is {c.context_length}")
        shape = (batch_size, c.n_kv_head, length, c.n_embd // c.n_head)
        return [KVCache(*shape, dtype=like.dtype, device=like.device) for _ in self.blocks]

    def forward(self, idx: Tensor, cache: list[KVCache] | None = None) -> Tensor:
        """idx (B, T) -> logits (B, T, V); with a cache, idx are the tokens after those stored in it."""
        c, start = self.config, cache[0].length if cache else 0
        check_ids(idx, start, c)
        positions = torch.arange(start, start + idx.shape[-1], device=idx.device)  # (T,)
        x = self.token_embedding(idx)  # (B, T, C)
        dtype = torch.promote_types(x.dtype, torch.float32)  # float16 is too coarse for large angles
        turn = rotation(positions, c.n_embd // c.n_head, c.rotary_base, dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, cache[layer] if cache else None)  # (B, T, C)
        logits = self.lm_head(self.final_norm(x))  # (B, T, V)
        return logits if c.soft_cap is None else c.soft_cap * (logits / c.soft_cap).tanh()
