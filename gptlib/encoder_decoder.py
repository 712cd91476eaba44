"""The Transformer of Vaswani et al. 2017 in pre-norm form: an encoder reads a source, a decoder writes a target.

`model` is a decoder alone; here each of the decoder's layers also attends to the encoder's output (cross-attention).
B batch · S source positions · T target positions · C channels (n_embd) · V vocabulary · N sequences in a beam
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.attention import MultiHeadAttention
from gptlib.model import FeedForward, GPTConfig, check_ids, init_weights
from gptlib.sampling import check_number, evaluating


@dataclass(frozen=True)
class EncoderDecoderConfig(GPTConfig):
    """The sizes of the encoder, which the decoder shares, and the ids of padding, start and end."""

    pad: int = 0
    start: int = 1
    end: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.position_encoding != "learned" or len({self.pad, self.start, self.end} & {*range(self.vocab_size)}) < 3:
            raise ValueError(f"{self}: positions are learned; pad, start and end are three ids below vocab_size")


class EncoderBlock(nn.Module):
    """One layer of the encoder: self-attention without the causal mask, then feed-forward."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.self_attention = MultiHeadAttention(n_embd, n_head, dropout, causal=False)
        self.feed_forward = FeedForward(n_embd, dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, S, C), mask (B, 1, 1, S) -> (B, S, C)"""
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm2(x))


class DecoderBlock(nn.Module):
    """One layer of the decoder: causal self-attention, cross-attention to the encoder's output, then feed-forward."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(n_embd) for _ in range(3))
        self.self_attention = MultiHeadAttention(n_embd, n_head, dropout)
        self.cross_attention = MultiHeadAttention(n_embd, n_head, dropout, causal=False)
        self.feed_forward = FeedForward(n_embd, dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, C), memory (B, S, C) and its mask (B, 1, 1, S) -> (B, T, C)"""
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), memory, mask=mask)
        return x + self.feed_forward(self.norm3(x))


class Stack(nn.Module):
    """What encoder and decoder have in common: embeddings of tokens and positions, blocks, and a final norm."""

    block: type[nn.Module]

    def __init__(self, config: EncoderDecoderConfig, token_embedding: nn.Embedding | None = None):
        super().__init__()
        self.config = c = config
        self.token_embedding = token_embedding or nn.Embedding(c.vocab_size, c.n_embd)
        self.position_embedding = nn.Embedding(c.context_length, c.n_embd)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList([self.block(c.n_embd, c.n_head, c.dropout) for _ in range(c.n_layer)])
        self.final_norm = nn.LayerNorm(c.n_embd)
        init_weights(self, c.n_layer)

    def run(self, ids: Tensor, *context: Tensor | None) -> Tensor:
        """ids (B, T) -> (B, T, C); every block is given the `context`."""
        check_ids(ids, 0, self.config)
        x = self.dropout(self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x, *context)
        return self.final_norm(x)


class Encoder(Stack):
    """A source, in which padding is masked, becomes one vector per token. As in BERT, it is useful by itself."""

    block = EncoderBlock

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, S) -> (B, S, C)"""
        return self.run(ids, padding_mask(ids, self.config.pad))


class Decoder(Stack):
    """A target and the encoder's output become one vector per token of the target."""

    block = DecoderBlock

    def forward(self, ids: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids (B, T), memory (B, S, C) and its mask (B, 1, 1, S) -> (B, T, C)"""
        return self.run(ids, memory, mask)


class EncoderDecoder(nn.Module):
    """Logits of the next target token, from a source and the target so far; one embedding for both and the output."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.encoder.token_embedding)

    def encode(self, source: Tensor) -> Tensor:
        """source (B, S) -> memory (B, S, C), computed once and attended to for every token of the target."""
        return self.encoder(source)

    def decode(self, target: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """target (B, T), memory (B, S, C) and its mask (B, 1, 1, S) -> logits (B, T, V)"""
        return F.linear(self.decoder(target, memory, mask), self.encoder.token_embedding.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source (B, S), target (B, T) -> logits (B, T, V) of the tokens that follow each position of the target"""
        return self.decode(target, self.encode(source), padding_mask(source, self.config.pad))


def padding_mask(ids: Tensor, pad: int = 0) -> Tensor:
    """True where a source has a token: ids (B, S) -> (B, 1, 1, S). Raises ValueError for a row that has none."""
    mask = ids != pad
    if ids.ndim != 2 or ids.device.type == "cpu" and not mask.any(dim=1).all():
        raise ValueError(f"ids {tuple(ids.shape)}: expected (B, S), with a token that is no padding in every row")
    return mask[:, None, None]


def pad_ids(rows: list[list[int]], pad: int = 0) -> Tensor:
    """Rows of different lengths -> (B, S), filled up with `pad` at their ends."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row).long() for row in rows], True, pad)


def next_log_probs(model: EncoderDecoder, target: Tensor, done: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """target (N, T) -> (N, V): of any token but padding and start; of padding alone in rows that are `done` (N,)."""
    log_probs = model.decode(target, memory.expand(len(target), -1, -1), mask)[:, -1].log_softmax(dim=-1)
    log_probs[:, [model.config.pad, model.config.start]] = -torch.inf
    log_probs[done] = -torch.inf
    log_probs[done, model.config.pad] = 0.0
    return log_probs


@torch.no_grad()
def translate(model: EncoderDecoder, source: Tensor, max_new_tokens: int) -> Tensor:
    """Greedy decoding: source (B, S) -> (B, T), T at most `max_new_tokens`, with padding after the end of a row."""
    target = torch.full_like(source[:, :1], model.config.start)
    with evaluating(model):
        memory, mask = model.encode(source), padding_mask(source, model.config.pad)
        while target.shape[1] <= max_new_tokens and not (done := (target == model.config.end).any(dim=1)).all():
            new = next_log_probs(model, target, done, memory, mask).argmax(dim=-1, keepdim=True)  # (B, 1)
            target = torch.cat([target, new], dim=1)
    return target[:, 1:]


@torch.no_grad()
def beam_search(model: EncoderDecoder, source: Tensor, max_new_tokens: int, width: int) -> list[tuple]:
    """The `width` most likely targets, extended together: source (1, S) -> [(log-probability, ids), …], best first."""
    check_number("width", width, 1, float("inf"), "the number of targets to keep at each step", int)
    check_number("sources", len(source), 1, 1, "one source at a time, (1, S)", int)
    c, target = model.config, torch.full_like(source[:, :1], model.config.start)
    scores = torch.zeros(1, device=source.device)
    with evaluating(model):
        memory, mask = model.encode(source), padding_mask(source, c.pad)
        while target.shape[1] <= max_new_tokens and not (done := (target == c.end).any(dim=1)).all():
            log_probs = next_log_probs(model, target, done, memory, mask)  # (N, V)
            scores, best = (scores[:, None] + log_probs).flatten().sort(descending=True)
            best = best[scores > -torch.inf][:width]
            row, token = best // c.vocab_size, best % c.vocab_size
            scores, target = scores[: len(best)], torch.cat([target[row], token[:, None]], dim=1)
    return [(score, [i for i in ids[1:] if i != c.pad]) for score, ids in zip(scores.tolist(), target.tolist())]
