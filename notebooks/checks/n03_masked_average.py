"""Checks of notebook 03: averages of the past."""

import torch

from .compare import looks_ahead, rows_sum_to_one, tensors
from .exercise import exercise, prediction

share = prediction(
    1 / 8,
    {
        1 / 7: "position 7 has seven positions before it, and it also counts itself",
        1 / 3: "that is the weight in row 2; the weights of position 7 are in row 7",
        0: "position 2 is in the past of position 7, so its weight is not 0",
        1 / 9: "positions 0 to 7 are eight positions",
        8: "that is the number of positions in the average; the weight is one of that many equal parts",
        2 / 8: "each position has one of eight equal parts, whichever position it is",
        0.13: "this is rounded: enter the fraction itself",
    },
    said="position 7 averages positions 0 to 7 equally, so each has a weight of 1/8.",
)


@exercise(
    cases=[(3,), (1,), (4,), (6,), (20,)],
    mistakes={
        "lower / lower.sum(dim=1, keepdim=True)": {
            "lower": "the rows are sums, not averages: divide each row by the number of positions in it",
            "lower / lower.sum(dim=1)": "columns are divided, not rows: the row sums need `keepdim=True`",
            "lower / torch.arange(T)[:, None]": "row t is divided by t, and it holds t + 1 positions: row 0 is 0 / 0",
            "lower.softmax(dim=1)": "this is a softmax of the triangle: its zeros count too, since exp(0) is 1",
            "lower / T": "every row is divided by T: only the last row averages T positions",
        },
        "tril()": {
            "triu()": "the upper triangle: each position averages its future",
            "tril(-1)": "each position is left out of its own average, so row 0 is 0 / 0: include the diagonal",
        },
    },
    clues=[looks_ahead, rows_sum_to_one],
    said="rows sum to 1, weigh their past equally and leave the future out, for T = 1, 3, 4, 6 and 20.",
)
def average_weights(T):
    lower = torch.ones(T, T).tril()
    return lower / lower.sum(dim=1, keepdim=True)


@exercise(
    cases=[
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]),),
        (torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [-1.0, 2.0, 0.5]]),),
        *[(scores,) for scores in tensors(0, (2, 4, 4), (20, 20), spread=1.0)],
    ],
    also={"wrong where the future has a score of 200": [(torch.tensor([[1.0, 200.0], [0, 1]]),)]},
    mistakes={
        "softmax(dim=-1)": {
            "softmax(dim=-2)": "softmax over the queries: columns sum to 1, rows do not",
            "softmax(dim=1)": "right for one matrix, not for a batch: there `dim=1` runs over the queries",
        },
        "scores.masked_fill(future, -torch.inf)": {
            "scores.masked_fill(future, 0)": "the future is set to 0 before the softmax, and exp(0) is 1: it counts",
            "scores": "nothing is masked: the future leaks",
        },
        "scores.masked_fill(future, -torch.inf).softmax(dim=-1)": {
            "scores.masked_fill(future, -torch.inf)": "the softmax is missing: these are scores, some of them -inf",
            "scores.softmax(dim=-1).tril()": "the mask comes after the softmax: the future is already in the sum",
            "scores.softmax(dim=-2).tril()": "two mistakes: a softmax over the queries, and a mask that comes after it",
            "scores.tril() / scores.tril().sum(dim=-1, keepdim=True)": "the exponential of the scores is missing",
        },
        "scores.shape[-1]": {"scores.shape[0]": "T is the first size, and in a batch that is the number of matrices"},
        "triu(1)": {
            "tril(-1)": "the past is masked and the future kept: it is the other triangle that must go",
            "triu(0)": "each position is masked from itself: the diagonal belongs to the past",
            "triu(2)": "the mask starts one diagonal too late: each position attends to the one after it",
        },
    },
    clues=[looks_ahead, rows_sum_to_one],
    said="the mask comes before the softmax, and every row sums to 1, for batches too.",
)
def repaired_weights(scores):
    T = scores.shape[-1]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def weights_found(answer, x, keep):
    """A probe: with x = the identity matrix an answer shows its weights."""
    T = min(len(x), 4)
    weights = answer(torch.eye(T), keep)
    if (leak := looks_ahead(weights)) or T == 1:
        return leak
    if (weights.diagonal() <= 0).any():
        return f"row {weights.diagonal().argmin().item()} gives its own position a weight of 0"
    for t in range(1, min(T, 3)):
        ratio = (weights[t, 0] / weights[t, t]).item()
        if abs(ratio - keep**t) > 1e-3:
            return f"in row {t}, position 0 counts {ratio:.2f} times as much as position {t}, not {keep**t:.2f} times"
    return rows_sum_to_one(weights)


X = torch.tensor([[8.0, 0.0], [0.0, 4.0], [4.0, 4.0], [2.0, 0.0]])


@exercise(
    cases=[(X[:2], 0.5), (X[:3], 0.5), (X, 0.5), (X, 0.8), (X[:1], 0.5), (X.repeat(5, 1), 0.9)],
    also={"with keep = 1 nothing fades, and this must be the equal average": [(X, 1.0)]},
    mistakes={
        "weights / weights.sum(dim=1, keepdim=True)": {
            "weights": "the weights are not divided by their sum: a row must sum to 1",
            "weights / weights.sum(dim=1)": "columns are divided, not rows: the row sums need `keepdim=True`",
            "weights / torch.arange(1, T + 1)[:, None]": "each row is divided by its length, not by its sum",
            "weights / (keep ** steps_back.clamp(min=0)).sum(1, True)": "the mask comes after the division by the sums",
            "weights * (1 - keep * (torch.arange(T) > 0))": "a running average: position 0 has too large a weight",
            "(1 - keep) * weights": "divided by the infinite sum 1 / (1 - keep): divide each row by its own sum",
        },
        "keep ** steps_back.clamp(min=0)": {
            "keep ** (0 * steps_back)": "every step back counts the same: `keep` is not used",
            "(0 * steps_back + keep ** torch.arange(T))": "the weights fade from position 0 on, not from the query",
        },
        "(keep ** steps_back.clamp(min=0)).tril()": {
            "(keep ** -steps_back.float()).triu()": "each position averages its future: it is the other triangle",
            "keep ** steps_back": "all rows are the same, since the future is included in each: mask it out",
            "keep ** steps_back.clamp(min=0)": "the future counts as much as the present: mask it before you divide",
        },
        "weights @ x": {"weights": "it returns the weights, not the averages: multiply them with x"},
    },
    probes=[weights_found],
    said="each step back counts `keep` times as much, rows sum to 1, and keep = 1 is the equal average.",
)
def fading_average(x, keep):
    T = len(x)
    steps_back = torch.arange(T)[:, None] - torch.arange(T)
    weights = (keep ** steps_back.clamp(min=0)).tril()
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights @ x


fading_experiment = prediction(
    {"best keep": 0.5, "its loss": 2.30},
    {
        "best keep": {
            1: "keep = 1 is the equal average, and faster fading gives a lower loss",
            0.8: "some of the five values that fade faster give a lower loss",
            0.2: "some of the five values that fade more slowly give a lower loss",
            0.05: "with so small a `keep`, each position averages little more than itself",
        },
        "its loss": {
            2.45: "this is about the loss of the equal average, keep = 1",
            2.36: "this is about the loss with keep = 0.8; the lowest of the five is lower",
            1.52: "this is the loss of the best n-gram; enter the validation loss that you measured",
        },
    },
    said="the loss is lowest where recent positions count most and more than the position itself is averaged.",
    tolerance=0.02,
)
