"""Checks of notebook 04: a single head of attention."""

import functools
import itertools
import math

import torch
from torch import Tensor

from gptlib.checks.judge import Mistake, choice, copied, examine, exercise, shape
from gptlib.checks.words import a, rows_of, side_by_side, type_name

# --- shapes on the way --------------------------------------------------------------------------------------------


@exercise
def head_shapes(answer):
    """The shapes of q, k.mT, scores and out for x (4, 10, 32) and a head size of 8."""
    right = {"q": (4, 10, 8), "k.mT": (4, 8, 10), "scores": (4, 10, 10), "out": (4, 10, 8)}
    unprojected = "these are the channels of the model; the projection leaves as many as the head size"
    mistakes = {
        "q": {
            (4, 10, 32): unprojected,
            (10, 8): "the batch is gone: each of the 4 windows asks its own questions",
            (32, 8): "this is the projection itself, not what it makes of x",
            (4, 10, 10): "a query is a vector of channels; it has not met the keys yet",
        },
        "k.mT": {
            (4, 10, 8): "this is k; `mT` swaps its last two axes",
            (8, 10, 4): "`k.T` on three axes turns the batch round as well; `mT` leaves it in front",
            (10, 8, 4): "`mT` swaps the last two axes and leaves the batch in front",
            (4, 32, 10): unprojected,
            (8, 10): "the batch is gone: each of the 4 windows makes its own offers",
        },
        "scores": {
            (4, 8, 8): "the product sums over the channels of the head, so they are the axis that goes",
            (4, 32, 32): "the product sums over channels, so no axis of channels is left",
            (4, 10, 8): "a score belongs to a pair of positions: one that asks, one that offers",
            (10, 10): "each of the 4 windows has a table of its own",
            (4, 4, 10): "windows do not meet: the batch stays one axis in front",
            (4, 10): "a score belongs to a pair of positions: one that asks, one that offers",
        },
        "out": {
            (4, 10, 10): "these are the weights; they are then multiplied with the values",
            (4, 10, 32): "a head gives back what its values hold, and those have the head size",
            (4, 8, 10): "one row a position, with the channels last",
            (10, 8): "the batch is gone: each of the 4 windows gathers on its own",
            (4, 8): "every position gathers for itself, not only the last",
        },
    }
    each_of(answer, right, lambda name, given: shape(given, right[name], mistakes[name]))
    return "positions stand twice in the scores, once for who asks and once for who offers; then D is back."


def each_of(answer, names, verdict):
    """Judge the entries of a dictionary one by one; a mistake says which entry it is in."""
    if not isinstance(answer, dict) or set(answer) != set(names):
        wanted = ", ".join(map(repr, names))
        raise Mistake(f"Not yet: this is {a(answer)}, and a dictionary with the entries {wanted} is expected.")
    for name in names:
        try:
            verdict(name, answer[name])
        except Mistake as mistake:
            raise Mistake(f"Not yet: {name}: {str(mistake).removeprefix('Not yet: ')}") from None


# --- the mask -----------------------------------------------------------------------------------------------------


