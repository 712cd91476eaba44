"""Sampling: text generated from a model, one token after another.

B batch · T positions · V vocabulary
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens, (..., V) -> (..., V), the others at -inf. Fan et al. 2018."""
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens whose probabilities sum to at least p, (..., V) -> (..., V). Holtzman et al. 2020, 3.1."""
    ascending, order = logits.sort(dim=-1)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p  # this token and all less likely ones
    removed[..., -1] = False
    return logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)


def next_token_probs(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The distribution of the next token, logits (..., V) -> (..., V): temperature, then top-k, then top-p.

    Temperature 0 is greedy decoding. Raises ValueError for settings without meaning and for logits that are not finite.
    """
    V = logits.shape[-1]
    check_number("temperature", temperature, 0, 1e30, "a positive number such as 0.8, or 0 for greedy decoding")
    check_number("top_k", top_k, 1, V, f"an integer from 1 to the vocabulary size {V}, or None", Integral)
    check_number("top_p", top_p, 1e-30, 1, "a probability above 0 and at most 1, such as 0.9, or None")
    logits = logits.float()
    highest = logits.amax(dim=-1, keepdim=True)
    if not highest.isfinite().all():  # one NaN makes the maximum NaN
        raise ValueError("the logits contain NaN or infinity: training has diverged. Load an earlier checkpoint")
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), V).float()
    logits = (logits - highest) / max(temperature, 1e-30)  # at most 0: a low temperature cannot overflow
    logits = keep_top_k(logits, top_k) if top_k else logits
    logits = keep_top_p(logits, top_p) if top_p else logits
    return logits.softmax(dim=-1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside (dropout off); afterwards the mode is what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def check_number(name: str, value: Any, least: float, most: float, hint: str, kind: Any = Real) -> None:
    """Raises ValueError when `value` is neither None (where the caller allows it) nor a number in its range."""
    if not (value is None and "None" in hint or isinstance(value, kind) and least <= value <= most):
        raise ValueError(f"{name}={value!r}: give {hint}")


def as_prompt(idx: Tensor | Sequence[int], device: torch.device) -> Tensor:
    """Token ids (B, T), or (T,) for a single prompt -> (B, T)."""
    ids = torch.as_tensor(idx, device=device)
    if ids.is_floating_point() or ids.ndim not in (1, 2) or ids.numel() == 0:
        raise ValueError(f"a prompt is at least one token id, (T,) or (B, T); got {ids.dtype} {tuple(ids.shape)}")
    return ids.long().reshape(-1, ids.shape[-1])


@torch.no_grad()
def stream(
    model: nn.Module, idx: Tensor | Sequence[int], max_new_tokens: int, generator: torch.Generator | int | None = None,
    *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, stop: int | None = None,
    keep_last: int | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Continue the prompts idx (B, T), yielding each new column of tokens (B, 1) as soon as it is sampled.

    temperature, top_k, top_p: see `next_token_probs`. `generator` (or a seed) makes the text repeatable. A row that has
    sampled `stop` is filled up with it, and the stream ends when every row has. When the context is full, the last
    `keep_last` tokens are processed again, by default as many as fit; with fewer, the cache lasts for longer.
    """
    device = next(model.parameters()).device
    idx = as_prompt(idx, device)
    B, T = idx.shape
    config: Any = getattr(model, "config", None)
    context, V = (config.context_length, config.vocab_size) if config else (T + max_new_tokens, float("inf"))
    check_number("prompt length", T, 1, context, f"at most {context} tokens, idx[:, -{context}:]", Integral)
    check_number("max_new_tokens", max_new_tokens, 0, float("inf"), "the number of tokens to generate", Integral)
    check_number("keep_last", keep_last, 1, context, f"1 to the context length {context}, or None", Integral)
    check_number("stop", stop, 0, V - 1, f"the id of one token, below {V}, or None", Integral)
    if isinstance(generator, int):
        generator = torch.Generator(device).manual_seed(generator)
    make_cache: Any = getattr(model, "make_cache", None)
    cache = make_cache(B, min(context, T + max_new_tokens)) if make_cache else None
    start, done = 0, torch.zeros(B, 1, dtype=torch.bool, device=device)  # the model sees the text from `start` on
    with evaluating(model):
        for _ in range(max_new_tokens):
            if idx.shape[1] - start > context:
                start = idx.shape[1] - (keep_last or context)
                for layer in cache or ():
                    layer.length = 0  # the window slides, so every cached position is stale
            logits = model(idx[:, start + cache[0].length :], cache) if cache else model(idx[:, start:])
            probs = next_token_probs(logits[:, -1], temperature, top_k, top_p)  # (B, V)
            new = probs.argmax(-1, True) if temperature == 0 else torch.multinomial(probs, 1, generator=generator)
            if stop is not None:
                new = new.masked_fill(done, stop)
                done |= new == stop
            idx = torch.cat([idx, new], dim=1)
            yield new.clone()
            if done.all():
                return


def generate(model: nn.Module, idx: Tensor | Sequence[int], max_new_tokens: int, generator=None, **settings) -> Tensor:
    """The prompts idx (B, T) and all that `stream` yields for them, with its settings -> (B, T + new)."""
    columns = stream(model, idx, max_new_tokens, generator, **settings)
    return torch.cat([as_prompt(idx, next(model.parameters()).device), *columns], dim=1)
