"""Answers to the exercises of notebook 04."""

import math

import numpy as np
import torch
from torch.nn import functional as F

# ---------------------------------------------------------------- right, in other styles

SHAPES = {"q": (4, 10, 8), "k.mT": (4, 8, 10), "scores": (4, 10, 10), "out": (4, 10, 8)}
LETTERS = {"right": "c", "over queries": "a", "late mask": "b", "not scaled": "d"}


def looped_mask(T):
    mask = torch.zeros(T, T, dtype=torch.bool)
    for t in range(T):
        mask[t, : t + 1] = True
    return mask


def fused_head(x, query, key, value):
    return F.scaled_dot_product_attention(x @ query, x @ key, x @ value, is_causal=True)


def einsum_head(x, query, key, value):
    q, k, v = (torch.einsum("btc,cd->btd", x, matrix) for matrix in (query, key, value))
    scores = torch.einsum("btd,bsd->bts", q, k) / math.sqrt(query.shape[1])
    scores = scores - 1e9 * torch.ones(scores.shape[1:]).triu(1)
    return torch.einsum("bts,bsd->btd", F.softmax(scores, -1), v)


def looped_head(x, query, key, value):
    out = torch.zeros(*x.shape[:2], query.shape[1])
    for b in range(len(x)):
        for t in range(x.shape[1]):
            past = x[b, : t + 1]
            scores = (past @ key) @ (x[b, t] @ query) * query.shape[1] ** -0.5
            out[b, t] = scores.exp() @ (past @ value) / scores.exp().sum()
    return out


def renormalised_head(x, query, key, value):
    """The mask after the softmax, and the rows made to sum to one again: no mistake."""
    q, k, v = x @ query, x @ key, x @ value
    weights = (q @ k.transpose(1, 2) / query.shape[1] ** 0.5).softmax(-1).tril()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def learnable_head(x, query, key, value):
    return fused_head(x, torch.nn.Parameter(query), torch.nn.Parameter(key), torch.nn.Parameter(value))


def dials(T):
    """Two channels: each place is an angle, and the query is the angle of the place before."""
    angles = torch.arange(T) * (2 * math.pi / (T + 1))
    k = torch.stack([angles.cos(), angles.sin()], dim=1)
    before = angles - 2 * math.pi / (T + 1)
    return 1000 * torch.stack([before.cos(), before.sin()], dim=1), k


def looped_one_back(T):
    q, k = torch.zeros(T, T + 3), torch.zeros(T, T + 3)
    for t in range(T):
        k[t, t + 1] = 20.0
        q[t, t] = 20.0
    return [q, k]


RIGHT = {
    "head_shapes": [SHAPES, {name: torch.Size(shape) for name, shape in SHAPES.items()}],
    "causal_mask": [looped_mask, lambda T: ~torch.ones(T, T).triu(1).bool(), lambda T: torch.ones(T, T).tril() == 1],
    "four_maps": [LETTERS, {name: f" {letter.upper()}." for name, letter in LETTERS.items()}],
    "one_head": [fused_head, einsum_head, looped_head, renormalised_head, learnable_head],
    "one_back": [dials, looped_one_back, lambda T: (torch.eye(T).roll(-1, 1).double() * 99, torch.eye(T).double())],
}

# ---------------------------------------------------------------- wrong


def first_window_masked(scores, future):
    return torch.cat([scores[:1].masked_fill(future, -torch.inf), scores[1:]])


def with_shape(name, shape):
    return SHAPES | {name: shape}


def with_letters(**letters):
    return LETTERS | {name.replace("_", " "): letter for name, letter in letters.items()}


def changed(scale=None, mask=None, dim=-1, pick=None, finish=None):
    """A head written step by step, with one step or two replaced."""

    def head(x, query, key, value):
        q, k, v = pick(x, x @ query, x @ key, x @ value) if pick else (x @ query, x @ key, x @ value)
        scores = q @ k.mT * (scale(x, query) if scale else query.shape[1] ** -0.5)
        future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = mask(scores, future) if mask else scores.masked_fill(future, -torch.inf)
        weights = scores.softmax(dim)
        return finish(weights, v, future) if finish else weights @ v

    return head


