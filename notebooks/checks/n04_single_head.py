"""Checks of notebook 04: a single head of attention."""

import torch

from gptlib import attention_weights

from .compare import same, tensors
from .exercise import exercise, prediction
from .report import Mistake, kind

UNPROJECTED = "one axis still has the 32 channels of the model; the projection leaves as many as the head size"
head_shapes = prediction(
    {"q": (4, 10, 8), "k.mT": (4, 8, 10), "scores": (4, 10, 10), "out": (4, 10, 8)},
    {
        **dict.fromkeys([(4, 10, 32), (4, 32, 10)], UNPROJECTED),
        **dict.fromkeys([(10, 8), (10, 10)], "the batch is missing: each of the 4 windows has its own matrix"),
        (8, 10, 4): "`k.T` reverses all three axes; `mT` leaves the batch in front",
        (4, 8, 8): "the matrix product sums over the channels of the head, so that axis disappears",
        (4, 8): "every position has a vector of its own, not only the last one",
        "q": {(4, 10, 10): "a query is a vector of channels; it has not been compared with the keys yet"},
        "k.mT": {(4, 10, 8): "this is k; `mT` swaps its last two axes"},
        "scores": {(4, 10, 8): "a score belongs to a pair of positions, a query and a key"},
        "out": {
            (4, 10, 10): "these are the weights; they are then multiplied with the values",
            (4, 10, 32): "a head returns averages of its values, and those have the head size",
        },
    },
    said="the scores have two axes of positions, one for queries and one for keys; in the output D is back.",
)


def first_difference(mask, T):
    """A clue for masks: the first entry that differs."""
    if not ((mask == 0) | (mask == 1)).all():
        return "the mask holds other numbers than 0 and 1, as if it were added to the scores: return booleans"
    row, column = (mask != torch.ones(T, T).tril().bool()).nonzero()[0].tolist()
    leak = f"row {row} may look at column {column}: the future leaks"
    return leak if column > row else f"row {row} may not look at column {column}, which is no later than itself"


@exercise(
    cases=[(3,), (2,), (1,), (6,), (20,)],
    mistakes={
        "t[:, None] >= t": {
            "t[:, None] < t": "true and false are exchanged: this is true where a position must not look",
            "t[:, None] <= t": "the other triangle: each position may look at itself and its future, not at its past",
            "t[:, None] > t": "the diagonal is missing: a position may look at itself, and position 0 has nothing else",
        },
    },
    clues=[first_difference],
    said="true on and below the diagonal, false for the future, as booleans, for T = 1, 2, 3, 6 and 20.",
)
def causal_mask(T):
    t = torch.arange(T)
    return t[:, None] >= t


four_maps = prediction(
    {"right": "c", "over queries": "a", "late mask": "b", "not scaled": "d"},
    {
        "right": {
            **dict.fromkeys("ab", "its rows do not all sum to 1: start with row 0, which can only look at itself"),
            "d": "its rows sum to 1, but in every row one key has nearly all of the weight: the scores are too large",
        },
        "over queries": {
            **dict.fromkeys("cd", "its rows sum to 1, so the softmax did run along the rows"),
            "b": "its rows do not all sum to 1, and neither do its columns",
        },
        "late mask": {
            **dict.fromkeys("cd", "its rows sum to 1: nothing was set to 0 after the softmax"),
            "a": "its last row has no future, so a late mask does not change it; here it does not sum to 1",
        },
        "not scaled": {
            **dict.fromkeys("ab", "its rows do not all sum to 1, and large scores do not change what a row sums to"),
            "c": "most of its rows are spread over several keys, and large scores leave one key with nearly everything",
        },
    },
    said="row and column sums show the wrong axis and the late mask, saturated rows show the missing scale.",
)


