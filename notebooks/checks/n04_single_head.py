"""Checks of notebook 04: a single head of attention."""

import torch
from torch import Tensor

from gptlib import attention_weights

from .compare import same, tensors
from .exercise import exercise, prediction
from .report import Mistake, dtype_name, kind

# --- shapes on the way --------------------------------------------------------------------------------------------

unprojected = "the last axis still has the 32 channels of the model; the projection leaves as many as the head size"
head_shapes = prediction(
    {"q": (4, 10, 8), "k.mT": (4, 8, 10), "scores": (4, 10, 10), "out": (4, 10, 8)},
    {
        "q": {
            (4, 10, 32): unprojected,
            (10, 8): "the batch is missing: each of the 4 windows has its own queries",
            (4, 10, 10): "a query is a vector of channels; it has not been compared with the keys yet",
        },
        "k.mT": {
            (4, 10, 8): "this is k; `mT` swaps its last two axes",
            (8, 10, 4): "`k.T` reverses all three axes; `mT` leaves the batch in front",
            (4, 32, 10): unprojected,
        },
        "scores": {
            (4, 8, 8): "the matrix product sums over the channels of the head, so that axis disappears",
            (4, 10, 8): "a score belongs to a pair of positions, a query and a key",
            (10, 10): "each of the 4 windows has its own matrix of scores",
        },
        "out": {
            (4, 10, 10): "these are the weights; they are then multiplied with the values",
            (4, 10, 32): "a head returns averages of its values, and those have the head size",
            (4, 8, 10): "there is one row per position, with the channels last",
            (4, 8): "every position has an output, not only the last one",
        },
    },
    said="the scores have two axes of positions, one for queries and one for keys; in the output D is back.",
)

# --- the mask -----------------------------------------------------------------------------------------------------


def first_difference(mask, T):
    """A clue for masks: the first entry that differs."""
    row, column = (mask != torch.ones(T, T).tril().bool()).nonzero()[0].tolist()
    if column > row:
        return f"row {row} may look at column {column}: the future leaks"
    return f"row {row} may not look at column {column}, which is no later than itself"


def as_truth(answer, T):
    """The mask as booleans: the values first, their dtype afterwards (`booleans`)."""
    mask = answer(T)
    if not isinstance(mask, Tensor) or mask.dtype == torch.bool or mask.device.type == "meta":
        return mask
    return mask != 0 if (mask > 0).any() else mask >= 0  # ones, or zeros to be added to scores


def booleans(answer):
    mask = answer(3)
    if not isinstance(mask, Tensor) or mask.dtype == torch.bool:
        return None
    held = f"the triangle is right, but the mask holds {dtype_name(mask.dtype)}, and booleans are expected"
    return f"{held}: PyTorch adds a mask of numbers to the scores"


@exercise(
    cases=[(3,), (2,), (1,), (6,), (20,)],
    mistakes={
        "t[:, None] >= t": {
            "t[:, None] < t": "true and false are exchanged: this is true where a position must not look",
            "t[:, None] <= t": "the other triangle: each position may look at itself and its future, not at its past",
            "t[:, None] > t": "the diagonal is missing: a position may look at itself, and position 0 has nothing else",
            "t[:, None] >= t - 1": "one diagonal too many: row 0 may look at column 1, the future leaks",
            "t[:, None] >= -t": "every entry is true: nothing is masked, the future leaks",
            "t[:, None] == t": "only the diagonal is true: each position may look at itself, and at none of its past",
            "t[:, None] >= t.flip(0)": "mirrored from left to right: columns count from the left",
        },
    },
    call=as_truth,
    clues=[first_difference],
    demands=[booleans],
    said="true on and below the diagonal, false for the future, as booleans, for T = 1, 2, 3, 6 and 20.",
)
def causal_mask(T):
    t = torch.arange(T)
    return t[:, None] >= t


# --- four maps ----------------------------------------------------------------------------------------------------

