"""Checks of notebook 06: the parts of a block.

A norm and a block can be wrong in several places at once. Their mistakes are written as parts that differ from the
right one, and every pair of parts makes one more mistake, which the answer is told as two.
"""

from itertools import combinations

import torch
from torch.nn import functional as F

from gptlib.checks.judge import Mistake, choice, copied, examine, exercise, number, same
from gptlib.checks.words import a, told, type_name


@exercise
def feed_forward_size(answer):
    """A number: the parameters of a feed-forward with C = 8, weights and biases."""
    mistakes = {
        512: "these are the weights alone, and a linear layer adds a bias to each number that it gives out",
        544: "`narrow` has biases too, one for each number that it gives out",
        520: "`widen` has biases too, one for each number that it gives out",
        576: "a bias belongs to a number that comes out: `narrow` gives out 8 numbers, not 32",
        528: "a bias belongs to a number that comes out: `widen` gives out 32 numbers, not 8",
        592: "one bias for each number that comes out, none for those that go in",
        144: "8 to 8 and back again, but the layer widens four times",
        128: "8 to 8 and back again without biases, but the layer widens four times",
        288: "that is `widen` alone, and `narrow` follows",
        264: "that is `narrow` alone, and `widen` comes before it",
        256: "that is one of the two matrices",
        72: "that is one linear layer, 8 to 8",
        40: "these are the biases alone",
        568: "that is more than the feed-forward: the gain and bias of a norm are counted too",
        808: "that is more than the feed-forward: attention is counted too",
    }
    number(answer, 552, mistakes, tolerance=0.1)
    return "8 · 32 weights and 32 biases to widen, 32 · 8 weights and 8 biases to narrow."


# --- LayerNorm ----------------------------------------------------------------------------------------------------


def variance(x, axis):
    return x.var(axis, keepdim=True, unbiased=False)


def under_root(centred, variance, eps):
    return centred / torch.sqrt(variance + eps)


def affine(x, gain, bias):
    return x * gain + bias


def norm(x, gain, bias, eps, axis=-1, var_axis="axis", centre=True, spread=variance, divide=under_root, end=affine):
    """LayerNorm with each of its parts open to change."""
    every = tuple(range(x.ndim))
    several = {"all": every, "all but the first": every[1:], "all but the last": every[:-1]}
    axis, var_axis = several.get(axis, axis), several.get(var_axis, var_axis)
    size = spread(x, axis if var_axis == "axis" else var_axis)
    return end(divide(x - centre * x.mean(axis, keepdim=True), size, eps), gain, bias)


def from_mean(x, axis):
    return x - x.mean(axis, keepdim=True)