def what_moves(answer, x, query, key, value):
    """A probe: change the input at one position and see which outputs move."""
    (B, T, _), out = x.shape, answer(x.clone(), query, key, value)

    def moves(changed):  # (B, 1) or (T,) -> (B, T)
        return (answer(x + changed[..., None], query, key, value) - out).abs().amax(dim=-1) > 1e-5

    for s in range(T - 1, 0, -1):
        if len(early := moves(torch.arange(T) == s)[:, :s].nonzero()):
            (window, row), windows = early[0].tolist(), early[:, 0].unique()
            only = "" if len(windows) == B else f" in window {window}, not in all"
            return f"row {row} attends to column {s}{only}: the future leaks"
    if not moves(torch.arange(T) == 0)[:, -1].any():
        return "the last row does not change when position 0 changes: it does not attend to all of its past"
    if moves(torch.arange(B)[:, None] > 0)[0].any():
        return "window 0 changes when the other windows change: windows of a batch must not mix"
    alike = x[:, :1].expand_as(x).clone()
    right = same(answer(alike, query, key, value), alike @ value)
    return None if right else "where all positions are the same, each must get that one value back: rows sum to 1"


def scale_found(out, x, query, key, value):
    """A clue for two positions, where row 1 of the output is p · v[0] + (1 - p) · v[1]: p shows the scale."""
    v, right = (x @ value)[0], attention_weights(x @ query, x @ key)[0, 1, 0]
    p = (out[0, 1] - v[1]) @ (v[0] - v[1]) / (v[0] - v[1]).square().sum()
    apart, root = (p.logit() / right.logit()).item(), query.shape[1] ** 0.5
    if x.shape[1] > 2 or not apart > 0 or not same(out[0], torch.stack([v[0], p * v[0] + (1 - p) * v[1]])):
        return None
    return f"the scores of row 1 are divided by {root / apart:.3g} in effect, and not by √D = {root:.3g}"


def inputs(B, T, C, D, seed):
    return tuple(tensors(seed, (B, T, C), (C, D), (C, D), (C, D), spread=1.0))


small = [torch.tensor([[[1.0], [2.0]]]), *torch.tensor([[[1.0, 1, 0, 0]], [[1, 0, 1, 0]], [[4, 0, 0, 8]]])]
x, *matrices = inputs(B=3, T=5, C=2, D=7, seed=2)


@exercise(
    cases=[
        tuple(small),  # integers: C = 1, D = 4
        *[inputs(B=1, T=2, C=4, D=3, seed=0), inputs(B=2, T=4, C=6, D=3, seed=1)],
        (x.transpose(0, 1).contiguous().transpose(0, 1), *matrices),  # not contiguous
        inputs(B=2, T=20, C=4, D=3, seed=3),
    ],
    pairs=True,
    mistakes={
        "x @ query, x @ key, x @ value": {
            "x @ key, x @ query, x @ value": "query and key are exchanged: rows belong to queries, columns to keys",
            "x @ query, x @ value, x @ key": "key and value are exchanged: scores compare queries with keys",
            "x, x, x @ value": "queries and keys are taken from x, not projected",
            "x @ query, x @ key, x": "the values are taken from x, not projected",
            "x @ query, x @ key, x @ key": "the weights average the keys: it is the values that are averaged",
        },
        "/ D**0.5": {
            "/ x.shape[-1] ** 0.5": "divided by √C, not by √D: a score is a sum over D products",
            "": "the scale is missing: scores grow with the head size",
            "/ D": "divided by D, not by its square root (or twice by the square root)",
        },
        "triu(1)": {
            "triu(T)": "nothing is masked: row 0 attends to column 1, the future leaks",
            "tril(-1)": "the past is masked and the future kept: it is the other triangle",
        },
        "scores.masked_fill(future, -torch.inf)": {
            "scores.masked_fill(future, 0)": "the future is set to 0 before the softmax, and exp(0) is 1: it counts",
            "scores.masked_fill(future, torch.inf)": "the future is set to +inf, not to -inf: its softmax is nan",
            "(scores + ~future)": "the mask is added as 0 and 1, not as 0 and -inf: the future leaks",
        },
        "scores.masked_fill(future, -torch.inf).softmax(dim=-1)": {
            "scores.softmax(dim=-1).tril()": "the mask comes after the softmax: the future is already in the sum",
            "scores.tril()": "the softmax is missing: scores are used as weights",
        },
        "softmax(dim=-1)": {
            "softmax(dim=-2)": "softmax over the queries: columns sum to 1, rows do not",
            "softmax(dim=0)": "softmax over the windows of the batch: rows do not sum to 1",
            "softmax(dim=-1).softmax(dim=-1)": "the softmax is taken twice",
        },
        "weights @ v": {
            "weights": "it returns the weights, not the averaged values",
            "weights.mT @ v": "the weights are transposed: each row holds the weights of one query",
            "weights @ v / D**0.5": "the scale is applied after the softmax: it belongs to the scores",
        },
        "": {
            "right(x.transpose(0, 1), query, key, value).transpose(0, 1)": "it attends across windows, not positions",
            "right(x.flatten(0, 1)[None], query, key, value).view(*x.shape[:2], -1)": "windows of a batch must not mix",
        },
    },
    probes=[what_moves],
    clues=[scale_found],
    errors={
        "must match the size of tensor": "two sizes differ: is one of B, T, C and D taken from the cells above",
        "mat1 and mat2": "two matrices do not fit: k needs `.mT`, and a size may come from the cells above",
    },
    said="projections, scale, mask, softmax and average are right, whatever B, T, C and D.",
)
def one_head(x, query, key, value):
    q, k, v = x @ query, x @ key, x @ value
    T, D = q.shape[-2:]
    scores = q @ k.mT / D**0.5
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return weights @ v