first_row = "its rows do not all sum to 1: start with row 0, which can only look at itself"
along_rows = "its rows sum to 1, so the softmax did run along the rows"
nothing_cut = "its rows sum to 1: nothing was set to 0 after the softmax"
whole_rows = "its rows do not all sum to 1; large scores change how a row is distributed, not what it sums to"
four_maps = prediction(
    {"right": "c", "over queries": "a", "late mask": "b", "not scaled": "d"},
    {
        "right": {
            "a": first_row,
            "b": first_row,
            "d": "its rows sum to 1, but in every row one key has nearly all of the weight: the scores are too large",
        },
        "over queries": {
            "b": "its rows do not all sum to 1, and neither do its columns",
            "c": along_rows,
            "d": along_rows,
        },
        "late mask": {
            "a": "its last row has no future, so a late mask does not change it; here it does not sum to 1",
            "c": nothing_cut,
            "d": nothing_cut,
        },
        "not scaled": {
            "a": whole_rows,
            "b": whole_rows,
            "c": "most of its rows are spread over several keys, and large scores leave one key with nearly everything",
        },
    },
    said="row and column sums show the wrong axis and the late mask, saturated rows show the missing scale.",
)

# --- a head -------------------------------------------------------------------------------------------------------


def what_moves(answer, x, query, key, value):
    """A probe: change the input at one position and see which outputs move."""
    (B, T, _), out = x.shape, answer(x.clone(), query, key, value)

    def moves(changed):  # (B, T) -> (B, T)
        return (answer(x + changed[..., None], query, key, value) - out).abs().amax(dim=-1) > 1e-5

    window, position = torch.arange(B)[:, None].expand(B, T), torch.arange(T).expand(B, T)
    for s in range(T - 1, 0, -1):
        early = moves(position == s)[:, :s]  # (B, s)
        if early.any():
            row, leaky = early.any(dim=0).nonzero()[0].item(), early.any(dim=1)
            only = "" if leaky.all() else f" in window {leaky.nonzero()[0].item()}, not in all"
            return f"row {row} attends to column {s}{only}: the future leaks"
    if not moves(position == 0)[:, -1].any():
        return "the last row does not change when position 0 changes: it does not attend to all of its past"
    if moves(window > 0)[0].any():
        return "window 0 changes when the other windows change: windows of a batch must not mix"
    alike = x[:, :1].expand_as(x).clone()
    if not same(answer(alike, query, key, value), alike @ value):
        return "where all positions are the same, each must get that one value back, since a row of weights sums to 1"
    return None


def scale_found(out, x, query, key, value):
    """A clue: where a head has as many channels as positions, its weights follow from its output."""
    D, v = query.shape[1], (x @ value)[0]
    right = attention_weights(x @ query, x @ key)[0]
    found = out.detach()[0] @ torch.linalg.pinv(v)
    if len(v) > D or not torch.allclose(found @ v, out[0], atol=1e-3) or (found.tril()[1:, 0] <= 0).any():
        return None
    for row in range(1, len(v)):
        if found[row, row] > 0 and not torch.allclose(found[row], right[row], atol=1e-4):
            apart = (found[row, 0] / found[row, row]).log() / (right[row, 0] / right[row, row]).log()
            if apart > 0:
                return (
                    f"the scores of row {row} are {apart:.2g} times as far apart as they should be, as if divided by "
                    f"{D**0.5 / apart:.3g}, not by √D = {D**0.5:.3g}"
                )
    return None


def inputs(B, T, C, D, seed):
    return tuple(tensors(seed, (B, T, C), (C, D), (C, D), (C, D), spread=1.0))


x, *matrices = inputs(B=3, T=5, C=2, D=7, seed=2)