NORM_AXES = {  # and whether the mean is subtracted
    "normalised over the positions (axis T), not over the channels: position 0 hears the last one": {"axis": -2},
    "normalised over axis 0, not over the channels, which are the last axis": {"axis": 0},
    "normalised over axis 1, the positions of a batch (B, T, C): the channels are the last axis": {"axis": 1},
    "one mean and variance for everything: each position has its own, over its channels": {"axis": "all"},
    "positions and channels are normalised together: each position has its own mean": {"axis": (-2, -1)},
    "each window of a batch is normalised as a whole: each position has its own mean": {"axis": "all but the first"},
    "normalised over all positions of all windows (batch norm), not over the channels": {"axis": "all but the last"},
    "the variance is one for everything: each position has its own, over its channels": {"var_axis": "all"},
    "the variance is taken over the positions, and it belongs to the channels of each": {"var_axis": -2},
    "the mean is taken over the positions, and it belongs to the channels of each": {"axis": -2, "var_axis": -1},
    "one mean for everything, and it belongs to the channels of each position": {"axis": "all", "var_axis": -1},
    "the mean is not subtracted": {"centre": 0},
    "the mean is added, not subtracted": {"centre": -1},
    "the mean is not subtracted, nor taken out of the squares: this is RMSNorm": {
        "centre": 0,
        "spread": lambda x, axis: x.square().mean(axis, keepdim=True),
    },
}
NORM_PARTS = {
    "spread": {
        "the variance is one number for everything (`mean` or `sum` without an axis): each position has its own": (
            lambda x, axis: from_mean(x, axis).square().mean()
        ),
        "population variance expected: `unbiased=False` (the squares are divided by C, not by C - 1)": (
            lambda x, axis: x.var(axis, keepdim=True)
        ),
        "the squares are those of x itself: take the mean away before you square": (
            lambda x, axis: x.square().mean(axis, keepdim=True)
        ),
        "the squares are added up and not divided by C: the variance is their mean": (
            lambda x, axis: from_mean(x, axis).square().sum(axis, keepdim=True)
        ),
        "divided by the mean distance from the mean: the variance is the mean of the squares": (
            lambda x, axis: from_mean(x, axis).abs().mean(axis, keepdim=True).square()
        ),
    },
    "divide": {
        "divided by the variance, not by its root": lambda x, var, eps: x / (var + eps),
        "eps stands outside the root: it is added to the variance": lambda x, var, eps: x / (var.sqrt() + eps),
        "eps is missing: a position whose channels are all equal gives 0 / 0": lambda x, var, eps: x / var.sqrt(),
        "the eps that is given is not used, but a small one of your own": lambda x, var, eps: x / (var + 1e-6).sqrt(),
        "eps is squared: it is added to the variance as it is": lambda x, var, eps: x / (var + eps**2).sqrt(),
        "eps is added after the division: it belongs under the root": lambda x, var, eps: x / var.sqrt() + eps,
        "eps goes in twice, under the root and outside": lambda x, var, eps: x / ((var + eps).sqrt() + eps),
        "eps is a floor under the variance: it is added to it": lambda x, var, eps: x / var.clamp(min=eps).sqrt(),
        "eps is a floor under the root: it is added to the variance": lambda x, var, eps: x / var.sqrt().clamp(min=eps),
        "eps is subtracted, and it is there to keep the variance above 0": lambda x, var, eps: x / (var - eps).sqrt(),
        "multiplied by the root: large numbers grow, and they must shrink": lambda x, var, eps: x * (var + eps).sqrt(),
        "the mean is subtracted, but nothing is divided by the size": lambda x, var, eps: x,
    },
    "end": {
        "the gain is forgotten": lambda x, gain, bias: x + bias,
        "the bias is forgotten": lambda x, gain, bias: x * gain,
        "gain and bias are forgotten": lambda x, gain, bias: x,
        "gain and bias are exchanged": lambda x, gain, bias: x * bias + gain,
        "the bias is added before the gain, so the gain multiplies it too": lambda x, gain, bias: (x + bias) * gain,
        "the bias is subtracted, not added": lambda x, gain, bias: x * gain - bias,
        "the gain is added: it multiplies": lambda x, gain, bias: x + gain + bias,
        "gain and bias are added up, and their sum multiplies": lambda x, gain, bias: x * (gain + bias),
        "divided by the gain: it multiplies": lambda x, gain, bias: x / gain + bias,
        "the gain counts as 1 + gain: a gain of 1 changes nothing": lambda x, gain, bias: x * (1 + gain) + bias,
    },
}


def with_parts(parts):
    return lambda x, gain, bias, eps: norm(x, gain, bias, eps, **parts)


def gain_first(x, gain, bias, eps):
    return norm(x * gain, torch.ones_like(gain), bias, eps)


def both_first(x, gain, bias, eps):
    return norm(x * gain + bias, torch.ones_like(gain), torch.zeros_like(bias), eps)


def mean_divided(x, gain, bias, eps):
    return (x - x.mean(-1, keepdim=True) / (variance(x, -1) + eps).sqrt()) * gain + bias


def eps_last(x, gain, bias, eps):
    return norm(x, gain, bias + eps, 0)


