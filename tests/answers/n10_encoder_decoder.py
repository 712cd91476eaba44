"""Answers to the exercises of notebook 10."""

import itertools

import numpy as np
import torch
from torch.nn import functional as F

from . import Several


def zipped(rows, pad, start, end):
    sides = ([[first, *row, *last] for row in rows] for first, last in ((start, []), (None, [end])))
    sides = [[[i for i in row if i is not None] for row in side] for side in sides]
    return [torch.tensor([*zip(*itertools.zip_longest(*side, fillvalue=pad))]) for side in sides]


def filled(rows, pad, start, end):
    lengths = torch.tensor([len(row) for row in rows])
    full = torch.full((len(rows), int(lengths.max()) + 2), pad)
    full[:, 0] = start
    for b, row in enumerate(rows):
        full[b, 1 : 1 + len(row)] = torch.tensor(row).long()
    return full[:, :-1], full[:, 1:].scatter(1, lengths[:, None], end)


def by_last(n_prefix, n_tokens):
    last = torch.arange(n_tokens).clamp(min=n_prefix - 1)  # the last position that each may attend to
    return torch.arange(n_tokens) <= last[:, None]


def of_zeros(x, ids, pad):
    weights = torch.zeros(ids.shape).masked_fill(ids == pad, -torch.inf).softmax(dim=-1)
    return torch.einsum("bt,btc->bc", weights, x)


def of_each(ids, keys, pad):
    result = torch.full_like(ids, pad)
    for row, order, own in zip(result, keys, ids):
        row[: (own != pad).sum()] = own[own != pad][order[own != pad].argsort()]
    return result


def pushed(ids, keys, pad):
    return keys.masked_fill(ids == pad, torch.inf).argsort(dim=1)


def in_numpy(ids, keys, pad):
    return np.take_along_axis(ids.numpy(), np.argsort(np.where(ids == pad, 5, keys), axis=1), axis=1)


def per_day(n_days, n_tokens):
    return F.cross_entropy(torch.zeros(1, n_days), torch.tensor([0])) / n_tokens


def crossed_out(guess, reference, n):
    left = [reference[i : i + n] for i in range(len(reference) - n + 1)]
    n_theirs, n_ours = len(left), len(guess) - n + 1
    for i in range(n_ours):
        if guess[i : i + n] in left:
            left.remove(guess[i : i + n])
    shared = n_theirs - len(left)
    return 5 * shared / (4 * n_theirs + n_ours) if shared else 0


RIGHT = {
    "decoder_batch": [zipped, filled],
    "prefix_mask": [by_last, lambda p, n: [[s <= t or max(s, t) < p for s in range(n)] for t in range(n)]],
    "masked_mean": [of_zeros, lambda x, ids, pad: x.masked_fill((ids == pad)[..., None], torch.nan).nanmean(1)],
    "reordered": [Several([of_each, "a"]), Several([in_numpy, "(A)"])],
    "lowest_loss": [
        Several([per_day, (10, 4, 7)]),
        Several([lambda n, T: -np.log(1 / n) / T, torch.tensor([4, 7, 10])]),
    ],
    "char_f": [crossed_out],
}
WRONG = {
    "decoder_batch": {
        "rows of different lengths": lambda rows, pad, start, end: torch.tensor([[start, *row] for row in rows]),
        "the right numbers in the wrong order": {"[*row, end]": "[*row[::-1], end]"},
        "not in tensors": lambda *given: [side.tolist() for side in filled(*given)],
    },
    "prefix_mask": {
        "position 0 attends to 2, and it should not": {".tril()": ".tril(n_prefix)"},
        "position 0 should attend to 1 too": lambda n_prefix, n_tokens: torch.eye(n_tokens).bool(),
    },
    "masked_mean": {"sizes do not broadcast": {"[..., None]": ""}},
    "reordered": {
        "takes whole rows": Several([lambda ids, keys, pad: ids[keys.argsort(dim=1)], "a"]),
        "as by `scatter`": Several([lambda ids, keys, pad: ids.scatter(1, pushed(ids, keys, pad), ids), "a"]),
        "lost: b: compare": Several([of_each, "b"]),
    },
    "lowest_loss": {
        "`<end>` always follows": Several([per_day, [4, 7]]),
        "the first position is 0": Several([per_day, [5, 8, 11]]),
        "every target has the same token": Several([per_day, [0, 4, 7, 10]]),
        "give positions from 0 to 10": Several([per_day, ["-", "-", "<end>"]]),
    },
    "char_f": {"it divides by 0": {"if shared == 0": "if shared < 0"}},
}