def past(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


def shut_or_open(mask: Tensor, T: int) -> str | None:
    """A clue for masks: the first place where the answer differs."""
    row, column = (mask.detach() != past(T)).nonzero()[0].tolist()
    if column > row:
        return f"row {row} may look at column {column}: the future leaks"
    return f"row {row} may not look at column {column}, which is no later than itself"


ADDED = "numbers to be added to scores"


@exercise
def causal_mask(answer):
    """A function T -> mask (T, T), true where a position may look."""
    held = set()

    def as_truth(answer, T):  # the values first, what kind of thing holds them afterwards
        mask = answer(T)
        if not isinstance(mask, Tensor) or mask.dtype == torch.bool or mask.device.type == "meta":
            return mask
        mask = mask.to_dense()
        added = bool((mask < 0).any()) or ADDED in held
        held.add(ADDED if added else type_name(mask.dtype))
        return mask >= 0 if added else mask != 0

    examine(
        answer,
        cases=[(3,), (2,), (1,), (6,), (20,)],
        expected=past,
        mistakes={
            "true and false are exchanged: this one is true where a position must not look": lambda T: ~past(T),
            "the other triangle: each position may look at itself and its future, not at its past": lambda T: past(T).T,
            "the diagonal is missing: a position may look at itself, and position 0 has nothing else": lambda T: past(
                T
            ).tril(-1),
            "the triangle is one place too high: row 0 may look at column 1, the future leaks": lambda T: (
                torch.ones(T, T).tril(1).bool()
            ),
            "exchanged, and the diagonal with them: true marks the future from two places on": lambda T: (
                torch.ones(T, T).triu(2).bool()
            ),
            "the triangle is two places too low: a position may look at itself and at the one before": lambda T: past(
                T
            ).tril(-2),
            "every place is true: nothing is masked, the future leaks": lambda T: torch.ones(T, T).bool(),
            "every place is false: nobody may look anywhere, and a softmax over nothing is nan": lambda T: torch.zeros(
                T, T
            ).bool(),
            "only the diagonal is true: each position sees itself, and none of its past": lambda T: torch.eye(T).bool(),
            "only the diagonal is false: a position may look at itself, and the future leaks": lambda T: (
                ~torch.eye(T).bool()
            ),
            "mirrored from left to right: columns count from the left": lambda T: past(T).flip(1),
            "mirrored from top to bottom: rows count from the top": lambda T: past(T).flip(0),
        },
        clues=[shut_or_open],
        call=as_truth,
    )
    if held:
        table = side_by_side([("yours", rows_of(answer(3))), ("expected", rows_of(past(3)))])
        raise Mistake(
            f"Not yet: the triangle is right, but the mask holds {held.pop()}, and expected is bool: PyTorch takes a "
            f"mask of booleans for who may look, and adds a mask of numbers to the scores.\n\n{table}"
        )
    return "true on and below the diagonal, false for the future, as booleans, for T = 1, 2, 3, 6 and 20."


# --- four maps ----------------------------------------------------------------------------------------------------


@exercise
def four_maps(answer):
    """For each of four heads, the letter of the map that it draws."""
    summed = "its rows sum to 1"
    unsummed = "its rows do not all sum to 1"
    reasons = {
        "right": {
            "a": f"{unsummed}: start with row 0, which has one place to look at",
            "b": f"{unsummed}: start with row 0, which has one place to look at",
            "d": f"{summed}, but every row has one winner that takes nearly all, which mild scores do not do",
        },
        "over queries": {
            "b": f"{unsummed}, and neither do all its columns",
            "c": f"{summed}, so the softmax did run along the rows",
            "d": f"{summed}, so the softmax did run along the rows",
        },
        "late mask": {
            "a": "its last row has no future to lose, so a late mask leaves it whole; here it does not sum to 1",
            "c": f"{summed}: nothing has been cut out after the softmax",
            "d": f"{summed}: nothing has been cut out after the softmax",
        },
        "not scaled": {
            "a": f"{unsummed}; large scores change who wins a row, not what it sums to",
            "b": f"{unsummed}; large scores change who wins a row, not what it sums to",
            "c": "most of its rows are shared among several places, and large scores leave one winner",
        },
    }
    letters = {"right": "c", "over queries": "a", "late mask": "b", "not scaled": "d"}
    each_of(answer, letters, lambda name, given: choice(given, letters[name], reasons[name]))
    return "row sums and column sums tell the axis and the late mask, lone winners tell the missing scale."


# --- a head -------------------------------------------------------------------------------------------------------


def future(T):
    return torch.ones(T, T, dtype=torch.bool).triu(1)


def cut(kept, value=-math.inf):
    """A mask that keeps the scores of the places `kept(T)` and puts `value` elsewhere, before the softmax."""
    return lambda scores, softmax: softmax(scores.masked_fill(~kept(scores.shape[-1]), value))


# The steps of a head, in order. Under each, the right way first and then the wrong ones, with what to say of them.
VECTORS = {
    None: lambda x, q, k, v: (q, k, v),
    "query and key exchanged: a row belongs to the position that asks": lambda x, q, k, v: (k, q, v),
    "key and value exchanged: scores compare queries with keys": lambda x, q, k, v: (q, v, k),
    "query and value exchanged: scores compare queries with keys": lambda x, q, k, v: (v, k, q),
    "the keys are not used: queries are compared with queries": lambda x, q, k, v: (q, q, v),
    "the queries are not used: keys are compared with keys": lambda x, q, k, v: (k, k, v),
    "queries and keys are taken from x, not projected": lambda x, q, k, v: (x, x, v),
    "nothing is projected: x itself asks, offers and gives": lambda x, q, k, v: (x, x, x),
    "queries and keys are cut to length 1: a cosine, not a dot product": lambda x, q, k, v: (
        q / q.norm(dim=-1, keepdim=True),
        k / k.norm(dim=-1, keepdim=True),
        v,
    ),
    "values taken from x, not projected": lambda x, q, k, v: (q, k, x),
    "the keys are gathered: what is gathered are the values": lambda x, q, k, v: (q, k, k),
    "the queries are gathered: what is gathered are the values": lambda x, q, k, v: (q, k, q),
}
SCALE = {
    None: lambda C, D, T: 1 / math.sqrt(D),
    "scaled by C, not by the head size: only D products are added up in a score": lambda C, D, T: 1 / math.sqrt(C),
    "the scale is left out: scores grow with the head size": lambda C, D, T: 1.0,
    "divided by D, not by its root (or twice by the root)": lambda C, D, T: 1 / D,
    "scaled by C, not by the head size, and without the root": lambda C, D, T: 1 / C,
    "multiplied by the root of D, not divided": lambda C, D, T: math.sqrt(D),
    "scaled by the number of positions T, not by the head size": lambda C, D, T: 1 / math.sqrt(T),
    "scaled by the number of positions T, not by the head size, and without the root": lambda C, D, T: 1 / T,
    "multiplied by D, not divided by its root": lambda C, D, T: float(D),
    "divided by the square of D, not by its root": lambda C, D, T: 1 / D**2,
    "the sign of the scores is wrong: the best match gets least": lambda C, D, T: -1 / math.sqrt(D),
    "every score is 0: each position averages its past and chooses nothing": lambda C, D, T: 0.0,
}
MASK = {
    None: cut(past),
    "nothing is masked: row 0 attends to column 1, the future leaks": lambda scores, softmax: softmax(scores),
    "mask added after the softmax: the future has already been counted in the sum": lambda scores, softmax: softmax(
        scores
    ).tril(),
    "-inf is put in after the softmax: the mask belongs before it": lambda scores, softmax: softmax(scores).masked_fill(
        future(scores.shape[-1]), -math.inf
    ),
    "the past is masked and the future kept: the triangle is the other one": cut(lambda T: past(T).T),
    "true and false are exchanged in the mask: it leaves in the future and nothing else": cut(future),
    "each position is masked from itself: row 0 has nothing left, and its softmax is nan": cut(lambda T: future(T).T),
    "the mask is one place too high: row 0 attends to column 1, the future leaks": cut(
        lambda T: torch.ones(T, T).tril(1).bool()
    ),
    "the future is set to +inf, not to -inf: it would get everything, and the softmax is nan": cut(past, math.inf),
    "the future is set to 0 before the softmax, and e to the 0 is 1: the future leaks": cut(past, 0.0),
    "the past is set to 0 and the future kept: the triangle is the other one": cut(lambda T: past(T).T, 0.0),
    "the mask is added as 0 and 1, not as 0 and -inf: the future leaks": lambda scores, softmax: softmax(
        scores + past(scores.shape[-1]).float()
    ),
    "the mask is added as 1 for the future, not as -inf: the future leaks": lambda scores, softmax: softmax(
        scores + future(scores.shape[-1]).float()
    ),
}
SOFTMAX = {
    None: lambda scores: scores.softmax(dim=-1),
    "softmax over the queries: columns sum to one, rows do not": lambda scores: scores.softmax(dim=-2),
    "softmax over the windows of the batch: rows do not sum to one": lambda scores: scores.softmax(dim=0),
    "the softmax is missing: scores are used as weights": lambda scores: scores.masked_fill(scores.isinf(), 0),
    "the softmax is missing: scores, and with them -inf, are used as weights": lambda scores: scores,
    "the log of the softmax is taken, and logarithms are no weights": lambda scores: scores.log_softmax(dim=-1),
    "the rows are divided by their sum without the exponential": lambda scores: (
        scores.masked_fill(scores.isinf(), 0) / scores.masked_fill(scores.isinf(), 0).sum(dim=-1, keepdim=True)
    ),
    "the exponentials are not divided by their sum: rows do not sum to one": lambda scores: scores.exp(),
    "a sigmoid in place of the softmax: rows do not sum to one": lambda scores: scores.sigmoid(),
    "only the largest score counts: a softmax gives every place its share": lambda scores: torch.zeros_like(
        scores
    ).scatter(-1, scores.argmax(dim=-1, keepdim=True), 1),
    "the softmax is taken twice: once makes the weights": lambda scores: scores.softmax(dim=-1).softmax(dim=-1),
}
GATHER = {
    None: lambda weights, v: weights @ v,
    "returns weights, not values": lambda weights, v: weights,
    "the weights are transposed: columns are used as recipes": lambda weights, v: weights.mT @ v,
    "the division comes after the softmax: rows do not sum to one": lambda weights, v: (
        weights @ v / math.sqrt(v.shape[-1])
    ),
    "the weights are not used: each position keeps its own value": lambda weights, v: v,
    "the position's own value is added to what it gathers": lambda weights, v: v + weights @ v,
}
STEPS = {"vectors": VECTORS, "scale": SCALE, "mask": MASK, "softmax": SOFTMAX, "gather": GATHER}


def attend(x, query, key, value, vectors=None, scale=None, mask=None, softmax=None, gather=None):
    """A head (B, T, C) -> (B, T, D) whose steps go the ways that are named; None is the right one."""
    q, k, v = VECTORS[vectors](x, x @ query, x @ key, x @ value)
    scores = q @ k.mT * SCALE[scale](x.shape[-1], query.shape[-1], x.shape[1])
    out = GATHER[gather](MASK[mask](scores, SOFTMAX[softmax]), v)
    return out if out.isfinite().any() else None  # what is nan everywhere tells nothing


def faulty_heads(faults: int) -> dict:
    """Every head with so many steps gone wrong, under the words for what is wrong with it."""
    heads = {}
    for steps in itertools.combinations(STEPS, faults):
        for wrong in itertools.product(*(filter(None, STEPS[step]) for step in steps)):
            heads["; and ".join(wrong)] = functools.partial(attend, **dict(zip(steps, wrong)))
    return heads


def across_windows(x, query, key, value):
    return attend(x.transpose(0, 1), query, key, value).transpose(0, 1)


def one_long_window(x, query, key, value):
    return attend(x.reshape(1, -1, x.shape[-1]), query, key, value).reshape(*x.shape[:2], -1)


def weights_of_first(x, query, key, value):
    return attend(x[:1], query, key, value, gather="returns weights, not values") @ (x @ value)


def misjudged(out, x, query, key, value):
    """A clue for a head: where channels are as many as positions, the weights can be read off what was gathered."""
    right, v = attend(x, query, key, value, gather="returns weights, not values")[0], (x @ value)[0]
    found = out.detach()[0] @ torch.linalg.pinv(v)
    if v.shape[0] > v.shape[1] or not torch.allclose(found @ v, out[0], atol=1e-3) or (found.tril()[1:, 0] <= 0).any():
        return None
    for row in range(1, len(v)):
        if (found[row, row] > 0) and not torch.allclose(found[row], right[row], atol=1e-4):
            much = f"row {row} gives position 0 a weight of {found[row, 0]:.2f}, expected {right[row, 0]:.2f}"
            apart = (found[row, 0] / found[row, row]).log() / (right[row, 0] / right[row, row]).log()
            root = math.sqrt(query.shape[1])
            left = f", as if divided by {root / apart:.3g}, not by √D = {root:.3g}" if apart > 0 else ""
            return f"{much}: its scores are {apart:.2g} times as far apart as they should be{left}"
    return None


def poked(answer):
    """A clue for a head: change the input in one place and see what moves."""

    def clue(out, *inputs):
        try:
            return symptom_of(lambda x: answer(x, *copied(inputs[1:])), out, inputs[0], inputs[3])
        except Exception:  # it is looked for in an answer that is wrong: that may do anything
            return None

    return clue


def symptom_of(run, out, x, value):
    """What a wrong head does to its windows `x` (B, T, C), found from outside."""
    B, T, _ = x.shape
    window, position = torch.arange(B)[:, None].expand(B, T), torch.arange(T).expand(B, T)

    def moves(changed):  # (B, T) -> (B, T): change x in these places, and see which outputs move
        return (run(x + changed[..., None]) - out).abs().amax(dim=-1) > 1e-5

    if not torch.allclose(run(x.clone()), out, atol=1e-5):
        return "two calls with the same input differ: something in it is random, dropout perhaps"
    for s in range(T - 1, 0, -1):
        early = moves(position == s)[:, :s]  # (B, s)
        if early.any():
            first, where = early.any(dim=0).nonzero()[0].item(), ""
            if not early.any(dim=1).all():
                leaky, tight = (some.nonzero()[0].item() for some in (early.any(dim=1), ~early.any(dim=1)))
                where = f" in window {leaky}, and not in window {tight}"
            return f"row {first} attends to column {s}{where}: the future leaks"
    if not moves(position == 0)[:, -1].any():
        return "the last row does not move when position 0 changes: the past does not arrive"
    if moves(window > 0)[0].any():
        return "window 0 moves when the other windows change: windows of a batch must not mix"
    alike = x[:, :1].expand_as(x).clone()
    if not torch.allclose(run(alike), alike @ value, atol=1e-4):
        return "where all positions are alike, each must get their one value back, since a row of weights sums to 1"
    return None


def drawn(B, T, C, D, seed):
    """x (B, T, C) and three matrices (C, D), in numbers with one decimal."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(B, T, C), (C, D), (C, D), (C, D)]
    return tuple(torch.randn(size, generator=generator).mul(10).round().div(10).add(0.0) for size in sizes)  # no -0.0


@exercise
def one_head(answer):
    """A function x (B, T, C), query, key, value (C, D) -> (B, T, D): one causal head of attention."""
    x, *matrices = drawn(B=3, T=5, C=2, D=7, seed=2)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)  # the same numbers, not in one row in memory
    apart = {
        "each position attends over the windows of the batch, not over the positions of its window": across_windows,
        "the windows are strung together into one: windows of a batch must not mix": one_long_window,
        "every window is weighed as the first is": weights_of_first,
        "every window gets what belongs to the first": lambda x, *w: attend(x[:1].expand_as(x), *w),
    }

    def right(x, query, key, value):
        return attend(x, query, key, value)

    examine(
        answer,
        cases=[
            drawn(B=1, T=2, C=4, D=3, seed=0),
            drawn(B=2, T=4, C=6, D=3, seed=1),
            (strided, *matrices),
            drawn(B=2, T=20, C=4, D=3, seed=3),
        ],
        expected=right,
        mistakes=faulty_heads(1) | apart | faulty_heads(2),
        clues=[poked(answer), misjudged],
    )
    return "queries, keys, values, scale, mask, softmax and sum are in place, whatever B, T, C and D."


# --- one back -----------------------------------------------------------------------------------------------------


def scores_by_hand(answer, T):
    """The scaled scores (T, T) of the queries and keys that an answer makes by hand, or None if it makes nothing."""
    pair = answer(T)
    if pair is None:
        return None
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise Mistake(f"Not yet: for T = {T} it returns {a(pair)}, and two tensors are expected: q, k.")
    for name, part in zip("qk", pair):
        if part.ndim != 2 or len(part) != T:
            raise Mistake(f"Not yet: for T = {T}, {name} has the shape {tuple(part.shape)}, expected (T, D): {T} rows.")
        if not part.is_floating_point():
            raise Mistake(f"Not yet: {name} holds {type_name(part.dtype)}, expected numbers with a decimal point.")
        if part.device.type != "cpu":
            raise Mistake(f"Not yet: {name} is on the device {part.device}, expected cpu.")
    q, k = (part.detach().double() for part in pair)
    if q.shape != k.shape or not q.shape[1]:
        raise Mistake(f"Not yet: q {tuple(q.shape)} and k {tuple(k.shape)} must have the same D, 1 or more.")
    scores = q @ k.mT / math.sqrt(q.shape[1])
    if not scores.isfinite().all():
        raise Mistake("Not yet: some scores are infinite or nan, since 0 times infinity is nan: stay finite.")
    return scores


def previous(T):
    """The weights (T, T) of looking one back; position 0 has only itself."""
    return torch.eye(T)[torch.arange(T).sub(1).clamp(min=0)]


@exercise
def one_back(answer):
    """A function T -> q, k (T, D) with which every position attends to the one before it."""

    def weights(answer, T):
        scores = scores_by_hand(answer, T)
        return None if scores is None else scores.masked_fill(future(T), -math.inf).softmax(dim=-1).float()

    def where(found, T):
        scores = scores_by_hand(answer, T)
        first, rows = torch.arange(T), found[1:]
        if (scores.amax(dim=-1) - scores.amin(dim=-1) < 1e-3).all():
            return "every row shares equally: all its scores are alike, and no place is asked for"
        looks = rows.argmax(dim=-1)
        if T > 2 and torch.equal(scores[1:-1].argmax(dim=-1), first[2:]):  # whatever row 0 asks for, it gets itself
            return "each position asks for the one after it, and that one is masked: the shift goes the wrong way"
        if torch.equal(looks, first[1:]):
            return "each position attends to itself: its question fits its own offer"
        if torch.equal(looks, first[:-1]):
            share, low = rows[first[:-1], looks].min(dim=0)
            much = f"row {low.item() + 1} looks one back, but gives it {share.item():.2f}, not 0.99"
            return f"{much}: its scores lie too close together"
        if not looks.any():
            return "every position attends to position 0, not to the one before it"
        if T > 3 and torch.equal(looks[1:], first[:-2]):
            return "each position attends to the one two back"
        if torch.equal(rows[1:].where(~future(T)[2:], 2).argmin(dim=-1), first[1:-1]):
            return "the one before gets least of all: the sign of the scores is the wrong way round"
        row = (looks != first[:-1]).nonzero()[0].item()
        return f"row {row + 1} attends most to column {looks[row].item()}, not to the one before it"

    examine(answer, cases=[(4,), (2,), (7,), (32,)], expected=previous, clues=[where], call=weights, tolerance=0.01)
    return "every position gives the one before it nearly all, for T = 2, 4, 7 and 32; position 0 has only itself."
