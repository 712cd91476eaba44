"""Answers to the exercises of notebook 08."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch.nn import functional as F

# ---------------------------------------------------------------- right, in other styles

READ = {"without a cache": 5950, "with a cache": 109}


def by_difference(logits, p):
    floor = logits.amax(-1, keepdim=True) + math.log(p)
    return torch.where(logits >= floor, logits, torch.tensor(float("-inf")))


def by_division(logits, p):
    probabilities = F.softmax(logits, dim=-1)
    ratio = probabilities / probabilities.max(dim=-1, keepdim=True).values
    return logits.masked_fill(ratio < p, -torch.inf)


def token_by_token(logits, p):
    rows = []
    for row in logits.reshape(-1, logits.shape[-1]).tolist():
        weights = [math.exp(score) for score in row]
        rows.append([s if w >= p * max(weights) else -math.inf for s, w in zip(row, weights)])
    return torch.tensor(rows).view(logits.shape)


def sorted_first(logits, p):
    ordered, order = logits.sort(dim=-1, descending=True)
    many = (ordered.softmax(-1) >= p * ordered.softmax(-1)[..., :1]).sum(-1, keepdim=True)
    cut = torch.arange(logits.shape[-1]).expand_as(logits) >= many
    return torch.full_like(logits, -torch.inf).scatter(-1, order, ordered.masked_fill(cut, -torch.inf))


def added_logarithm(logits, p):
    return logits + (logits.log_softmax(-1) >= logits.log_softmax(-1).amax(-1, keepdim=True) + math.log(p)).log()


def fill(keys, values, k, v, length):
    S = length + k.shape[1]
    keys[:, length:S], values[:, length:S] = k, v
    return keys[:, :S], values[:, :S]


def fused(q, k, v, keys, values, length):
    past_and_new = fill(keys, values, k, v, length)
    mask = torch.ones(q.shape[1], length + q.shape[1], dtype=torch.bool).tril(length)
    return F.scaled_dot_product_attention(q, *past_and_new, attn_mask=mask)


def one_at_a_time(q, k, v, keys, values, length):
    out = torch.empty_like(q)
    for t in range(q.shape[1]):
        keys[:, length] = k[:, t]
        values[:, length] = v[:, t]
        length += 1
        for b in range(len(q)):
            out[b, t] = (keys[b, :length] @ q[b, t] / q.shape[-1] ** 0.5).softmax(0) @ values[b, :length]
    return out


def added_mask(q, k, v, keys, values, length):
    T, D = q.shape[-2:]
    keys, values = fill(keys, values, k, v, length)
    scores = (q @ keys.transpose(1, 2)) * D**-0.5 + torch.full((T, length + T), -torch.inf).triu(length + 1)
    return torch.softmax(scores, 2) @ values


def with_a_floor(p, q):
    accept = torch.minimum(torch.ones_like(p), p / q.clamp(min=1e-12))
    missing = torch.clamp(p - q, min=0)
    return accept, missing / missing.sum()


def by_overlap(p, q):
    """From what is drafted and accepted."""
    common = torch.minimum(p, q)
    return [torch.where(q > 0, common / q, torch.zeros_like(q)), (p - common) / (1 - common.sum())]


def in_a_loop(p, q):
    accept = [1.0 if x >= y else x / y for x, y in zip(p.tolist(), q.tolist())]
    missing = [max(x - y, 0.0) for x, y in zip(p.tolist(), q.tolist())]
    return torch.tensor(accept), torch.tensor([x / sum(missing) for x in missing])


def in_logarithms(p, q):
    accept = (p.log() - q.log()).clamp(max=0).exp().nan_to_num(0.5)
    return accept, F.normalize(F.relu(p - q), p=1, dim=0)


def with_gradients(p, q):
    return with_a_floor(p.clone().requires_grad_(), q)


RIGHT = {
    "sharpened": [
        16 / 17,
        Fraction(16, 17),
        0.94,
        torch.tensor([0.8, 0.2]).log().mul(2).softmax(0)[0],
        np.float64(0.9412),
    ],
    "positions_read": [READ, {way: float(n) for way, n in READ.items()}, {**READ, "with a cache": np.int64(109)}],
    "keep_min_p": [by_difference, by_division, token_by_token, sorted_first, added_logarithm],
    "repaired_cache": [fused, one_at_a_time, added_mask],
    "draft_and_check": [with_a_floor, by_overlap, in_a_loop, in_logarithms, with_gradients],
}

# ---------------------------------------------------------------- wrong


def filtered(logits, stays):
    return logits.masked_fill(~stays, -torch.inf)


def top_p(logits, p):
    ordered, order = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, order, ordered.masked_fill(before >= p, -torch.inf))


def every_row_by_the_highest(logits, p):
    probabilities = logits.softmax(-1)
    return filtered(logits, probabilities >= p * probabilities.max())


def without_keepdim(logits, p):
    probabilities = logits.softmax(-1)
    return filtered(logits, probabilities >= p * probabilities.amax(-1))


def counted_from_the_front(logits, p):
    return filtered(logits, logits >= logits.amax(1, keepdim=True) + math.log(p))


def row_after_row(logits, p):
    rows = logits if logits.ndim > 1 else logits[None]
    kept = torch.stack([filtered(row, row >= row.max() + math.log(p)) for row in rows])
    return kept if logits.ndim > 1 else kept[0]


def in_place(logits, p):
    logits[logits < logits.amax(-1, keepdim=True) + math.log(p)] = -torch.inf
    return logits


def small_only(logits, p):
    """Right for up to ten tokens."""
    kept = by_difference(logits, p)
    return kept if logits.shape[-1] < 10 else torch.cat([kept[..., :10], logits[..., 10:]], -1)


def attention(q, keys, values, mask=None, scale=None, axis=-1):
    scores = q @ keys.mT / (scale or q.shape[-1] ** 0.5)
    return (scores if mask is None else scores.masked_fill(mask, -torch.inf)).softmax(axis) @ values


def future(q, length):
    return torch.ones(q.shape[1], length + q.shape[1], dtype=torch.bool).triu(length + 1)


def broken(q, k, v, keys, values, length):
    keys[:, : q.shape[1]], values[:, : q.shape[1]] = k, v
    return attention(q, keys, values)


def broken_write(q, k, v, keys, values, length):
    keys[:, : q.shape[1]], values[:, : q.shape[1]] = k, v
    S = length + q.shape[1]
    return attention(q, keys[:, :S], values[:, :S], future(q, length))


def broken_places(q, k, v, keys, values, length):
    fill(keys, values, k, v, length)
    mask = F.pad(future(q, length), (0, keys.shape[1] - length - q.shape[1]))
    return attention(q, keys, values, mask)


def broken_mask(q, k, v, keys, values, length):
    return attention(q, *fill(keys, values, k, v, length))


def broken_write_and_places(q, k, v, keys, values, length):
    keys[:, : q.shape[1]], values[:, : q.shape[1]] = k, v
    return attention(q, keys, values, F.pad(future(q, length), (0, keys.shape[1] - length - q.shape[1])))


def broken_write_and_mask(q, k, v, keys, values, length):
    keys[:, : q.shape[1]], values[:, : q.shape[1]] = k, v
    S = length + q.shape[1]
    return attention(q, keys[:, :S], values[:, :S])


def broken_places_and_mask(q, k, v, keys, values, length):
    fill(keys, values, k, v, length)
    return attention(q, keys, values)


def causal_kernel(q, k, v, keys, values, length):
    return F.scaled_dot_product_attention(q, *fill(keys, values, k, v, length), is_causal=True)


def masked(triangle):
    return lambda q, k, v, keys, values, length: attention(
        q, *fill(keys, values, k, v, length), triangle(torch.ones(q.shape[1], length + q.shape[1]).bool(), length)
    )


def small_mask(q, k, v, keys, values, length):
    T = q.shape[1]
    return attention(q, *fill(keys, values, k, v, length), torch.ones(T, T, dtype=torch.bool).triu(1))


def one_late(q, k, v, keys, values, length):
    S = length + q.shape[1]
    keys[:, length + 1 : S + 1], values[:, length + 1 : S + 1] = k, v
    return attention(q, keys[:, :S], values[:, :S], future(q, length))


def own_left_out(q, k, v, keys, values, length):
    fill(keys, values, k, v, length)
    return attention(q, keys[:, :length], values[:, :length])


def only_new(q, k, v, keys, values, length):
    fill(keys, values, k, v, length)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def keys_only(q, k, v, keys, values, length):
    S = length + q.shape[1]
    keys[:, length:S] = k
    return attention(q, keys[:, :S], values[:, :S], future(q, length))


def joined(q, k, v, keys, values, length):
    """Right, and nothing is kept for the next call."""
    keys, values = torch.cat([keys[:, :length], k], 1), torch.cat([values[:, :length], v], 1)
    return attention(q, keys, values, future(q, length))


def values_forgotten(q, k, v, keys, values, length):
    keys[:, length : length + q.shape[1]] = k
    return joined(q, k, v, keys, values, length)


def garbage_in_the_sum(q, k, v, keys, values, length):
    S = length + q.shape[1]
    fill(keys, values, k, v, length)
    mask = F.pad(future(q, length), (0, keys.shape[1] - S))
    weights = (q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(mask, -torch.inf).softmax(-1)
    return weights[..., :S] @ values[:, :S]


def over_all_places(q, k, v, keys, values, length):
    """One mask over the whole buffer, as a compiled model has it."""
    place = length + torch.arange(q.shape[1])
    keys.index_copy_(1, place, k)
    values.index_copy_(1, place, v)
    scores = torch.einsum("btd,bsd->bts", q, keys) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.arange(keys.shape[1]) > place[:, None], -torch.inf)
    return torch.einsum("bts,bsd->btd", scores.softmax(-1), values)


def first_place_forgotten(q, k, v, keys, values, length):
    mask = future(q, length)
    mask[:, 0] |= torch.arange(len(mask)) > 0
    return attention(q, *fill(keys, values, k, v, length), mask)


def cached(scale=None, axis=-1):
    return lambda q, k, v, keys, values, length: attention(
        q, *fill(keys, values, k, v, length), future(q, length), scale and scale(q, length), axis
    )


def changed_q(q, k, v, keys, values, length):
    q /= q.shape[-1] ** 0.5
    return attention(q, *fill(keys, values, k, v, length), future(q, length), scale=1)


def causal_for_several(q, k, v, keys, values, length):
    past_and_new = fill(keys, values, k, v, length)
    return F.scaled_dot_product_attention(q, *past_and_new, is_causal=q.shape[1] > 1)


def two_softmaxes(q, k, v, keys, values, length):
    fill(keys, values, k, v, length)
    return attention(q, keys[:, :length], values[:, :length]) + F.scaled_dot_product_attention(q, k, v, is_causal=True)


def turned_round(q, k, v, keys, values, length):
    return F.scaled_dot_product_attention(q, *fill(keys, values, k, v, length), attn_mask=future(q, length))


def only_when_empty(q, k, v, keys, values, length):
    if length == 0:
        return F.scaled_dot_product_attention(q, *fill(keys, values, k, v, 0))
    return fused(q, k, v, keys, values, length)


def missing(p, q):
    return with_a_floor(p, q)[1]


def chance(p, q):
    return with_a_floor(p, q)[0]


def shared(x):
    return x / x.sum()


WRONG = {
    "sharpened": [
        (0.8, "temperature 1"),
        (2 / 3, "that is temperature 2"),
        (0.67, "that is temperature 2"),
        (1.6, "it is the scores that are"),
        (1.0, "only temperature 0"),
        (8 / 9, "the odds are doubled"),
        (0.64, "must sum to 1 again"),
        (1 / 17, "that is the rarer token"),
        (15 / 16, "not shared out right"),
        (1 / (1 + math.exp(-1.2)), "taken for scores"),
        (1 / (1 + math.exp(-0.6)), "a softmax of 0.8 and 0.2"),
        (0.4, "multiplied by the temperature"),
        (0.96, "share one unit"),
        (0.9, "probability is halved"),
        (16, "these are the odds"),
        (94.1, "not of 100"),
        (0.7, "too low"),
        ("16/17", "a number is expected"),
        (float("nan"), "nan"),
    ],
    "positions_read": [
        ({**READ, "without a cache": 6050}, "reads the token that it draws"),
        ({**READ, "without a cache": 6060}, "one call too many"),
        ({**READ, "without a cache": 5940}, "the first call is missing"),
        ({**READ, "without a cache": 4950}, "reads the prompt again"),
        ({**READ, "without a cache": 1000}, "what has been drawn so far"),
        ({**READ, "without a cache": 10_000}, "do not read alike"),
        ({**READ, "without a cache": 11_000}, "not every call reads the whole text"),
        ({**READ, "without a cache": 6000}, "not even the last"),
        ({**READ, "without a cache": 6105}, "reads 10 positions, not 1"),
        ({**READ, "with a cache": 110}, "with a cache: 110: nothing reads the last token"),
        ({**READ, "with a cache": 100}, "reads the whole prompt"),
        ({**READ, "with a cache": 99}, "the prompt is read too"),
        ({**READ, "with a cache": 1100}, "the prompt is read once"),
        ({**READ, "with a cache": 5950}, "no position is read twice"),
        ({"without a cache": 109, "with a cache": 5950}, "the longest of the calls"),
        ({**READ, "without a cache": 7777}, "too high"),
        ({"without a cache": 5950}, "'with a cache' is missing"),
        ({**READ, "with a cache": "109"}, "a number is expected"),
        ([5950, 109], "this is a list"),
    ],
    "keep_min_p": [
        (counted_from_the_front, "right for (B, V), and wrong for logits of shape (4,)"),
        (row_after_row, "right for (B, V), and wrong for logits of shape (2, 3, 4)"),
        (lambda logits, p: filtered(logits, logits.softmax(-1) >= p), "the floor is p itself"),
        (lambda logits, p: filtered(logits, logits >= p * logits.amax(-1, keepdim=True)), "the largest score"),
        (every_row_by_the_highest, "the likeliest token of the whole batch"),
        (lambda logits, p: filtered(logits, logits >= logits.max() + math.log(p)), "the highest score of the whole"),
        (lambda logits, p: by_division(logits.movedim(0, -1), p).movedim(-1, 0), "score of each token in all rows"),
        (lambda logits, p: filtered(logits, logits.softmax(1) >= p), "the floor is p itself"),
        (without_keepdim, "do not line up with the rows"),
        (lambda logits, p: logits.where(by_division(logits, p) == -torch.inf, -torch.inf), "the likely are cut"),
        (lambda logits, p: by_division(logits, p).softmax(-1), "shared out anew"),
        (lambda logits, p: logits.softmax(-1) * (by_division(logits, p) > -torch.inf), "these are probabilities"),
        (lambda logits, p: by_division(logits, p).masked_fill(by_division(logits, p) == -torch.inf, 0), "score 0"),
        (lambda logits, p: by_division(logits, p).clamp(min=-1e9), "they score -1e+09"),
        (lambda logits, p: filtered(logits, logits > logits.amax(-1, keepdim=True) + math.log(p)), "exactly at the fl"),
        (top_p, "this is top-p"),
        (lambda logits, p: top_p(logits, 1 - p), "this is top-p"),
        (lambda logits, p: filtered(logits, logits >= logits.amax(-1, keepdim=True) - p), "scores within p"),
        (lambda logits, p: filtered(logits, logits >= logits.amax(-1, keepdim=True) - math.log(p)), "lies above"),
        (lambda logits, p: by_division(logits, 1 - p), "1 - p times"),
        (lambda logits, p: logits, "nothing is cut"),
        (lambda logits, p: filtered(logits, logits == logits.amax(-1, keepdim=True)), "only the likeliest"),
        (lambda logits, p: by_division(logits, p) > -torch.inf, "this is the mask"),
        (lambda logits, p: logits[by_division(logits, p) > -torch.inf], "only the scores that stay come back"),
        (lambda logits, p: by_division(logits, p).log_softmax(-1), "shared out anew"),
        (lambda logits, p: by_division(logits - logits.amax(-1, keepdim=True), p), "the highest is 0"),
        (lambda logits, p: logits + (by_division(logits, p) == -torch.inf) * -torch.inf, "0 times -inf"),
        (lambda logits, p: by_division(logits, p**3), "times as likely as the likeliest of its row stays"),
        (lambda logits, p: by_division(logits, p) / 2, "their scores are changed"),
        (lambda logits, p: by_division(logits, 0.2), "times as likely as the likeliest of its row"),
        (small_only, "times as likely as the likeliest of its row stays"),
        (in_place, "changes its input"),
        (lambda logits, p: by_division(logits, p)[None], "too many"),
        (lambda logits, p: by_division(logits, p).double(), "float64"),
        (lambda logits, p: by_division(logits, p).to("meta"), "device meta"),
        (lambda logits, p: by_division(logits, p).tolist(), "returns a list"),
        (lambda logits, p: print(end=""), "returns nothing"),
        (lambda logits: logits, "TypeError"),
        (torch.zeros(3), "not a function"),
    ],
    "repaired_cache": [
        (broken, "all three faults"),
        (broken_write, "over the oldest ones"),
        (broken_places, "the whole buffer is looked at"),
        (broken_mask, "the mask is missing"),
        (broken_write_and_places, "two things: the new keys and values are written over the oldest"),
        (broken_write_and_mask, "two things: the new keys and values are written over the oldest"),
        (broken_places_and_mask, "two things: the whole buffer is looked at"),
        (causal_kernel, "the mask starts at 0"),
        (masked(lambda ones, length: ones.triu(1)), "the mask starts at 0"),
        (masked(lambda ones, length: ones.triu(length)), "one step too early"),
        (masked(lambda ones, length: ones.triu(length + 2)), "one step too late"),
        (masked(lambda ones, length: ones.tril(length - 1)), "the past is masked"),
        (small_mask, "sizes do not fit"),
        (one_late, "one place too late"),
        (own_left_out, "only the places before the new ones"),
        (only_new, "the past is hidden|only the new places"),
        (keys_only, "the values are not written"),
        (joined, "nothing is written into"),
        (values_forgotten, "the new values are not kept"),
        (garbage_in_the_sum, "never filled"),
        (over_all_places, "0 times nan is nan"),
        (first_place_forgotten, "does not see place 0"),
        (cached(lambda q, length: 1), "not scaled"),
        (cached(lambda q, length: q.shape[-1]), "scaled by D"),
        (cached(axis=-2), "over the new positions"),
        (only_when_empty, "sees new position 1, which comes after it"),
        (causal_for_several, "starts at 0 as soon as several positions are new"),
        (two_softmaxes, "have a softmax each"),
        (turned_round, "the mask is turned round"),
        (lambda q, k, *others: fused(k, q, *others), "queries and keys are exchanged"),
        (lambda q, k, *others: fused(q, q, *others), "the queries are kept as keys"),
        (lambda *given: (given[3].zero_(), given[4].zero_(), fused(*given))[2], "does not see place 0"),
        (changed_q, "changes its input"),
        (lambda *given: (fused(*given), given[5] + given[0].shape[1]), "returns a tuple"),
        (lambda *given: fused(*given)[0], "an axis of size 1 is lost"),
        (lambda *given: fused(*given)[:, -1:], "shape"),
        (lambda *given: fused(*given).double(), "float64"),
        (lambda *given: fused(*given).to("meta"), "device meta"),
        (lambda *given: print(end=""), "returns nothing"),
        (lambda q, k, v: q, "TypeError"),
        (torch.zeros(3), "not a function"),
    ],
    "draft_and_check": [
        (lambda p, q: (chance(p, q), p), "after a rejection it draws from p"),
        (lambda p, q: (chance(p, q), q), "after a rejection it draws from q"),
        (lambda p, q: ((q / p).clamp(max=1), missing(p, q)), "the wrong way round"),
        (lambda p, q: (p / q, missing(p, q)), "a chance above 1"),
        (lambda p, q: (chance(p, q), (p - q).relu()), "does not sum to 1"),
        (lambda p, q: (chance(p, q), shared((p - q).abs())), "|p - q|"),
        (lambda p, q: (chance(p, q), missing(q, p)), "the other side"),
        (lambda p, q: (chance(p, q), p - q), "chances below 0"),
        (lambda p, q: (chance(p, q), (p - q).softmax(0)), "a softmax of p - q"),
        (lambda p, q: (chance(p, q), shared(torch.minimum(p, q))), "have in common"),
        (lambda p, q: (p, missing(p, q)), "has had its chance, q, already"),
        (lambda p, q: (torch.minimum(p, q).sum().expand(len(p)), missing(p, q)), "that of an average draft"),
        (lambda p, q: ((p >= q).float(), missing(p, q)), "for sure or not at all"),
        (lambda p, q: (1 - chance(p, q), missing(p, q)), "chances of a rejection"),
        (lambda p, q: (torch.minimum(p, q), missing(p, q)), "drafted *and* accepted"),
        (lambda p, q: (shared(chance(p, q)), missing(p, q)), "made to sum to 1"),
        (lambda p, q: with_a_floor(q, p), "p and q are exchanged"),
        (lambda p, q: with_a_floor(p, q)[::-1], "in the wrong order"),
        (lambda p, q: (p / q / (p / q.clamp(min=1e-9)).max(), p), "that could stay"),
        (lambda p, q: (0.5 * chance(p, q), shared(p - torch.minimum(p, q) / 2)), "0.35 of all drafts stay, and 0.70"),
        (lambda p, q: ((q / p).clamp(max=1), p), "two things"),
        (lambda p, q: (chance(p, q).mean().expand(len(p)), missing(p, q)), "the same chance, 0.81"),
        (lambda p, q: (chance(p, q) ** 3, missing(p, q)), "it would come out with"),
        (lambda p, q: (chance(p, q), shared((p - q).relu() ** 3)), "not in the shares that are missing"),
        (lambda p, q: (chance(p, q).bernoulli(), missing(p, q)), "two calls differ"),
        (lambda p, q: ((p / q).clamp(max=1), missing(p, q)), "where q is 0, the chances are"),
        (lambda p, q: chance(p, q), "it returns a tensor"),
        (lambda p, q: (chance(p, q), missing(p, q), p), "3 things"),
        (lambda p, q: (chance(p, q).tolist(), missing(p, q).tolist()), "the chances: this is a list"),
        (lambda p, q: (chance(p, q), missing(p, q).argmax()), "one number is there"),
        (lambda p, q: (chance(p, q), missing(p, q)[p > q]), "the leftover: the shape is"),
        (lambda p, q: tuple(part.double() for part in with_a_floor(p, q)), "float64"),
        (lambda p, q: tuple(part.to("meta") for part in with_a_floor(p, q)), "device meta"),
        (lambda p, q: with_a_floor(p.sub_(q).relu_(), q), "changes its input"),
        (lambda p, q: print(end=""), "returns nothing"),
        (lambda p: p, "TypeError"),
        (torch.zeros(3), "not a function"),
    ],
}