def norm_mistakes():
    """Each mistake alone, then in pairs."""
    parts = NORM_AXES | {say: {part: wrong} for part, ways in NORM_PARTS.items() for say, wrong in ways.items()}
    found = {say: with_parts(wrong) for say, wrong in parts.items()}
    found |= {
        "the gain is applied before the norm, which takes some of it out again: it comes last": gain_first,
        "gain and bias are applied before the norm, which takes some of them out again: they come last": both_first,
        "the mean alone is divided: brackets are missing around the difference": mean_divided,
        "eps is added at the end: it belongs under the root": eps_last,
    }
    for (one, wrong), (other, too) in combinations(parts.items(), 2):
        if not set(wrong) & set(too):
            found[f"two things: {one}; and {other}"] = with_parts(wrong | too)
    return found


def mean_and_size(result, x, gain, bias, eps):
    """A clue: what the channels of a position look like when gain and bias are taken away again."""
    if result.dtype != x.dtype:
        return f"the result holds {type_name(result.dtype)}, expected {type_name(x.dtype)}"
    rows = ((result.detach() - bias) / gain).flatten(0, -2)
    right = norm(x, torch.ones_like(gain), 0, eps).flatten(0, -2)
    for t, (row, expected) in enumerate(zip(rows, right)):
        if row.mean().abs() > 1e-3:
            return f"without gain and bias, position {t} has the mean {row.mean():.2f}: its channels should have mean 0"
        if abs(variance(row, -1) - variance(expected, -1)) > 0.01:
            found, wanted = variance(row, -1).item(), variance(expected, -1).item()
            return f"without gain and bias, position {t} has the variance {found:.2f}, and {wanted:.2f} is expected"
    return None


NORM_ERRORS = {
    "must match": "shapes do not line up: mean and variance must keep their axis (`keepdim`), gain and bias have C",
    "to unpack": "x has two axes (T, C) or three (B, T, C), so do not take its shape apart: the channels are axis -1",
    "Dimension out of range": "x has two axes (T, C) or three (B, T, C), and the channels are always the last",
    "view size": "not every tensor lies in memory in its own order, and `view` needs that: do without it",
}


def norm_called(answer, *inputs):
    """Calls an answer so that an error about axes says where to look."""
    try:
        return answer(*inputs)
    except (RuntimeError, IndexError, ValueError) as error:
        for words, where in NORM_ERRORS.items():
            if words in str(error):
                raise Mistake(f"Not yet: {where}.\n\n  {told(error)}") from None
        raise


@exercise
def layer_norm(answer):
    """A function x (..., C), gain (C,), bias (C,), eps -> (..., C): LayerNorm."""
    ones, zeros = torch.ones(4), torch.zeros(4)
    gain, bias = torch.tensor([2.0, 1.0, 3.0, 0.5]), torch.tensor([1.0, 5.0, -1.0, 0.0])
    batch = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).mul(3).round(decimals=1).mT  # (B, T, C)
    examine(
        answer,
        cases=[
            (torch.tensor([[1.0, 5.0, 1.0, 5.0], [2.0, 2.0, 4.0, 8.0]]), ones, zeros, 1e-5),
            (torch.tensor([[1.0, 5.0, 1.0, 5.0], [3.0, 3.0, 3.0, 3.0]]), ones, zeros, 1e-5),
            (torch.tensor([[0.0, 0.0, 0.0, 4.0], [1.0, 5.0, 1.0, 5.0]]), ones, zeros, 1.0),
            (torch.tensor([[1.0, 5.0, 1.0, 5.0], [0.0, 0.0, 0.0, 4.0]]), gain, bias, 1e-5),
            (batch, torch.tensor([2.0, 1.0, 3.0, 0.5, 1.5]), torch.tensor([1.0, 5.0, -1.0, 2.0, 0.0]), 0.5),
        ],
        expected=lambda x, gain, bias, eps: F.layer_norm(x, gain.shape, gain, bias, eps),
        mistakes=norm_mistakes(),
        clues=[mean_and_size],
        call=norm_called,
    )
    return "each position has its own mean and variance, eps lies under the root, gain and bias come last."


# --- the block ----------------------------------------------------------------------------------------------------


