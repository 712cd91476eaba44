"""The model: blocks of attention and feed-forward on one residual path, from token ids to logits.

This is GPT-2's architecture (Radford et al. 2019): LayerNorm before each part, learned positions,
tanh-approximated GELU, biases everywhere, and one matrix used both to embed tokens and to score them.
The configuration can choose other positions.

B batch · T positions · C channels (n_embd) · V vocabulary
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptlib.attention import MultiHeadAttention, unturned
from gptlib.cache import NO_CACHE, Cache, LayerCache, NoCache
from gptlib.positions import ENCODINGS, embedding, rotate


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT. Raises ValueError when they cannot make a model.

    >>> GPTConfig(vocab_size=65, context_length=128, n_layer=4, n_head=4, n_embd=128).n_embd
    128
    """

    vocab_size: int
    context_length: int  # the most positions that the model is made for; learned ones have no further row
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    positions: str = "learned"  # or "sinusoidal", "rotary", "none"

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} cannot be shared equally by n_head={self.n_head}: choose a multiple of it"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.positions not in ENCODINGS:
            raise ValueError(f"positions must be one of {', '.join(ENCODINGS)}, got {self.positions!r}")
        if self.positions == "sinusoidal" and self.n_embd % 2:
            raise ValueError(f"sinusoidal positions pair the channels, and n_embd={self.n_embd} is odd: make it even")
        if self.positions == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"rotary positions pair a head's channels, and n_embd={self.n_embd} shared by n_head={self.n_head} "
                f"gives each {self.n_embd // self.n_head}: choose sizes that give an even number"
            )


class FeedForward(nn.Module):
    """What each position does on its own: widen four times, bend, narrow again (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, n_embd: int, dropout: float = 0.0):
        super().__init__()
        self.widen = nn.Linear(n_embd, 4 * n_embd)
        self.gelu = nn.GELU(approximate="tanh")  # Hendrycks & Gimpel 2016; GPT-2 uses the tanh form
        self.narrow = nn.Linear(4 * n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return self.dropout(self.narrow(self.gelu(self.widen(x))))


class Block(nn.Module):
    """One layer: positions communicate, then each computes; both add to the residual path."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, rotate: Callable = unturned):
        super().__init__()
        self.norm1 = nn.LayerNorm(n_embd)
        self.attention = MultiHeadAttention(n_embd, n_head, dropout, rotate=rotate)
        self.norm2 = nn.LayerNorm(n_embd)
        self.feed_forward = FeedForward(n_embd, dropout)

    def forward(self, x: Tensor, past: LayerCache | NoCache = NO_CACHE) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        x = x + self.attention(self.norm1(x), past)
        x = x + self.feed_forward(self.norm2(x))
        return x


class GPT(nn.Module):
    """Predicts the next token at every position.

    >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layer=2, n_head=2, n_embd=16))
    >>> model(torch.zeros(1, 8, dtype=torch.long)).shape
    torch.Size([1, 8, 65])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = embedding(config.positions, config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        turn = rotate if config.positions == "rotary" else unturned
        self.blocks = nn.Sequential(
            *(Block(config.n_embd, config.n_head, config.dropout, turn) for _ in range(config.n_layer))
        )
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight  # tied: Press & Wolf 2017
        self.initialise()

    def initialise(self) -> None:
        """GPT-2's start: normal weights of deviation 0.02, zero biases, quieter outputs into the residual path.

        Each block adds to the path twice, so 2 * n_layer sums of equal variance would grow it by √(2 * n_layer).
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                into_path = name.endswith(("project.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.n_layer) ** 0.5 if into_path else 0.02)

    def make_cache(self, batch_size: int, length: int | None = None) -> Cache:
        """An empty cache for `batch_size` texts of up to `length` positions, the whole context by default.

        Passed to `model(idx, cache)` again and again, each time with the tokens that are new, it spares the model the
        old ones. It takes 2 · n_layer · batch_size · length · n_embd numbers. Raises ValueError for other sizes.
        """
        c, like = self.config, self.token_embedding.weight
        length = c.context_length if length is None else length
        if batch_size < 1 or not 1 <= length <= c.context_length:
            raise ValueError(
                f"a cache of {batch_size} texts and {length} positions cannot be: "
                f"give at least one text and 1 to {c.context_length} positions"
            )
        shape = (batch_size, c.n_head, length, c.n_embd // c.n_head)
        return Cache(c.n_layer, *shape, dtype=like.dtype, device=like.device)

    def forward(self, idx: Tensor, cache: Cache | NoCache = NO_CACHE) -> Tensor:
        """idx (B, T), the tokens after those that `cache` holds -> logits (B, T, V)

        Raises ValueError for a text or an id that the model has no row for.
        """
        check_ids(idx, cache.length, self.config)
        positions = torch.arange(cache.length, cache.length + idx.shape[-1], device=idx.device)  # (T,)
        x = self.dropout(self.token_embedding(idx) + self.position_embedding(positions))  # (B, T, C)
        for block, past in zip(self.blocks, cache.layers):
            x = block(x, past)  # (B, T, C)
        return self.head(self.norm(x))  # (B, T, V)


def check_ids(idx: Tensor, read: int, config: GPTConfig) -> None:
    """Raises ValueError when `idx`, after `read` tokens, passes the context, or holds an id outside the vocabulary."""
    T = read + idx.shape[-1]
    if config.positions == "learned" and T > config.context_length:
        raise ValueError(
            f"{T} tokens do not fit the model's context of {config.context_length}: "
            f"pass the last ones, idx[:, -{config.context_length}:]" + (", with an empty cache" if read else "")
        )
    # Looking at the ids on a GPU would make the processor wait for it at every step; there PyTorch itself stops.
    if idx.device.type == "cpu" and idx.numel() and not (0 <= idx.min() and idx.max() < config.vocab_size):
        wrong = idx[(idx < 0) | (idx >= config.vocab_size)][0].item()
        raise ValueError(
            f"token id {wrong} is outside the vocabulary 0…{config.vocab_size - 1}: "
            "was the text encoded with the tokenizer that belongs to this model?"
        )
