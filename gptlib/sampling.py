"""Sampling: text drawn from a model, one token after the other.

A model gives a score to every token that may come next. First the scores are reshaped into probabilities, then one
token is drawn, then the text is one token longer and the model is asked again.

B batch · T positions · V vocabulary
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Leave only the k most likely tokens: (..., V) -> (..., V), the others at -inf. Fan et al. 2018.

    Tokens as likely as the k-th all stay.

    >>> keep_top_k(torch.tensor([1.0, 4.0, 2.0, 3.0]), k=2)
    tensor([-inf, 4., -inf, 3.])
    """
    kth = logits.topk(k, dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Leave the fewest tokens that hold at least p of the probability: (..., V) -> (..., V), the others at -inf.

    The most likely token always stays. Holtzman et al. 2020, section 3.1.

    >>> keep_top_p(torch.tensor([0.1, 0.5, 0.4]).log(), p=0.8).exp()
    tensor([0.0000, 0.5000, 0.4000])
    """
    ascending, order = logits.sort(dim=-1)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1)  # what each token and all less likely ones hold together
    cut = tail <= 1 - p
    cut[..., -1] = False
    return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)


def distribution(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The probabilities that the next token is drawn from: logits (..., V) -> (..., V), every row sums to 1.

    Applied in this order: `temperature` divides the logits (below 1 the likely gain, above 1 the unlikely, 0 leaves
    only the most likely), then `top_k`, then `top_p` of what `top_k` left. Raises ValueError when a setting makes no
    sense or the logits are not numbers.

    >>> distribution(torch.tensor([0.0, 0.0, -9.0]), top_k=2)
    tensor([0.5000, 0.5000, 0.0000])
    """
    check_settings(logits.shape[-1], temperature, top_k, top_p)
    logits = logits.float()  # 16 bits are too coarse for the sum of a large vocabulary
    highest = logits.amax(dim=-1, keepdim=True)
    if not highest.isfinite().all():  # one NaN makes the highest NaN
        raise ValueError(
            "the logits hold NaN or infinity, so no token can be drawn: the model's weights are broken, as after a "
            "training that diverged. Load an earlier checkpoint, or train again with a smaller learning rate"
        )
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    logits = (logits - highest) / temperature  # the highest at 0: a low temperature cannot overflow
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return logits.softmax(dim=-1)


def check_settings(V: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ValueError when a setting of `distribution` makes no sense for V tokens."""
    if temperature != 0 and not 1e-30 < temperature < float("inf"):
        raise ValueError(
            f"temperature={temperature}: give a number above 0, such as 0.8, or 0 for the most likely token each time"
        )
    if top_k is not None and not 1 <= top_k <= V:
        raise ValueError(f"top_k={top_k}: give a number from 1 to the size of the vocabulary, {V}, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: give a share above 0 and at most 1, such as 0.9, or None for all")


def line_up(prompts: Tensor | Sequence[Tensor], context_length: int | None) -> tuple[Tensor, Tensor]:
    """One tensor (B, longest) of all prompts, filled up with zeros behind the shorter, and their lengths (B,).

    Raises ValueError when a prompt is empty, or longer than the context.
    """
    whole = prompts.ndim == 2 if isinstance(prompts, Tensor) else all(prompt.ndim == 1 for prompt in prompts)
    if not whole or len(prompts) == 0 or any(len(prompt) == 0 for prompt in prompts):
        shape = tuple(prompts.shape) if isinstance(prompts, Tensor) else [tuple(prompt.shape) for prompt in prompts]
        raise ValueError(
            f"idx has shape {shape}: give (B, T) with at least one token, such as "
            "torch.tensor([tokenizer.encode(prompt)]), or a list of (T,), such as [torch.tensor([5, 2]), ...]"
        )
    longest = max(len(prompt) for prompt in prompts)
    if context_length is not None and longest > context_length:
        raise ValueError(
            f"a prompt of {longest} tokens does not fit the model's context of {context_length}: "
            f"pass the last ones, prompt[-{context_length}:]"
        )
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=prompts[0].device)
    return nn.utils.rnn.pad_sequence(list(prompts), batch_first=True), lengths


@torch.no_grad()
def stream(
    model: nn.Module,
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    generator: torch.Generator | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    keep: int | None = None,
) -> Iterator[Tensor]:
    """Continue `prompts` (B, T), giving each new column of tokens (B, 1) as soon as it is drawn.

        for column in stream(model, idx, 200, temperature=0.8, top_p=0.9):
            print(tokenizer.decode(column[0].tolist()), end="", flush=True)

    temperature, top_k, top_p: see `distribution`. `generator`, on the model's device, makes the draw repeatable.
    A row ends once it has drawn `stop`, and is filled up with it; the text ends once every row has.

    A model with `make_cache` reads each token once, until its context is full. From then on every position moves with
    each token, so what the model still sees is read anew: the latest `keep` tokens, by default as many as fit. With
    fewer, such as half, the model sees less, but is quick again until the context is full the next time.

    With a list of prompts (T,) of different lengths, the columns begin behind the shortest, and a longer prompt's own
    tokens come before what is drawn for it. Dropout is off while the text streams. Raises ValueError for bad input,
    when the first column is asked for.
    """
    context_length = model.config.context_length if hasattr(model, "config") else None
    text, lengths = line_up(prompts, context_length)
    check_plan(max_new_tokens, keep, context_length)
    B, end = len(text), text.shape[1] + max_new_tokens
    text = F.pad(text, (0, max_new_tokens))  # (B, end)
    cache = model.make_cache(B, min(context_length, end)) if hasattr(model, "make_cache") else None
    ended = torch.zeros(B, dtype=torch.bool, device=text.device)
    start = 0  # the model sees the text from here on
    was_training = model.training
    model.eval()
    try:
        for t in range(min(map(len, prompts)), end):
            if context_length is not None and t - start > context_length:
                start = t - (keep or context_length)
                if keep in (None, context_length):
                    cache = None  # what is read now will have moved by the next token: not worth keeping
                elif cache is not None:
                    cache.clear()
            if cache is None:
                logits = model(text[:, start:t])[:, -1]  # (B, V): what may follow the last position
            else:
                logits = model(text[:, start + cache.length : t], cache)[:, -1]
            probabilities = distribution(logits, temperature, top_k, top_p)
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]  # (B,)
            if stop is not None:
                check_stop(stop, logits.shape[-1])
                drawn = drawn.masked_fill(ended, stop)
                ended |= (drawn == stop) & (t >= lengths)
            text[:, t] = drawn.where(t >= lengths, text[:, t])  # a longer prompt goes on as given
            yield text[:, t : t + 1].clone()
            if ended.all():
                return
    finally:
        model.train(was_training)


def check_plan(max_new_tokens: int, keep: int | None, context_length: int | None) -> None:
    """Raises ValueError when so many new tokens, or so many to keep, make no sense."""
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens}: give the number of tokens to draw, 0 or more")
    if keep is not None and not 1 <= keep <= (context_length or keep):
        raise ValueError(f"keep={keep}: give a number from 1 to the model's context, {context_length}, or None for all")


def check_stop(stop: int, V: int) -> None:
    """Raises ValueError when `stop` is a token that can never be drawn."""
    if not 0 <= stop < V:
        raise ValueError(f"stop={stop} is outside the vocabulary 0…{V - 1}: give the id of the token to stop at")


def generate(
    model: nn.Module, idx: Tensor, max_new_tokens: int, generator: torch.Generator | None = None, **settings
) -> Tensor:
    """Continue `idx` (B, T) by `max_new_tokens` tokens: (B, T + max_new_tokens), fewer once every row drew `stop`.

    Each token is drawn from the model's own distribution, unless `settings` reshape it: see `stream`. For several
    samples of one prompt, repeat its row: `generate(model, idx.repeat(5, 1), 100)`.
    """
    if not isinstance(idx, Tensor):
        raise ValueError("generate continues one tensor (B, T): for a list of prompts call complete")
    return torch.cat([idx, *stream(model, idx, max_new_tokens, generator, **settings)], dim=1)


def complete(
    model: nn.Module,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    generator: torch.Generator | None = None,
    stop: int | None = None,
    **settings,
) -> list[Tensor]:
    """Continue each of several `prompts` (T,), whatever their lengths: as many texts (T + new,), prompt and all.

    Each ends with its first drawn `stop`, or after `max_new_tokens`. They are read side by side from their beginning,
    so no filler reaches the model; what a prompt is longer than the shortest is read token by token. See `stream`.
    """
    columns = list(stream(model, prompts, max_new_tokens, generator, stop=stop, **settings))
    shortest = min(map(len, prompts))
    rows = torch.cat([torch.stack([prompt[:shortest] for prompt in prompts]), *columns], dim=1)
    texts = []
    for row, prompt in zip(rows, prompts):
        row = row[: len(prompt) + max_new_tokens]
        stops = (row[len(prompt) :] == stop).nonzero() if stop is not None else ()
        texts.append(row[: len(prompt) + int(stops[0]) + 1] if len(stops) else row)
    return texts