class Part:
    """A part of a block for small numbers, which says what it does when it is printed."""

    def __init__(self, does, function):
        self.does, self.function = does, function

    def __call__(self, x):
        return self.function(x)

    def __repr__(self):
        return self.does


def past(x):
    return x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1)[:, None]


# What the halves of a block can do wrong: x goes in, h is on the road between them; n and m are the norms.
FIRST_HALF = {
    "norm1 stands on the road: what goes past attention must be x itself": lambda x, n, a, m, f: n(x) + a(n(x)),
    "norm1 comes after the addition (post-norm): the road runs through it": lambda x, n, a, m, f: n(x + a(x)),
    "norm1 comes after attention: attention reads through it": lambda x, n, a, m, f: x + n(a(x)),
    "a residual is dropped: attention takes the place of x": lambda x, n, a, m, f: a(n(x)),
    "attention reads x without norm1": lambda x, n, a, m, f: x + a(x),
    "attention reads through norm2, and norm1 is its own": lambda x, n, a, m, f: x + a(m(x)),
    "attention is left out": lambda x, n, a, m, f: x,
    "attention takes the place of x, and reads it without norm1": lambda x, n, a, m, f: a(x),
    "attention takes the place of x, and norm1 comes after it": lambda x, n, a, m, f: n(a(x)),
    "attention is subtracted from the road": lambda x, n, a, m, f: x - a(n(x)),
    "attention multiplies the road: it must add": lambda x, n, a, m, f: x * a(n(x)),
    "the feed-forward stands where attention belongs": lambda x, n, a, m, f: x + f(n(x)),
    "x is added twice beside attention": lambda x, n, a, m, f: 2 * x + a(n(x)),
}
SECOND_HALF = {
    "norm2 stands on the road: what goes past the feed-forward must be the sum itself": (
        lambda x, h, n, a, m, f: m(h) + f(m(h))
    ),
    "norm2 comes after the addition (post-norm): the road runs through it": lambda x, h, n, a, m, f: m(h + f(h)),
    "norm2 comes after the feed-forward, which reads through it": lambda x, h, n, a, m, f: h + m(f(h)),
    "a residual is dropped: the feed-forward takes the place of the road": lambda x, h, n, a, m, f: f(m(h)),
    "the feed-forward reads the road without norm2": lambda x, h, n, a, m, f: h + f(h),
    "norm1 is used twice: the feed-forward has norm2 as its own": lambda x, h, n, a, m, f: h + f(n(h)),
    "the feed-forward is left out": lambda x, h, n, a, m, f: h,
    "both parts read the same x (parallel): the feed-forward does not hear what attention brought": (
        lambda x, h, n, a, m, f: h + f(m(x))
    ),
    "both parts read norm1(x) (parallel): the feed-forward does not hear what attention brought": (
        lambda x, h, n, a, m, f: h + f(n(x))
    ),
    "both parts read the same norm1(x) (parallel): the feed-forward does not hear what attention brought": (
        lambda x, h, n, a, m, f: h + f(m(n(x)))
    ),
    "both parts read x (parallel), the feed-forward without a norm": lambda x, h, n, a, m, f: h + f(x),
    "the feed-forward is added to the old x: what attention brought is lost from the road": (
        lambda x, h, n, a, m, f: x + f(m(h))
    ),
    "x is added a second time: the road holds it already": lambda x, h, n, a, m, f: x + h + f(m(h)),
    "the road is added twice beside the feed-forward": lambda x, h, n, a, m, f: 2 * h + f(m(h)),
    "the feed-forward reads only what attention brought, not the road": lambda x, h, n, a, m, f: h + f(m(h - x)),
    "a norm too many: the sum at the end goes through norm2 as well": lambda x, h, n, a, m, f: m(h + f(m(h))),
    "a norm too many: the sum at the end goes through norm1": lambda x, h, n, a, m, f: n(h + f(m(h))),
    "the feed-forward takes the place of the road, and reads it without norm2": lambda x, h, n, a, m, f: f(h),
    "the feed-forward takes the place of the road, and norm2 comes after it": lambda x, h, n, a, m, f: m(f(h)),
    "the feed-forward is subtracted from the road": lambda x, h, n, a, m, f: h - f(m(h)),
    "the feed-forward multiplies the road: it must add": lambda x, h, n, a, m, f: h * f(m(h)),
    "attention stands where the feed-forward belongs": lambda x, h, n, a, m, f: h + a(m(h)),
}
WHOLE = {
    "post-norm: each norm comes after the addition, so the road runs through it": (
        lambda x, n, a, m, f: m((h := n(x + a(x))) + f(h))
    ),
    "the order is exchanged: attention comes first, then the feed-forward": (
        lambda x, n, a, m, f: (h := x + f(m(x))) + a(n(h))
    ),
    "the order is exchanged, and not the norms: attention comes first, then the feed-forward": (
        lambda x, n, a, m, f: (h := x + f(n(x))) + a(m(h))
    ),
    "both residuals are dropped: the parts take the place of the road": lambda x, n, a, m, f: f(m(a(n(x)))),
    "only one residual, past both parts: each needs its own": lambda x, n, a, m, f: x + f(m(a(n(x)))),
    "no norm is used: the parts read the road as it is": lambda x, n, a, m, f: (h := x + a(x)) + f(h),
    "norm1 and norm2 are exchanged": lambda x, n, a, m, f: (h := x + a(m(x))) + f(n(h)),
    "x comes back as it went in: neither part has added anything": lambda x, n, a, m, f: x,
}


