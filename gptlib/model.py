"""GPT-2's architecture (Radford et al. 2019): pre-norm blocks on one residual stream, from token ids to logits.

B batch · T positions · C channels (n_embd) · V vocabulary
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptlib.attention import KVCache, Linear, MultiHeadAttention
from gptlib.positions import Rotation, rotation, sinusoid

POSITION_ENCODINGS = ("learned", "sinusoidal", "rotary", "none")


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT. Raises ValueError when no model can have them."""

    vocab_size: int
    context_length: int  # n_ctx, block_size: the most positions that the model is trained on
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    position_encoding: str = "learned"

    def __post_init__(self):
        if min(self.vocab_size, self.context_length, self.n_layer, self.n_head, self.n_embd) < 1:
            raise ValueError(f"{self}: every size must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")
        if self.position_encoding not in POSITION_ENCODINGS:
            raise ValueError(f"position_encoding={self.position_encoding!r}: choose from {POSITION_ENCODINGS}")
        paired = {"sinusoidal": self.n_embd, "rotary": self.n_embd // self.n_head}.get(self.position_encoding, 0)
        if paired % 2:
            raise ValueError(f"{self.position_encoding} positions pair channels, and {paired} is odd: change n_embd")


class FeedForward(nn.Module):
    """The MLP at each position: project up, activation function, project down (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, n_embd: int, dropout: float = 0.0):
        super().__init__()
        self.up_proj = Linear(n_embd, 4 * n_embd)
        self.activation = nn.GELU(approximate="tanh")  # Hendrycks & Gimpel 2016; GPT-2 uses the tanh form
        self.down_proj = Linear(4 * n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return self.dropout(self.down_proj(self.activation(self.up_proj(x))))


class Block(nn.Module):
    """One layer: attention, then feed-forward; each is normalized before and added to the residual stream after."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(n_embd)
        self.attention = MultiHeadAttention(n_embd, n_head, dropout)
        self.norm2 = nn.LayerNorm(n_embd)
        self.feed_forward = FeedForward(n_embd, dropout)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        x = x + self.attention(self.norm1(x), rotation=rotation, cache=cache)
        x = x + self.feed_forward(self.norm2(x))
        return x


class GPT(nn.Module):
    """A decoder-only Transformer: logits of the next token at every position."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = c = config
        self.token_embedding = nn.Embedding(c.vocab_size, c.n_embd)
        if c.position_encoding == "learned":
            self.position_embedding = nn.Embedding(c.context_length, c.n_embd)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList([Block(c.n_embd, c.n_head, c.dropout) for _ in range(c.n_layer)])
        self.final_norm = nn.LayerNorm(c.n_embd)
        self.lm_head = Linear(c.n_embd, c.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # tied: Press & Wolf 2017
        init_weights(self, c.n_layer)

    def make_cache(self, batch_size: int, length: int | None = None) -> list[KVCache]:
        """An empty cache per layer for `batch_size` sequences of up to `length` positions (the context by default)."""
        c, like = self.config, self.token_embedding.weight
        length = c.context_length if length is None else length
        if batch_size < 1 or not 1 <= length <= c.context_length:
            raise ValueError(f"no cache can hold {batch_size} × {length} positions: the context is {c.context_length}")
        shape = (batch_size, c.n_head, length, c.n_embd // c.n_head)
        return [KVCache(*shape, dtype=like.dtype, device=like.device) for _ in self.blocks]

    def forward(self, idx: Tensor, cache: list[KVCache] | None = None) -> Tensor:
        """idx (B, T) -> logits (B, T, V); with a cache, idx are the tokens after those stored in it."""
        c, start = self.config, cache[0].length if cache else 0
        check_ids(idx, start, c)
        positions = torch.arange(start, start + idx.shape[-1], device=idx.device)  # (T,)
        x = self.token_embedding(idx)  # (B, T, C)
        dtype, turn = torch.promote_types(x.dtype, torch.float32), None  # float16 is too coarse for large angles
        if c.position_encoding == "learned":
            x = x + self.position_embedding(positions)
        elif c.position_encoding == "sinusoidal":  # scaled to the standard deviation of the token embedding
            x = x + (0.02 * sinusoid(positions, c.n_embd, dtype)).to(x.dtype)
        elif c.position_encoding == "rotary":
            turn = rotation(positions, c.n_embd // c.n_head, dtype=dtype)
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, cache[layer] if cache else None)  # (B, T, C)
        return self.lm_head(self.final_norm(x))  # (B, T, V)


def init_weights(model: nn.Module, n_layer: int) -> None:
    """GPT-2's: std 0.02, zero biases; 1 / √(2 n_layer) of it in the 2 n_layer additions to the residual stream."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            residual = name.endswith(("out_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * n_layer) ** 0.5 if residual else 0.02)


def check_ids(idx: Tensor, start: int, config: Any) -> None:
    """Raises ValueError when `idx`, after `start` positions, exceeds the context, or holds no ids of the vocabulary."""
    end, context, V = start + idx.shape[-1], config.context_length, config.vocab_size
    if config.position_encoding == "learned" and end > context:
        hint = f"pass the last ones, idx[:, -{context}:]" + (", with an empty cache" if start else "")
        raise ValueError(f"{end} tokens do not fit the model's context of {context}: {hint}")
    # On a GPU, PyTorch checks the ids itself; looking at them here would make the CPU wait for the GPU at every step.
    if idx.device.type == "cpu" and idx.numel() and not (0 <= idx.min() and idx.max() < V):
        wrong = idx[(idx < 0) | (idx >= V)][0].item()
        raise ValueError(f"token id {wrong} is outside the vocabulary 0…{V - 1}: is this its tokenizer?")
