"""Answers to the exercises of notebook 03."""

import numpy as np
import torch
from torch.nn import functional as F


def looped_weights(T):
    weights = torch.zeros(T, T)
    for t in range(T):
        for s in range(t + 1):
            weights[t, s] = 1 / (t + 1)
    return weights


def softmaxed_weights(T):
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return torch.zeros(T, T).masked_fill(future, -torch.inf).softmax(-1)


def numpy_weights(T):
    lower = np.tril(np.ones((T, T)))
    return torch.from_numpy(lower / lower.sum(axis=1, keepdims=True))  # float64


def added_mask(scores):
    T = scores.shape[-1]
    return F.softmax(scores + torch.full((T, T), -torch.inf).triu(1), dim=-1)


def exponentials(scores):
    raised = scores.exp().tril()
    return raised / raised.sum(-1, keepdim=True)


def masked_late(scores):
    weights = scores.softmax(-1).tril()
    return weights / weights.sum(-1, keepdim=True)  # 0 / 0 where the future has all of the weight


def running_sum(x, keep):
    rows, total, count = [], torch.zeros(x.shape[1]), 0.0
    for row in x:
        total, count = keep * total + row, keep * count + 1
        rows.append(total / count)
    return torch.stack(rows)


def log_scores(x, keep):
    steps = torch.arange(len(x))[:, None] - torch.arange(len(x))
    return added_mask((steps * np.log(keep)).float()) @ x


RIGHT = {
    "share": [0.125, torch.tensor(1 / 8), np.float32(0.125)],
    "average_weights": [
        looped_weights,
        softmaxed_weights,
        numpy_weights,
        lambda T: softmaxed_weights(T).mT.contiguous().mT,
        lambda T: looped_weights(T).tolist(),
    ],
    "repaired_weights": [added_mask, exponentials],
    "fading_average": [running_sum, log_scores],
    "fading_experiment": [{"best keep": torch.tensor(0.5), "its loss": 2.3046}],
}


def short_memory(x, keep):
    return torch.stack([running_sum(x[max(0, t - 8) : t + 1], keep)[-1] for t in range(len(x))])


WRONG = {
    "share": {"0.4 is about 3 times too large": 0.4, "0.13: this is rounded": 0.13},
    "average_weights": {
        "a row sums to 0.00": {"tril()": "tril(-1)", "keepdim=True)": "keepdim=True).clamp(min=1)"},
        "a row sums to 0.00, and every row must sum to 1; the cases before this one are right": lambda T: F.pad(
            looped_weights(min(T, 8)), (0, T - min(T, 8)) * 2
        ),
        "columns sum to 1, rows do not": {"dim=1": "dim=0"},
        "row 0 attends to column 1: the future leaks": lambda T: looped_weights(T).flip(0),
    },
    "repaired_weights": {
        "row 0 attends to column 8": {".triu(1)": ".triu(1) & (torch.arange(T) < 8)"},
        "row 0 attends to column 1": lambda scores: added_mask(scores.mT).mT,
        "wrong where the future has a score of 200": masked_late,
        "must match the size of tensor b (3) at non-singleton dimension 1": {"(T, T,": "(2, 2,"},
        "changes its input in place": {"masked_fill": "masked_fill_"},
        "every number is nan": lambda s: (s + torch.ones_like(s).triu(1) * -torch.inf).softmax(-1),
    },
    "fading_average": {
        "from row 9 on, and right everywhere else; the cases before this one are right": short_memory,
        "in row 1, position 0 counts 0.25 times": {"steps_back.clamp": "(2 * steps_back).clamp"},
        "in row 1, position 0 counts 0.61 times": {"keep ** steps_back.clamp(min=0)": "(-keep * steps_back).exp()"},
        "in row 2, position 0 counts 0.12 times": {"steps_back.clamp": "(steps_back + (steps_back > 1)).clamp"},
        "gives its own position a weight of 0": {"tril()": "tril(-1)", "keepdim=True)": "keepdim=True).clamp(1e-9)"},
        "with keep = 1 nothing fades": lambda x, keep: running_sum(x, keep) * (1 + (keep == 1)),
    },
}