def block(x, norm1, attention, norm2, feed_forward):
    x = x + attention(norm1(x))
    return x + feed_forward(norm2(x))


def halves(first, second):
    return lambda x, n, a, m, f: second(x, first(x, n, a, m, f), n, a, m, f)


def block_mistakes():
    """Whole blocks of another kind, then one half wrong, then both."""

    def right_first(x, n, a, m, f):
        return x + a(n(x))

    def right_second(x, h, n, a, m, f):
        return h + f(m(h))

    return (
        WHOLE
        | {one: halves(first, right_second) for one, first in FIRST_HALF.items()}
        | {other: halves(right_first, second) for other, second in SECOND_HALF.items()}
        | {
            f"two things: {one}; and {other}": halves(first, second)
            for one, first in FIRST_HALF.items()
            for other, second in SECOND_HALF.items()
        }
    )


SILENT = Part("gives 0", torch.zeros_like)


def which_half(result, x, norm1, attention, norm2, feed_forward):
    """A clue: which of the parts has to be silent for the block to be right."""
    if attention is feed_forward:
        return "with both parts silent x must come back as it went in: something stands on the road"
    if feed_forward is SILENT:
        return "the half with attention is wrong: it shows when the feed-forward is silent"
    if attention is SILENT:
        return "the half with the feed-forward is wrong: it shows when attention is silent"
    return "each half alone is right, together they are not: look at what the feed-forward reads and is added to"


@exercise
def repaired_block(answer):
    """A function x (..., T, C), norm1, attention, norm2, feed_forward -> (..., T, C): a pre-norm block."""
    less, half = Part("takes 1 away", lambda x: x - 1), Part("halves", lambda x: x / 2)
    double, square = Part("doubles", lambda x: 2 * x), Part("squares", torch.square)
    centre = Part("takes the mean away", lambda x: x - x.mean(dim=-1, keepdim=True))
    size = Part("brings to one size", lambda x: x / (x.square().mean(dim=-1, keepdim=True) + 1).sqrt())
    average, bend = Part("averages the past", past), Part("cuts below 0", F.relu)
    x, batch = torch.tensor([[3.0, 5.0]]), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    examine(
        answer,
        cases=[
            (x, less, SILENT, half, SILENT),
            (x, less, double, half, SILENT),
            (x, less, SILENT, half, square),
            (x, less, double, half, square),
            (batch[0], centre, average, size, bend),
            (batch, size, average, centre, square),
        ],
        expected=block,
        mistakes=block_mistakes(),
        clues=[which_half],
    )
    return "the road runs past both parts, each reads it through its own norm, and the feed-forward hears attention."


