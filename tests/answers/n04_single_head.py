"""Answers to the exercises of notebook 04."""

import math

import torch
from torch.nn import functional as F

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


def normalized_again(x, query, key, value):
    """The mask after the softmax, and the rows divided by their sums again: no mistake."""
    q, k, v = x @ query, x @ key, x @ value
    weights = (q @ k.transpose(1, 2) / query.shape[1] ** 0.5).softmax(-1).tril()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def numpy_head(x, query, key, value):
    """One window at a time in numpy, in float64."""
    heads = []
    for window in x:
        q, k, v = (window.numpy().astype("float64") @ matrix.numpy() for matrix in (query, key, value))
        scores = torch.from_numpy(q @ k.T) / query.shape[1] ** 0.5
        heads.append(torch.softmax(scores.masked_fill(~looped_mask(len(window)), -math.inf), -1).numpy() @ v)
    return torch.stack([torch.from_numpy(head) for head in heads])


def learnable_head(x, query, key, value):
    return fused_head(x, torch.nn.Parameter(query), torch.nn.Parameter(key), torch.nn.Parameter(value))


def on_a_circle(T):
    """Two channels: each position is an angle, and its query is the angle of the position before."""
    angles = torch.arange(T) * (2 * math.pi / (T + 1))
    before = angles - 2 * math.pi / (T + 1)
    return 1000 * torch.stack([before.cos(), before.sin()], dim=1), torch.stack([angles.cos(), angles.sin()], dim=1)


def looped_one_back(T):
    q, k = torch.zeros(T, T + 3), torch.zeros(T, T + 3)
    for t in range(T):
        k[t, t + 1] = 20.0
        q[t, t] = 20.0
    return [q, k]


RIGHT = {
    "head_shapes": [SHAPES, {name: torch.Size(shape) for name, shape in SHAPES.items()}],
    "causal_mask": [looped_mask, lambda T: ~torch.ones(T, T).triu(1).bool(), lambda T: looped_mask(T).tolist()],
    "four_maps": [LETTERS, {name: f" {letter.upper()}." for name, letter in LETTERS.items()}],
    "one_head": [fused_head, einsum_head, looped_head, normalized_again, numpy_head, learnable_head],
    "one_back": [
        on_a_circle,
        looped_one_back,
        lambda T: (torch.eye(T).roll(-1, 1).double() * 99, torch.eye(T).double()),
        lambda T: (torch.eye(T).roll(1, 0).long() * 99, torch.eye(T).long()),
    ],
    "without_positions": [{"with positions": 2.322, "without positions": torch.tensor(2.439)}],
}


WRONG = {
    "head_shapes": {
        "out: (40, 8) has length 2": SHAPES | {"out": (40, 8)},
        "out: this is a str": SHAPES | {"out": "(4, 10, 8)"},
        "a dictionary with the entries 'q', 'k.mT', 'scores', 'out' is expected": {"q": (4, 10, 8)},
    },
    "causal_mask": {
        "row 8 may not look at column 0": lambda T: F.pad(looped_mask(8), (0, T - 8) * 2),
        "as if it were added to the scores": lambda T: torch.zeros(T, T).masked_fill(~looped_mask(T), -torch.inf),
        "row 0 may look at column 1: the future leaks": lambda T: torch.ones(T, T).tril(1),
        "row 1 may not look at column 0": lambda T: torch.eye(T).bool(),
        "row 0 may look at column 2": lambda T: looped_mask(T) | (torch.arange(T) == T - 1),
        "the result holds int32": lambda T: looped_mask(T).int(),
        "this is true where a position must not look": lambda T: torch.ones(T, T).triu(1),
        "the result holds float32, and booleans": lambda T: torch.ones(T, T).tril(),
        "the shape is (1, 3, 3)": lambda T: looped_mask(T)[None],
        "the same in each of 5 different cases": lambda T: looped_mask(4),
    },
    "four_maps": {"not scaled: choose one of 'a', 'b', 'c', 'd', not 'e'": LETTERS | {"not scaled": "e"}},
    "one_head": {
        "row 0 attends to column 1: the future leaks": {"-torch.inf": "-2"},
        "row 0 attends to column 3 in window 1, not in all": {
            "(future,": "(future & (torch.arange(len(x)) < 1)[:, None, None],"
        },
        "it does not attend to all of its past": {"triu(1)\n": "triu(1)\n    future[-1, 0] = True\n"},
        "window 0 changes when the other windows change": {"weights @ v": "weights @ v.mean(0)"},
        "each must get that one value back": {"weights @ v": "2 * weights @ v + v"},
        "two calls with the same input differ": {"weights @ v": "torch.dropout(weights, 0.5, True) @ v"},
        "are divided by 0.5 in effect, and not by √D = 2": {"/ D**0.5": "* D**0.5"},
        "are divided by 2.83 in effect, and not by √D = 2": {"/ D**0.5": "/ 8**0.5"},
        "; and softmax over the queries": {"/ D**0.5": "", "dim=-1": "dim=-2"},
        "is one of B, T, C and D taken from the cells above": {"torch.ones(T, T,": "torch.ones(19, 19,"},
        "k needs `.mT`": lambda x, query, key, value: x @ query @ key,
        "the shape is (2, 4)": lambda x, *matrices: fused_head(x, *matrices)[0],
    },
    "one_back": {
        "but with 0.35: its scores are too close": {"100 * ": ""},
        "attends to the one 2 positions before it": {"roll(1": "roll(2"},
        "row 1 attends most to column 1": {
            "100 * k.roll(1, dims=0)": "100 * k.roll(1, dims=0) * (1 - k[:1].mT.roll(1, 0)) + 200 * k[1:2].mT * k[1:2]"
        },
        "every number is nan": {"100 * k": "1e30 * k", "torch.eye(T)": "1e30 * torch.eye(T)"},
        "the same in each of 4": lambda T: (100 * torch.eye(4).roll(1, 0), torch.eye(4)),
        "q and k must have the same shape": lambda T: (torch.eye(T), torch.ones(T, T + 1)),
        "it returns a tensor": lambda T: torch.eye(T),
    },
}
