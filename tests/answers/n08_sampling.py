"""Answers to the exercises of notebook 08."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch.nn import functional as F

READ = {"without a cache": 5950, "with a cache": 109}


def by_difference(logits, p):
    floor = logits.amax(-1, keepdim=True) + math.log(p)
    return torch.where(logits >= floor, logits, torch.tensor(float("-inf")))


def row_by_row(logits, p):
    rows = [row.masked_fill(row.exp() < p * row.exp().max(), -torch.inf) for row in logits.view(-1, logits.shape[-1])]
    return torch.stack(rows).view(logits.shape)


def fill(keys, values, k, v, length):
    end = length + k.shape[1]
    keys[:, length:end], values[:, length:end] = k, v
    return keys[:, :end], values[:, :end]


def fused(q, k, v, keys, values, length):
    mask = torch.ones(q.shape[1], length + q.shape[1], dtype=torch.bool).tril(length)
    return F.scaled_dot_product_attention(q, *fill(keys, values, k, v, length), attn_mask=mask)


def one_at_a_time(q, k, v, keys, values, length):
    out = []
    for t in range(q.shape[1]):
        past, gathered = fill(keys, values, k[:, t : t + 1], v[:, t : t + 1], length + t)
        out.append((q[:, t : t + 1] @ past.mT / math.sqrt(q.shape[-1])).softmax(2) @ gathered)
    return torch.cat(out, dim=1)


def over_the_whole_buffer(q, k, v, keys, values, length):
    fill(keys, values, k, v, length)
    future = torch.arange(keys.shape[1]) > length + torch.arange(q.shape[1])[:, None]
    return (q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1) @ values


def half(p, q):
    common = torch.minimum(p, q) / 2
    return common / q.clamp(min=1e-9), (p - common) / (1 - common.sum())


def by_overlap(p, q):
    common = torch.minimum(p, q)
    return [torch.where(q > 0, common / q, torch.zeros_like(q)), (p - common) / (1 - common.sum())]


def in_a_loop(p, q):
    accept = [1.0 if x >= y else x / y for x, y in zip(p.tolist(), q.tolist())]
    missing = [max(x - y, 0.0) for x, y in zip(p.tolist(), q.tolist())]
    return accept, [x / sum(missing) for x in missing]


RIGHT = {
    "beam_widths": [{"width 1": torch.tensor(-35.13), "width 2": -38.5, "width 4": -29.54}],
    "sharpened": [Fraction(16, 17), 0.94, torch.tensor([0.8, 0.2]).square()[0] / 0.68],
    "positions_read": [{way: float(n) for way, n in READ.items()}, {**READ, "with a cache": np.int64(109)}],
    "keep_min_p": [by_difference, row_by_row],
    "repaired_cache": [fused, one_at_a_time],
    "draft_and_check": [by_overlap, in_a_loop],
}
WRONG = {
    "sharpened": {"that is the less likely token": 0.06, "0.7 is too low": 0.7},
    "positions_read": {"7777 is too high": {**READ, "without a cache": 7777}},
    "keep_min_p": {
        "wrong for (V,)": {"dim=-1, keepdim=True": "dim=1, keepdim=True"},
        "wrong for (2, 4, 3)": lambda x, p: row_by_row(x.flatten(1) if x.ndim > 2 else x, p).view(x.shape),
        "is removed, and p is": {"p * prob": "3 * p * prob"},
        "is kept, and p is": {"p * prob": "p**3 * prob"},
        "their logits are changed": {"logits.masked_fill": "(logits - logits[..., :1]).masked_fill"},
    },
    "repaired_cache": {
        "new position 1 does not attend to index 1": {"triu(1 + length)": "triu(1 + length)\n    future[1:, 1] = True"},
        "new position 0 attends to index 1": lambda *given: (
            fused(*given) if given[5] else F.scaled_dot_product_attention(*given[:3])
        ),
        "wrong where unfilled indices hold nan": over_the_whole_buffer,
        "scores and mask are (T, length + T)": {"ones(T, end": "ones(T, T"},
        "right numbers in `keys`": lambda *given: fused(*given[:3], given[3].clone(), given[4].clone(), given[5]),
        "right numbers in `values`": lambda *given: fused(*given[:4], given[4].clone(), given[5]),
    },
    "draft_and_check": {
        "0.35 of the drafts are accepted, and it must be 0.70": half,
        "is sampled with a probability of": {"p / q": "(p / q) ** 3"},
        "it returns a tensor, and a tuple": lambda p, q: by_overlap(p, q)[0],
    },
}
