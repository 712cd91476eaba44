"""Checks of notebook 08: temperature, beam widths, min-p, a cache of keys and values, and speculative sampling."""

import torch
from torch import Tensor

from gptlib import keep_top_p  # noqa: F401  (a mistake calls it)

from .compare import as_asked, same, tensors
from .exercise import exercise, prediction

sharpened = prediction(
    16 / 17,
    {
        0.8: "that is temperature 1, which changes nothing",
        0.64: "the less likely token changes too, and the two probabilities must sum to 1 again",
        0.668: "that is temperature 2: it halves the difference of the two logits, and 0.5 doubles it",
        1.6: "the probability is divided by the temperature, and it is the logits that are",
        8 / 9: "the odds are doubled, to 8 : 1; what doubles is the difference of the logits, which are logarithms",
        0.7685: "0.8 and 0.2 are taken for logits; a logit is the logarithm of a probability, up to a constant",
    },
    clue=lambda value: "that is the less likely token" if 0 < value < 0.35 else None,
    tolerance=0.0035,
    said="half the temperature doubles the difference of the logits, so odds of 4 : 1 become 16 : 1.",
)

positions_read = prediction(
    {"without a cache": 5950, "with a cache": 109},
    {
        6050: "the first call reads only the prompt, and no call reads the token that it samples",
        5850: "without a cache each call reads one position more: all of the prompt, and all sampled before",
        4950: "that is the new tokens; without a cache each call reads the prompt again as well",
        110: "nothing reads the last token once it is sampled",
        100: "that is the number of calls, and the first of them reads the whole prompt",
        99: "the prompt is read too",
    },
    said="without a cache 10 + 11 + … + 109, with one 10 and then 99 times 1.",
)

beam_widths = prediction(
    {"width 1": -35.1, "width 2": -38.7, "width 4": -29.5},
    {"width 1": {-24.4: "that is for 40 characters, and 60 are asked for", -71.2: "that is for 120 characters"}},
    tolerance=0.02,
    said="width 2 finds a less likely text than greedy decoding, and width 4 a more likely one.",
)


def by_ratio(result, logits, p):
    """A clue: which token is kept or removed although its probability says otherwise."""
    kept, ratio = result > -torch.inf, (logits - logits.amax(dim=-1, keepdim=True)).exp()
    for wrong, done in ((kept & (ratio < p), "kept"), (~kept & (ratio >= p), "removed")):
        if wrong.any():
            return f"a token {ratio[wrong][0]:.2f} times as likely as the most likely one is {done}, and p is {p:g}"
    return "the right tokens are kept, but their logits are changed: return them as they came"


LOGITS = torch.tensor([[-1.0, -1.4, -2.5, -4.0]])
WIDE, DEEP, SQUARE = tensors(1, (3, 20), (2, 4, 3), (4, 4))


@exercise(
    cases=[
        *[(LOGITS, 0.2), (SQUARE, 0.3), (WIDE, 0.05), (WIDE / 4, 0.6)],
        *[(torch.tensor([[6.0, 1.0, 0.5, 5.9]]), 0.6), (torch.tensor([[0.0, 3.0, 3.0, 1.0]]), 1.0)],
    ],
    also={
        "right for (B, V), wrong for (V,)": [(LOGITS[0], 0.3)],
        "right for (B, V), wrong for (2, 4, 3)": [(DEEP + torch.arange(8.0).view(2, 4, 1), 0.3)],
    },
    mistakes={
        "logits.softmax(dim=-1)": {
            "logits": "p times the largest logit: a logit is not a probability, and it can be negative",
        },
        "p * probabilities.amax(dim=-1, keepdim=True)": {
            "p": "the floor is p itself: it must be lower where even the most likely token is rare",
            "p * probabilities.amax()": "the most likely token of the whole batch sets the floor, not that of each row",
            "p * probabilities.amax(dim=-1)": "the floors do not line up with the rows: `keepdim=True` is missing",
        },
        "-torch.inf": {"0.0": "the removed tokens get 0, and exp(0) is 1: they can still be sampled"},
        "": {
            "right(logits, p) > -torch.inf": "this is the mask, and logits are asked for",
            "keep_top_p(logits, p)": "this is top-p, which adds up probabilities: min-p compares with the largest one",
        },
    },
    clues=[by_ratio],
    said="each row has its own floor, and the tokens that are kept keep their logits, for rows and batches.",
)
def keep_min_p(logits, p):
    probabilities = logits.softmax(dim=-1)  # (..., V)
    floor = p * probabilities.amax(dim=-1, keepdim=True)  # (..., 1)
    return logits.masked_fill(probabilities < floor, -torch.inf)


def buffered(seed, B, length, T, spare, D, unfilled=9.0):
    """q, k, v of T new positions, and buffers that hold `length` positions and have room to spare."""
    q, k, v, keys, values = tensors(seed, *3 * [(B, T, D)], *2 * [(B, length + T + spare, D)], spread=1.0)
    keys[:, length:] = values[:, length:] = unfilled
    return q, k, v, keys, values, length


def sees(answer, q, k, v, keys, values, length):
    """A probe: change the values at one index of the text and look which new positions notice."""
    T, size = q.shape[1], keys.shape[1]
    for s in range(size):
        by = (torch.arange(size) == s)[:, None].float()
        given = [(v, values), (v + by[length : length + T], values + by)]
        before, after = (answer(q, k, new, keys.clone(), old.clone(), length) for new, old in given)
        for row, moves in enumerate(((after - before).abs().amax(dim=(0, 2)) > 1e-5).tolist()):
            if moves != (s <= length + row):
                return f"new position {row} {'attends' if moves else 'does not attend'} to index {s}"
    return None