def weights_of(answer, T):
    """The weights (T, T) of the queries and keys that an answer returns."""
    pair = answer(T)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise Mistake(f"for T = {T} it returns {kind(pair)}, and two tensors are expected: q, k")
    return attention_weights(*pair).float()


def where_it_looks(weights, T):
    """A clue: how far back most rows attend, or the first row that does not attend to the position before it."""
    weight, looks = weights[1:].max(dim=-1)
    back = torch.arange(1, T) - looks
    most = back.mode().values.item()
    if most > 1 and (back == most).sum() >= T - most:
        return f"each position attends to the one {most} positions before it, not to the one directly before it"
    row = ((back == 1) * weight).argmin().item()
    if back[row] == 1:
        return f"row {row + 1} attends to the position before it, but with {weight[row]:.2f}: its scores are too close"
    return f"row {row + 1} attends most to column {looks[row]}, not to the position before it"


@exercise(
    cases=[(4,), (2,), (7,), (32,)],
    mistakes={  # many queries and keys are right: it is the weights that follow from them that are compared
        "k.roll(1, dims=0)": {
            "k": "each position attends to itself: its query matches its own key",
        },
        "return q, k": {"return k, q": "each query matches the next position, which is masked: exchange q and k"},
        "": {
            "(torch.ones(T, 1), -100.0 * torch.arange(T)[:, None])": "every position attends to position 0",
            "(torch.zeros(T, 1), torch.zeros(T, 1))": "every row averages its past equally: no score stands out",
        },
    },
    call=weights_of,
    clues=[where_it_looks],
    errors={"cannot be multiplied": "q and k must have the same shape: (T, D), one row per position"},
    tolerance=0.01,
    said="every position attends to the one before it, for T = 2, 4, 7 and 32; position 0 only has itself.",
)
def one_back(T):
    k = torch.eye(T)
    q = 100 * k.roll(1, dims=0)
    return q, k


without_positions = prediction(
    {"with positions": 2.30, "without positions": 2.45},
    {
        2.23: "this is the loss after 1,500 steps; `loss_of` trains for 600",
        4.17: "this is the loss before training",
        "without positions": {
            2.30: "that is with positions: is the table set to zero before training, and held there?"
        },
    },
    said="without positions the head ends near the counted bigram: it cannot select the previous character.",
    tolerance=0.02,
)