@exercise(
    cases=[
        inputs(B=1, T=2, C=4, D=3, seed=0),
        inputs(B=2, T=4, C=6, D=3, seed=1),
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
            "/ x.shape[-1] ** 0.5": "scaled by C, not by the head size: a score is a sum over D products",
            "": "the scale is missing: scores grow with the head size",
            "/ D": "divided by D, not by its square root (or twice by the square root)",
            "* D**0.5": "multiplied by the square root of D, not divided",
            "* 0": "every score is 0: each position averages its past equally",
            "/ -(D**0.5)": "the sign of the scores is wrong: the best match gets the smallest weight",
        },
        "triu(1)": {
            "triu(T)": "nothing is masked: row 0 attends to column 1, the future leaks",
            "tril(-1)": "the past is masked and the future kept: it is the other triangle",
            "tril()": "true and false are exchanged in the mask: only the future is left",
            "triu(2)": "the mask starts one diagonal too late: row 0 attends to column 1, the future leaks",
        },
        "scores.masked_fill(future, -torch.inf)": {
            "scores.masked_fill(future, 0)": "the future is set to 0 before the softmax, and exp(0) is 1: it leaks",
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
            "v": "the weights are not used: each position keeps its own value",
        },
        "": {
            "right(x.transpose(0, 1), query, key, value).transpose(0, 1)": (
                "each position attends to the windows of the batch, not to the positions of its window"
            ),
            "right(x.reshape(1, -1, x.shape[-1]), query, key, value).reshape(*x.shape[:2], -1)": (
                "the windows are joined into one: windows of a batch must not mix"
            ),
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


# --- one back -----------------------------------------------------------------------------------------------------


def weights_of(answer, T):
    """The weights (T, T) of the queries and keys that an answer returns."""
    pair = answer(T)
    if pair is None:
        return None
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise Mistake(f"for T = {T} it returns {kind(pair)}, and two tensors are expected: q, k")
    q, k = (part.detach() for part in pair)
    for name, part in zip("qk", pair):
        if part.ndim != 2 or len(part) != T:
            raise Mistake(f"for T = {T}, {name} has the shape {tuple(part.shape)}, expected (T, D): {T} rows")
        if not part.is_floating_point() or part.is_meta:
            raise Mistake(f"{name} is {dtype_name(part.dtype)} on {part.device}: floating-point numbers are expected")
    if q.shape != k.shape or q.dtype != k.dtype or not q.shape[1]:
        raise Mistake(f"q {tuple(q.shape)} and k {tuple(k.shape)} must have the same D, at least 1, and the same dtype")
    if not (q @ k.mT).isfinite().all():
        raise Mistake("some scores are infinite or nan: the numbers are too large for their dtype")
    return attention_weights(q, k).float()


def where_it_looks(weights, T):
    """A clue: the position that most rows attend to."""
    first, rows = torch.arange(T), weights[1:]
    past = torch.ones(T, T).tril().bool()[1:]
    looks = rows.argmax(dim=-1)
    if torch.allclose(rows, past / past.sum(dim=-1, keepdim=True), atol=1e-3):
        return "every row averages its past equally: all its scores are the same"
    if torch.equal(looks, first[1:]):
        return "each position attends to itself: its query matches its own key"
    if torch.equal(looks, first[:-1]):
        share, low = rows[first[:-1], looks].min(dim=0)
        low = low.item() + 1
        return f"row {low} attends to the position before it, but with {share:.2f}, not 0.99: its scores are too close"
    if not looks.any():
        return "every position attends to position 0, not to the one before it"
    if T > 3 and torch.equal(looks[1:], first[:-2]):
        return "each position attends to the one two before it"
    if torch.equal(rows[1:].where(past[1:], 2).argmin(dim=-1), first[1:-1]):
        return "the position before gets the smallest weight: the sign of the scores is wrong"
    row = (looks != first[:-1]).nonzero()[0].item()
    return f"row {row + 1} attends most to column {looks[row]}, not to the position before it"


def next_one(answer, T):
    """A probe: without the mask, does each query match the key after it?"""
    q, k = answer(T)
    if T > 2 and torch.equal((q @ k.mT)[1:-1].argmax(dim=-1), torch.arange(2, T)):
        return "each query matches the next, masked position: the shift goes the wrong way, or q and k are exchanged"
    return None


@exercise(
    cases=[(4,), (2,), (7,), (32,)],
    mistakes={},  # many queries and keys are right: the clues say where an answer looks
    call=weights_of,
    probes=[next_one],
    clues=[where_it_looks],
    tolerance=0.01,
    said="every position attends to the one before it, for T = 2, 4, 7 and 32; position 0 only has itself.",
)
def one_back(T):
    k = torch.eye(T)
    q = 100 * k.roll(1, dims=0)
    return q, k