def kept(answer):
    """A demand: what the next call finds in the buffers."""
    mine, right = buffered(3, 2, 3, 4, 0, 4), buffered(3, 2, 3, 4, 0, 4)
    answer(*mine), repaired_cache.solution(*right)
    wrong = [f"`{name}`" for name, i in (("keys", 3), ("values", 4)) if not same(mine[i], right[i])]
    return wrong and f"the result is right, but the next call will not find the right numbers in {wrong[0]}"


SIZES = [(1, 1, 1, 1, 2), (1, 2, 2, 2, 2), (2, 3, 4, 2, 4), (2, 2, 3, 3, 6), (3, 4, 1, 2, 3), (1, 0, 2, 2, 2)]


@exercise(
    cases=[buffered(i, *sizes) for i, sizes in enumerate(SIZES)],
    also={"wrong where unfilled indices hold nan, and 0 · nan is nan": [buffered(3, 2, 3, 4, 2, 4, torch.nan)]},
    pairs=True,
    mistakes={
        "keys[:, length:end], values[:, length:end] = k, v": {
            "keys[:, :T], values[:, :T] = k, v": "the new keys and values are written over the oldest, at the front",
            "keys[:, length:end] = k": "the values are not written",
        },
        "/ D**0.5": {"": "the scores are not scaled: divide by √D", "/ D": "scaled by D, not by its square root"},
        "triu(1 + length)": {
            "triu(end)": "the mask is missing: earlier new positions attend to later ones",
            "triu(1)": "the mask starts at 0, and new position 0 stands at index `length`",
            "triu(length)": "the mask starts one diagonal too early: each position hides itself",
        },
        "": {
            "(q @ keys.mT / q.shape[2] ** 0.5).softmax(-1) @ values": "unfilled indices are attended to, with no mask",
            "right(q, k, v, keys, values, 0)": "the past is not attended to: the new positions see only each other",
        },
    },
    call=lambda answer, q, k, v, keys, values, length: answer(q, k, v, keys.clone(), values.clone(), length),
    probes=[sees],
    errors={"must match the size": "with T new positions behind `length`, scores and mask are (T, length + T)"},
    demands=[kept],
    tolerance=1e-3,
    said="continuing from the buffers gives what attention over the whole text gives, however it is cut.",
)
def repaired_cache(q, k, v, keys, values, length):
    T, D = q.shape[1:]
    end = length + T
    keys[:, length:end], values[:, length:end] = k, v
    scores = q @ keys[:, :end].mT / D**0.5  # (B, T, end)
    future = torch.ones(T, end, dtype=torch.bool).triu(1 + length)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ values[:, :end]


def both(answer, p, q):
    """The two results; where q is 0, any probability of acceptance is right, and becomes 1."""
    result = as_asked(answer(p, q), (p, q))
    accept = result[0] if isinstance(result, tuple) and result else None
    if isinstance(accept, Tensor) and accept.shape == q.shape:
        result = torch.where((q == 0) & (accept >= 0) & (accept <= 1), 1.0, accept), *result[1:]
    return result


def sampled_in_all(result, p, q):
    """A clue: how often each token is sampled in all, and how many drafts are accepted."""
    accept, leftover = result
    accepted, most = (q * accept).sum(), torch.minimum(p, q).sum()
    out = q * accept + (1 - accepted) * leftover
    if accepted > most + 1e-4 or torch.allclose(out, p, atol=1e-4):
        return f"{accepted:.2f} of the drafts are accepted, and it must be {most:.2f}: as many as p allows, and no more"
    token = (out - p).abs().argmax().item()
    return f"token {token} is sampled with a probability of {out[token]:.2f} in all, and p is {p[token]:.2f}"


PAIRS = [([0.5, 0.5], [0.8, 0.2]), ([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]), ([0, 0.7, 0.3, 0], [0.3, 0.7, 0, 0])]


@exercise(
    cases=[(torch.tensor(p), torch.tensor(q)) for p, q in PAIRS],
    pairs=True,
    mistakes={
        "torch.where(q > 0, p / q, 1.0).clamp(max=1)": {
            "torch.where(q > 0, p / q, 1.0)": "a probability above 1: limit the ratio to at most 1",
            "(p / q).clamp(max=1)": "where p and q are both 0, the probability is 0 / 0, which is nan",
            "(q / p).clamp(max=1)": "the ratio is upside down",
            "p": "p is the probability of being sampled in all; here the token has been drafted",
            "torch.minimum(p, q)": "this is the probability of being drafted and accepted; here it has been drafted",
        },
        "(p - q).clamp(min=0)": {
            "(p - q).abs()": "the leftover is |p - q|: what is drafted too often must not be sampled again",
            "p": "after a rejection it samples from p: accepted drafts cover a part of p already",
        },
        "missing / missing.sum()": {"missing": "the leftover is not divided by its sum"},
        "": {
            "right(q, p)": "p and q are exchanged: q is the small model, from which the draft comes",
            "right(p, q)[::-1]": "the two are returned in the wrong order: the probabilities come first",
        },
    },
    call=both,
    clues=[sampled_in_all],
    said="accepted drafts and samples after a rejection add up to p, and no draft is rejected unnecessarily.",
)
def draft_and_check(p, q):
    accept = torch.where(q > 0, p / q, 1.0).clamp(max=1)
    missing = (p - q).clamp(min=0)
    return accept, missing / missing.sum()