@exercise
def silent_start(answer):
    """A letter: why a feed-forward with both matrices at 0 learns no more than one number for each channel."""
    reasons = {
        "a": "`narrow` alone also starts at 0, and its curve falls to almost nothing",
        "c": "the plus passes the gradient on unchanged, and the bias of `narrow` does learn: the curve falls a little",
        "d": "equal channels would still have a gradient and learn something together; "
        "look at what is left of the gradient of `widen.weight` and of `narrow.weight`",
    }
    choice(answer, "b", reasons)
    return "each matrix hears through the other, so one may start silent, but not both."


# --- the norm folded into the layer above it ----------------------------------------------------------------------


SQUARE = (
    torch.tensor([2.0, 3.0]),
    torch.tensor([1.0, 10.0]),
    torch.tensor([[1.0, 2.0], [4.0, 0.0]]),
    torch.tensor([5.0, 7.0]),
)
WRONG_AXES = {  # what fails unless N and C are equal
    "the gain multiplies the N rows of the weight, and it belongs to the C channels": (
        0,
        lambda gain, bias, weight, offset: weight * gain[:, None],
    ),
    "the gain is multiplied from the wrong side: it belongs to the C channels that come in": (
        0,
        lambda gain, bias, weight, offset: gain @ weight,
    ),
    "the bias of the norm is added to the offset as it is: it has to pass through the weight like any channel": (
        1,
        lambda gain, bias, weight, offset: offset + bias,
    ),
    "the bias of the norm passes through the weight along the wrong axis": (
        1,
        lambda gain, bias, weight, offset: offset + bias @ weight,
    ),
    "the bias of the norm is multiplied by each weight, and a row of products must be added up to one number": (
        1,
        lambda gain, bias, weight, offset: offset + weight * bias,
    ),
    "the bias of the norm is multiplied by each weight, and the products are added up along the wrong axis": (
        1,
        lambda gain, bias, weight, offset: offset + (weight * bias).sum(dim=0),
    ),
    "the gain multiplies the offset, and nothing of the offset has passed through the norm": (
        1,
        lambda gain, bias, weight, offset: offset * gain + weight @ bias,
    ),
}


def both(answer, *inputs):
    """The pair that an answer returns; where axes do not line up, says which, as seen with a square weight."""
    try:
        return answer(*inputs)
    except RuntimeError as error:
        try:
            pair = answer(*copied(SQUARE))
        except Exception:
            raise error from None
        for diagnosis, (place, wrong) in WRONG_AXES.items():
            if isinstance(pair, (tuple, list)) and len(pair) == 2 and same(pair[place], wrong(*SQUARE)):
                raise Mistake(f"Not yet: {diagnosis}.\n\n  {told(error)}") from None
        where = "shapes do not line up: weight is (N, C), gain and bias are (C,), offset is (N,)"
        raise Mistake(f"Not yet: {where}.\n\n  {told(error)}") from None


def wrong_axis(place):
    """A clue for one of the pair: where the weight is square, which axis was taken for which."""

    def clue(result, *inputs):
        square = inputs[2].shape[0] == inputs[2].shape[1]
        made = (d for d, (where, wrong) in WRONG_AXES.items() if where == place and same(result, wrong(*inputs)))
        return next(made, None) if square else None

    return clue


def part_of_pair(place):
    """How to call an answer that returns a pair, and look at one of the two."""

    def call(answer, *inputs):
        pair = both(answer, *inputs)
        if pair is None:
            return None
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise Mistake(f"Not yet: it returns {a(pair)}, and a pair is expected: the new weight and the new offset.")
        if all(isinstance(one, torch.Tensor) for one in pair) and pair[0].ndim == 1 and pair[1].ndim == 2:
            raise Mistake("Not yet: the pair is in the wrong order: first the new weight (N, C), then the offset (N,).")
        return pair[place]

    return call


