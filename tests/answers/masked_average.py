"""Answers to the exercises of notebook 03."""

import numpy as np
import torch
from torch.nn import functional as F

# ---------------------------------------------------------------- right, in other styles


def looped_weights(T):
    weights = torch.zeros(T, T)
    for t in range(T):
        for s in range(t + 1):
            weights[t, s] = 1 / (t + 1)
    return weights


def softmaxed_weights(T):
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return torch.zeros(T, T).masked_fill(future, -torch.inf).softmax(-1)


def non_contiguous_weights(T):
    return softmaxed_weights(T).mT.contiguous().mT


def added_mask(scores):
    T = scores.shape[-1]
    return F.softmax(scores + torch.full((T, T), -torch.inf).triu(1), dim=-1)


def exponentials(scores):
    raised = scores.exp().tril()
    return raised / raised.sum(-1, keepdim=True)


def running_sum(x, keep):
    rows, total, count = [], torch.zeros(x.shape[1]), 0.0
    for row in x:
        total, count = keep * total + row, keep * count + 1
        rows.append(total / count)
    return torch.stack(rows)


def log_scores(x, keep):
    steps = torch.arange(len(x))[:, None] - torch.arange(len(x))
    scores = (steps * np.log(keep)).float()
    return added_mask(scores) @ x


RIGHT = {
    "share": [0.125, torch.tensor(1 / 8), np.float32(0.125)],
    "average_weights": [looped_weights, softmaxed_weights, non_contiguous_weights],
    "repaired_weights": [added_mask, exponentials],
    "fading_average": [running_sum, log_scores],
}

# ---------------------------------------------------------------- wrong


def eight(T):
    """The future of eight positions, and of no more."""
    return F.pad(torch.ones(min(T, 8), min(T, 8)).triu(1), (0, max(T - 8, 0)) * 2).bool()


def short_memory(x, keep):
    return torch.stack([running_sum(x[max(0, t - 8) : t + 1], keep)[-1] for t in range(len(x))])


def in_place(scores):
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill_(future, -torch.inf).softmax(-1)


def first_matrix_only(scores):
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return weights[0] if scores.ndim == 3 else weights


def steps_back(x):
    return torch.arange(len(x))[:, None] - torch.arange(len(x))


def shared(weights, keepdim=True):
    return weights / weights.sum(dim=1, keepdim=keepdim)


def divided_by_places(x, keep):
    rows = [sum(keep ** (t - s) * x[s] for s in range(t + 1)) / (t + 1) for t in range(len(x))]
    return torch.stack(rows)


def mixed_in(x, keep):
    out = x.clone()
    for t in range(1, len(x)):
        out[t] = keep * out[t - 1] + (1 - keep) * x[t]
    return out


def endless(x, keep):
    """Right for keep = 1, where the sum has no end to speak of."""
    return looped_weights(len(x)) @ x if keep == 1 else (1 - keep) * (keep ** steps_back(x)).tril() @ x