def unmasked(scores, future):
    return scores


def in_place(x, query, key, value):
    query *= query.shape[1] ** -0.5
    return F.scaled_dot_product_attention(x @ query, x @ key, x @ value, is_causal=True, scale=1.0)


def across_the_batch(x, query, key, value):
    return fused_head(x.transpose(0, 1), query, key, value).transpose(0, 1)


def one_long_window(x, query, key, value):
    return fused_head(x.flatten(0, 1), query, key, value).view(*x.shape[:2], -1)


def peeks_one_ahead(x, query, key, value):
    return F.scaled_dot_product_attention(
        x @ query, x @ key, x @ value, attn_mask=torch.ones(x.shape[1], x.shape[1]).tril(1).bool()
    )


def averaged(x, query, key, value):
    return torch.stack([(x @ value)[:, : t + 1].mean(1) for t in range(x.shape[1])], dim=1)


def blind_to_the_first(x, query, key, value):
    mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    mask[-1, 0] = False
    return F.scaled_dot_product_attention(x @ query, x @ key, x @ value, attn_mask=mask)


def ones(T):
    return torch.ones(T, T)


WRONG = {
    "head_shapes": [
        (with_shape("q", (4, 10, 32)), "q: (4, 10, 32): these are the channels of the model"),
        (with_shape("k.mT", (4, 10, 8)), "this is k"),
        (with_shape("k.mT", (8, 10, 4)), "turns the batch round"),
        (with_shape("scores", (4, 8, 8)), "sums over the channels of the head"),
        (with_shape("scores", (10, 10)), "a table of its own"),
        (with_shape("out", (4, 10, 10)), "these are the weights"),
        (with_shape("out", (4, 10, 32)), "have the head size"),
        (with_shape("out", (40, 8)), "out: (40, 8) has 2 axes"),
        (with_shape("out", (10, 8)), "out: (10, 8): the batch is gone"),
        (with_shape("k.mT", (8, 10)), "k.mT: (8, 10): the batch is gone"),
        (with_shape("out", "(4, 10, 8)"), "out: this is a str"),
        (with_shape("scores", torch.zeros(4, 10, 10)), "scores: this is a tensor"),
        (list(SHAPES.values()), "this is a list"),
        ({"q": (4, 10, 8)}, "a dictionary with the entries"),
    ],
    "causal_mask": [
        (lambda T: F.pad(torch.ones(8, 8).tril(), (0, T - 8) * 2).bool(), "row 8 may not look at column 0"),
        (lambda T: ones(T).bool().triu(1), "true and false are exchanged"),
        (lambda T: ones(T).bool().triu(), "the other triangle"),
        (lambda T: ones(T).bool().tril(-1), "the diagonal is missing"),
        (lambda T: ones(T).bool().tril(1), "one place too high"),
        (lambda T: ones(T).bool(), "nothing is masked"),
        (lambda T: torch.eye(T).bool(), "only the diagonal"),
        (lambda T: ones(T).bool().tril().flip(1), "mirrored from left to right"),
        (lambda T: ones(T).tril(), "holds float32, and expected is bool"),
        (lambda T: ones(T).tril().int(), "holds int32, and expected is bool"),
        (lambda T: ones(T).tril() / ones(T).tril().sum(1, keepdim=True), "holds float32, and expected is bool"),
        (lambda T: torch.zeros(T, T).masked_fill(ones(T).triu(1).bool(), -torch.inf), "to be added to scores"),
        (lambda T: ones(T).triu(1) * -1e9, "to be added to scores"),
        (lambda T: ones(T).triu(1), "true and false are exchanged"),
        (lambda T: looped_mask(T) & ~looped_mask(T).tril(-2), "row 2 may not look at column 0"),
        (lambda T: looped_mask(T) | (torch.arange(T) == T - 1), "row 0 may look at column 2: the future leaks"),
        (lambda T: looped_mask(T)[None], "shape is (1, 3, 3)"),
        (lambda T: looped_mask(T).numpy(), "returns a ndarray|returns an ndarray"),
        (lambda T: looped_mask(T).to("meta"), "device meta"),
        (lambda T: looped_mask(T).tolist(), "returns a list"),
        (lambda T: looped_mask(4), "shape is (4, 4)"),
        (lambda T: print(end=""), "returns nothing"),
        (lambda: looped_mask(3), "TypeError"),
        (looped_mask(3), "not a function"),
    ],
    "four_maps": [
        (with_letters(right="d", not_scaled="c"), "right: d: its rows sum to 1, but"),
        (with_letters(right="a"), "right: a: its rows do not all sum to 1"),
        (with_letters(over_queries="b", late_mask="a"), "over queries: b"),
        (with_letters(late_mask="a"), "late mask: a: its last row"),
        (with_letters(late_mask="d"), "late mask: d: its rows sum to 1"),
        (with_letters(not_scaled="b"), "not scaled: b"),
        (with_letters(not_scaled="e"), "choose one of 'a', 'b', 'c', 'd'"),
        (with_letters(not_scaled=4), "choose one of"),
        (["c", "a", "b", "d"], "a dictionary with the entries"),
    ],
    "one_head": [
        (changed(scale=lambda x, query: x.shape[-1] ** -0.5), "scaled by C, not by the head size"),
        (changed(scale=lambda x, query: 1), "the scale is left out"),
        (changed(scale=lambda x, query: 1 / query.shape[1]), "divided by D, not by its root"),
        (changed(scale=lambda x, query: query.shape[1] ** 0.5), "multiplied by the root of D"),
        (changed(scale=lambda x, query: x.shape[1] ** -0.5), "number of positions T"),
        (changed(mask=unmasked), "nothing is masked: row 0 attends to column 1"),
        (changed(mask=unmasked, finish=lambda w, v, future: w.tril() @ v), "mask added after the softmax"),
        (changed(mask=lambda scores, future: scores.masked_fill(future, 0)), "set to 0 before the softmax"),
        (changed(mask=lambda scores, future: scores.masked_fill(future.mT, -torch.inf)), "the triangle is the other"),
        (changed(mask=lambda scores, future: scores.masked_fill(~future, -torch.inf)), "exchanged in the mask"),
        (changed(mask=lambda scores, future: scores + ~future), "added as 0 and 1"),
        (changed(mask=lambda scores, future: scores.masked_fill(future, -2)), "the future leaks"),
        (changed(mask=first_window_masked), "in window 1, and not in window 0: the future leaks"),
        (changed(mask=lambda scores, future: scores.masked_fill(future, torch.inf)), "set to +inf, not to -inf"),
        (peeks_one_ahead, "one place too high"),
        (lambda *inputs: fused_head(*inputs).round(decimals=2), "the numbers are rounded to 2 decimals"),
        (lambda *inputs: fused_head(*inputs).round(), "the numbers are rounded to whole ones"),
        (changed(dim=1), "softmax over the queries: columns sum to one, rows do not"),
        (changed(dim=0), "softmax over the windows"),
        (changed(finish=lambda w, v, future: w), "returns weights, not values"),
        (changed(finish=lambda w, v, future: w.mT @ v), "the weights are transposed"),
        (changed(pick=lambda x, q, k, v: (k, q, v)), "query and key exchanged"),
        (changed(pick=lambda x, q, k, v: (q, v, k)), "key and value exchanged"),
        (changed(pick=lambda x, q, k, v: (q, k, x)), "values taken from x, not projected"),
        (changed(pick=lambda x, q, k, v: (x, x, v)), "queries and keys are taken from x"),
        (changed(scale=lambda x, query: x.shape[-1] ** -0.5, dim=-2), "scaled by C, not by the head size"),
        (changed(scale=lambda x, query: x.shape[-1] ** -0.5, dim=-2), "; and softmax over the queries"),
        (changed(scale=lambda x, query: 1, mask=unmasked), "with the head size; and nothing is masked"),
        (changed(finish=lambda w, v, future: F.dropout(w, 0.5) @ v), "two calls with the same input differ"),
        (changed(finish=lambda w, v, future: w.softmax(-1) @ v), "the softmax is taken twice"),
        (changed(pick=lambda x, q, k, v: (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v)), "a cosine"),
        (changed(scale=lambda x, query: 8**-0.5), "times as far apart as they should be"),
        (changed(scale=lambda x, query: 256**-0.5), "as if divided by 16, not by √D = 1.73"),
        (changed(scale=lambda x, query: -(query.shape[1] ** -0.5)), "the sign of the scores is wrong"),
        (changed(pick=lambda x, q, k, v: (x, x, x)), "nothing is projected"),
        (changed(pick=lambda x, q, k, v: (q[:1], k[:1], v)), "weighed as the first"),
        (across_the_batch, "over the windows of the batch"),
        (one_long_window, "strung together"),
        (averaged, "every score is 0"),
        (blind_to_the_first, "the past does not arrive"),
        (lambda x, *w: fused_head(x, *w) * 2, "their one value back"),
        (lambda x, *w: fused_head(x, *w)[0], "the shape is"),
        (lambda x, *w: fused_head(x, *w).mT, "the shape is"),
        (lambda x, *w: fused_head(x, *w).double(), "float64"),
        (lambda x, *w: fused_head(x, *w).to("meta"), "device meta"),
        (lambda x, *w: fused_head(x, *w).tolist(), "returns a list"),
        (lambda x, *w: np.zeros(3), "a tensor is expected"),
        (lambda x, *w: print(end=""), "returns nothing"),
        (lambda x: x, "TypeError"),
        (lambda x, query, key, value: x @ query @ key, "RuntimeError"),
        (in_place, "in place"),
        (torch.nn.Linear(4, 3), "TypeError"),
    ],
    "one_back": [
        (lambda T: (100 * torch.eye(T), torch.eye(T)), "attends to itself"),
        (lambda T: (torch.eye(T), 100 * torch.eye(T).roll(1, 0)), "the one after it"),
        (lambda T: (100 * torch.eye(T).roll(1), torch.eye(T)), "the one after it"),
        (lambda T: (100 * torch.eye(T).roll(2, 0), torch.eye(T)), "two back"),
        (lambda T: (torch.eye(T).roll(1, 0), torch.eye(T)), "too close together"),
        (lambda T: (10 * torch.eye(T).roll(1, 0), torch.eye(T)), "too close together"),
        (lambda T: (-100 * torch.eye(T).roll(1, 0), torch.eye(T)), "the sign"),
        (lambda T: (torch.ones(T, 1), -100.0 * torch.arange(T)[:, None]), "attends to position 0"),
        (lambda T: (torch.ones(T, 2), torch.ones(T, 2)), "shares equally"),
        (lambda T: (torch.zeros(T, 2), torch.ones(T, 2)), "shares equally"),
        (lambda T: (torch.eye(T).roll(1, 0) * torch.inf, torch.eye(T)), "infinite or nan"),
        (lambda T: (100 * torch.eye(T).roll(1, 0).long(), torch.eye(T).long()), "holds int64"),
        (lambda T: (100 * torch.eye(4).roll(1, 0), torch.eye(4)), "expected (T, D): 2 rows"),
        (lambda T: (torch.eye(T), torch.ones(T, T + 1)), "the same D"),
        (lambda T: torch.eye(T), "it returns a tensor"),
        (lambda T: (torch.eye(T, device="meta"), torch.eye(T)), "device meta"),
        (lambda T: print(end=""), "returns nothing"),
        (lambda T: torch.eye(T).view(3, -1, 7), "RuntimeError"),
        (lambda T: (100 * (torch.arange(T) % 2)[:, None].float(), torch.eye(T)[:, :1]), "row 2 attends|position 0"),
    ],
}