@exercise
def folded_norm(answer):
    """A function gain (C,), bias (C,), weight (N, C), offset (N,) -> the weight and offset that hold them all."""
    gain, bias, weight, offset = SQUARE
    more = torch.cat([weight, torch.tensor([[-1.0, 1.0]])]), torch.tensor([5.0, 7.0, 100.0])
    numbers = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).mul(3).round(decimals=1)
    cases = [
        SQUARE,
        (gain, bias, *more),
        (numbers[0, :4], numbers[1, :4], numbers[2:, :4], numbers[:2, 5]),
    ]
    examine(
        answer,
        cases,
        expected=lambda gain, bias, weight, offset: weight * gain,
        mistakes={
            "the weight is the old one: the gain multiplies every channel before it arrives there": (
                lambda gain, bias, weight, offset: weight
            ),
            "the weight is divided by the gain": lambda gain, bias, weight, offset: weight / gain,
            "the gain is added to the weight: it multiplies the channels": lambda g, b, weight, offset: weight + g,
            "the norm's bias has come into the weight: it does not depend on x, so it belongs to the offset": (
                lambda gain, bias, weight, offset: weight * gain + bias
            ),
            "the weight is multiplied by the bias of the norm, not by its gain": lambda g, b, weight, o: weight * b,
            "the gain counts as 1 + gain in the weight": lambda gain, bias, weight, offset: weight * (1 + gain),
            "the weight is transposed: (N, C) is expected": lambda gain, bias, weight, offset: (weight * gain).mT,
            "the weight and the gain are multiplied and summed up: the new weight has one number for each old one": (
                lambda gain, bias, weight, offset: weight @ gain
            ),
            "the gain is squared": lambda gain, bias, weight, offset: weight * gain**2,
        },
        clues=[
            wrong_axis(0),
            lambda result, *inputs: "in the new weight: through it, a channel counts more or less than before",
        ],
        call=part_of_pair(0),
    )
    examine(
        answer,
        cases,
        expected=lambda gain, bias, weight, offset: offset + weight @ bias,
        mistakes={
            "the offset is the old one: the bias of the norm is lost": lambda gain, bias, weight, offset: offset,
            "the old offset is lost": lambda gain, bias, weight, offset: weight @ bias,
            "the gain has come into the offset: the norm adds its bias after the gain": (
                lambda gain, bias, weight, offset: offset + (weight * gain) @ bias
            ),
            "the gain has come into the offset, and the old offset is lost": lambda gain, bias, weight, offset: (
                (weight * gain) @ bias
            ),
            "the bias of the norm is subtracted": lambda gain, bias, weight, offset: offset - weight @ bias,
            "the offset holds the gain where the bias of the norm belongs": lambda gain, bias, weight, offset: (
                offset + weight @ gain
            ),
            "the bias of the norm is added up without the weight: it passes through the weight like any channel": (
                lambda gain, bias, weight, offset: offset + bias.sum()
            ),
            "the bias of the norm is divided by the gain on its way": lambda gain, bias, weight, offset: (
                offset + weight @ (bias / gain)
            ),
            "all products of bias and weight are added up to one number: each of the N rows has its own sum": (
                lambda gain, bias, weight, offset: offset + (weight * bias).sum()
            ),
            "the bias of the norm is averaged: a linear layer adds up": lambda gain, bias, weight, offset: (
                offset + weight @ bias / len(bias)
            ),
            "the offset takes the bias of the norm to be 1 everywhere": lambda g, b, w, o: o + w.sum(dim=1),
            "the bias of the norm goes in twice": lambda gain, bias, weight, offset: offset + 2 * weight @ bias,
            "only the first channel's bias comes through": lambda g, bias, weight, o: o + weight[:, 0] * bias[0],
        },
        clues=[
            wrong_axis(1),
            lambda result, *inputs: "in the new offset: when every n is 0, another number comes out than before",
        ],
        call=part_of_pair(1),
    )
    return "norm and layer are one step now, and only the mean and the division are left outside."