WRONG = {
    "share": [
        (1 / 7, "itself"),
        (1 / 3, "position 2 shares"),
        (0, "lies in the past"),
        (0.5, "more than two"),
        (12.5, "not of 100"),
        (8, "the share of one of them"),
        (1 / 9, "eight places"),
        (2.5, "too high"),
        ("1/8", "a number is expected"),
        (torch.ones(3), "a number is expected"),
        (float("nan"), "Not yet"),
    ],
    "average_weights": [
        (lambda T: torch.ones(T, T).tril(), "sums, not averages"),
        (lambda T: torch.ones(T, T).tril() / torch.arange(1, T + 1), "without `keepdim=True`"),
        (lambda T: torch.ones(T, T) / T, "the future leaks"),
        (lambda T: torch.ones(T, T).tril() / torch.arange(T)[:, None], "it holds t + 1 places"),
        (lambda T: torch.ones(T, T).tril().softmax(1), "a softmax of the triangle"),
        (lambda T: torch.ones(T, T).tril() / T, "divided by T"),
        (lambda T: looped_weights(T).tril(-1), "a row sums to 0.00"),
        (lambda T: F.pad(looped_weights(min(T, 8)), (0, T - min(T, 8)) * 2), "right up to T = 6"),
        (lambda T: looped_weights(T).tolist(), "returns a list"),
        (lambda T: looped_weights(T).double(), "float64"),
        (lambda T: looped_weights(T)[None], "shape is (1, 1, 1)"),
        (lambda T: looped_weights(T).to("meta"), "device meta"),
        (lambda T: looped_weights(4), "shape is (4, 4)"),
        (lambda T: print(end=""), "returns nothing"),
        (lambda T: looped_weights(T).view(-1, 0), "RuntimeError"),
        (looped_weights(4), "not a function"),
        (lambda: 1, "TypeError"),
    ],
    "repaired_weights": [
        (lambda scores: scores.masked_fill(eight(scores.shape[-1]), -torch.inf).softmax(-1), "attends to column 8"),
        (lambda scores: scores.softmax(-1).tril(), "after the softmax"),
        (lambda scores: scores.tril().softmax(-1), "set to 0 before"),
        (lambda scores: scores + torch.full(scores.shape, -torch.inf).triu(1), "the softmax is missing"),
        (lambda scores: added_mask(scores.mT).mT, "looks ahead|the future leaks"),
        (lambda scores: (scores + torch.full(scores.shape, -torch.inf).triu(1)).softmax(-2), "the positions that look"),
        (lambda scores: (scores + torch.full(scores.shape, -torch.inf).triu(1)).softmax(1), "not for a batch"),
        (lambda scores: (scores + torch.full(scores.shape, -torch.inf).triu(1)).softmax(0), "along the first axis"),
        (lambda scores: scores.softmax(-2).tril(), "the late mask, and the wrong axis"),
        (lambda scores: scores.softmax(-1), "nothing is masked"),
        (in_place, "changes its input"),
        (first_matrix_only, "shape is (4, 4)"),
    ],
    "fading_average": [
        (short_memory, "in the cases before this one they were right"),
        (lambda x, keep: x, "nothing is averaged"),
        (lambda x, keep: running_sum(x, keep) + torch.arange(len(x)).ge(2)[:, None] * x.flip(1), "in the last row (2)"),
        (endless, "the endless sum 1 / (1 - keep)"),
        (lambda x, keep: looped_weights(len(x)) @ x, "`keep` is not used"),
        (lambda x, keep: torch.stack([running_sum(x, keep)[-1]] * len(x)), "all rows are the same"),
        (lambda x, keep: running_sum(x.flip(0), keep).flip(0), "averages its future"),
        (lambda x, keep: running_sum(x, 1 / keep), "fade from the first position on"),
        (lambda x, keep: running_sum(x.mul_(1.5), keep), "in place"),
        (lambda x, keep: shared(keep ** steps_back(x)) @ x, "all rows are the same"),
        (lambda x, keep: shared(keep ** steps_back(x).clamp(min=0)) @ x, "as much as the present"),
        (lambda x, keep: shared(keep ** steps_back(x).clamp(min=0)).tril() @ x, "cut out after the division"),
        (lambda x, keep: shared(keep ** steps_back(x)).tril() @ x, "cut out after the division"),
        (lambda x, keep: shared((keep ** steps_back(x)).tril(), keepdim=False) @ x, "without `keepdim=True`"),
        (lambda x, keep: (keep ** steps_back(x)).tril() @ x, "not divided by their sum"),
        (lambda x, keep: shared((keep * steps_back(x)).tril()) @ x, "to the power of the steps"),
        (divided_by_places, "its number of places"),
        (mixed_in, "no position gets `1 - keep`"),
        (lambda x, keep: added_mask(keep ** steps_back(x).clamp(min=0)) @ x, "a softmax of the weights"),
    ],
}
