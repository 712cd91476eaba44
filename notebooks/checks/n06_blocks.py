"""Checks of notebook 06: the parts of a block."""

import torch

from .compare import tensors
from .exercise import exercise, prediction

feed_forward_size = prediction(
    552,
    {
        512: "these are the weights alone, and a linear layer adds a bias to each of its outputs",
        544: "`down_proj` has biases too, one per output",
        520: "`up_proj` has biases too, one per output",
        144: "that is 8 to 8 twice, but the hidden layer has four times as many channels",
        568: "that is more than the feed-forward: the scale and shift of a norm are counted too",
    },
    said="8 · 32 weights and 32 biases in up_proj, 32 · 8 weights and 8 biases in down_proj.",
)

zero_init = prediction(
    "b",
    {
        "a": "`down_proj` alone also starts at 0, and its curve falls to almost 0",
        "c": "the addition passes the gradient on unchanged, and the bias of `down_proj` does learn",
        "d": "equal channels would still have a gradient: look at that of `up_proj.weight` and of `down_proj.weight`",
    },
    said="the gradient of each matrix contains the output of the other, so one of them may start at 0, but not both.",
)


def mean_and_variance(result, x, scale, shift, eps):
    """A clue: the mean and the variance of a position when scale and shift are undone."""
    right = layer_norm.solution(x, torch.ones_like(scale), 0, eps).flatten(0, -2)
    for t, (row, expected) in enumerate(zip(((result - shift) / scale).flatten(0, -2), right)):
        if row.mean().abs() > 1e-3:
            return f"without scale and shift, position {t} has the mean {row.mean():.2f}, and 0 is expected"
        found, wanted = row.var(unbiased=False).item(), expected.var(unbiased=False).item()
        if abs(found - wanted) > 0.01:
            return f"without scale and shift, position {t} has the variance {found:.2f}, and {wanted:.2f} is expected"
    return None


ONES, ZEROS, SCALE, SHIFT = torch.tensor([[1.0] * 4, [0.0] * 4, [2.0, 1.0, 3.0, 0.5], [1.0, 5.0, -1.0, 0.0]])


@exercise(
    cases=[
        (torch.tensor([[1.0, 5.0, 1.0, 5.0], [2.0, 2.0, 4.0, 8.0]]), ONES, ZEROS, 1e-5),
        (torch.tensor([[1.0, 5.0, 1.0, 5.0], [3.0, 3.0, 3.0, 3.0]]), ONES, ZEROS, 1e-5),
        (torch.tensor([[0.0, 0.0, 0.0, 4.0], [1.0, 5.0, 1.0, 5.0]]), ONES, ZEROS, 5.0),
        (torch.tensor([[1.0, 5.0, 1.0, 5.0], [0.0, 0.0, 0.0, 4.0]]), SCALE, SHIFT, 1e-5),
        (tensors(0, (2, 5, 3))[0].mT, *tensors(1, (5,), (5,)), 0.5),
    ],
    pairs=True,
    mistakes={
        "x.mean(dim=-1, keepdim=True)": {
            "0": "the mean is not subtracted",
            "x.mean(dim=-2, keepdim=True)": "the mean is taken over the positions, not over the channels of each",
            "x.mean()": "one mean for everything: each position has its own, over its channels",
        },
        "x.var(dim=-1, keepdim=True, unbiased=False)": {
            "x.var(dim=-1, keepdim=True)": "`var` divides by C - 1: the population variance needs `unbiased=False`",
            "x.var(dim=-2, keepdim=True, unbiased=False)": "the variance is taken over the positions, not the channels",
            "x.var(unbiased=False)": "one variance for everything: each position has its own, over its channels",
            "x.square().mean(dim=-1, keepdim=True)": "the squares are those of x: subtract the mean before squaring",
        },
        "torch.sqrt(variance + eps)": {
            "(variance + eps)": "divided by the variance, not by its square root",
            "(torch.sqrt(variance) + eps)": "eps is outside the square root: it is added to the variance",
            "torch.sqrt(variance)": "eps is missing: a position whose channels are all equal gives 0 / 0",
            "torch.sqrt(variance + 1e-6)": "the given eps is not used, but a small number of your own",
            "torch.sqrt(variance.clamp(min=eps))": "eps is a lower bound of the variance here: add it",
            "torch.sqrt(variance).clamp(min=eps)": "eps is a lower bound of the root here: add it to the variance",
        },
        "scale * (x": {"(x": "the scale is missing"},
        "+ shift": {
            "": "the shift is missing",
            "+ scale * shift": "the scale multiplies the shift too: the shift is last",
        },
        "": {
            "right(x * scale, 1, shift, eps)": "the scale is applied before the normalization, which undoes part of it"
        },
    },
    clues=[mean_and_variance],
    errors={
        "must match": "shapes do not fit: mean and variance keep their axis with `keepdim`; scale and shift are (C,)",
        "to unpack": "x is (T, C) or (B, T, C), so do not unpack its shape: the channels are axis -1",
    },
    said="each position has its own mean and variance, eps is inside the square root, scale and shift come last.",
)
def layer_norm(x, scale, shift, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, unbiased=False)
    return scale * (x - mean) / torch.sqrt(variance + eps) + shift


class Part(str):
    """A function of x that is printed as what it does."""

    def __call__(self, x):
        return eval(self)


LESS, HALF, DOUBLE, SQUARE, ZERO = [Part(text) for text in ("x - 1", "x / 2", "2 * x", "x**2", "0 * x")]
CENTER, SUM = Part("x - x.mean(dim=-1, keepdim=True)"), Part("x.cumsum(dim=-2)")
X, BATCH = torch.tensor([[3.0, 5.0]]), tensors(0, (2, 4, 3))[0]


def which_half(result, x, norm1, attention, norm2, feed_forward):
    """A clue: which of the sublayers gives 0 in the first case that is wrong."""
    if attention is ZERO and feed_forward is ZERO:
        return "with both sublayers giving 0, x must be returned as it is: something else changes the residual stream"
    if feed_forward is ZERO:
        return "the step with attention is wrong: here the feed-forward gives 0"
    if attention is ZERO:
        return "the step with the feed-forward is wrong: here attention gives 0"
    return None


@exercise(
    cases=[
        (X, LESS, ZERO, HALF, ZERO),
        (X, LESS, DOUBLE, HALF, ZERO),
        (X, LESS, ZERO, HALF, SQUARE),
        (X, LESS, DOUBLE, HALF, SQUARE),
        (BATCH[0], CENTER, SUM, HALF, SQUARE),
        (BATCH, HALF, SUM, CENTER, SQUARE),
    ],
    pairs=True,
    mistakes={
        "x = x + attention(norm1(x))": {
            "x = norm1(x) + attention(norm1(x))": "norm1 is in the residual stream: x itself skips attention",
            "x = norm1(x + attention(x))": "norm1 comes after the addition (post-norm), in the residual stream",
            "x = x + norm1(attention(x))": "norm1 comes after attention: attention reads through it",
            "x = attention(norm1(x))": "the skip connection past attention is missing",
            "x = x + attention(x)": "attention reads x without norm1",
            "x = x + attention(norm2(x))": "attention reads through norm2: it has norm1",
        },
        "return x + feed_forward(norm2(x))": {
            "return norm2(x) + feed_forward(norm2(x))": "norm2 is in the residual stream: x itself skips this step",
            "return norm2(x + feed_forward(x))": "norm2 comes after the addition (post-norm): it normalizes the sum",
            "return x + norm2(feed_forward(x))": "norm2 comes after the feed-forward, which reads through it",
            "return feed_forward(norm2(x))": "the skip connection past the feed-forward is missing",
            "return x + feed_forward(x)": "the feed-forward reads the residual stream without norm2",
            "return x + feed_forward(norm1(x))": "norm1 is used twice: the feed-forward has norm2",
        },
        "": {
            "(x := norm1(x)) + attention(x) + feed_forward(norm2(x))": (
                "two mistakes: norm1 is in the residual stream, and both sublayers read the same x"
            ),
            "x + attention(norm1(x)) + feed_forward(norm2(x))": "the feed-forward does not read what attention added",
            "x + feed_forward(norm2(x + attention(norm1(x))))": "the output of attention is not added at the end",
            "right(x, norm2, feed_forward, norm1, attention)": "the order is exchanged: attention comes first",
        },
    },
    clues=[which_half],
    said="each sublayer has a skip connection and its own norm, and the feed-forward reads what attention added.",
)
def repaired_block(x, norm1, attention, norm2, feed_forward):
    x = x + attention(norm1(x))
    return x + feed_forward(norm2(x))


@exercise(
    cases=[
        tuple(map(torch.tensor, ([2.0, 3.0], [1.0, 10.0], [[1.0, 2.0], [4.0, 0.5]], [5.0, 7.0]))),
        tuple(map(torch.tensor, ([2.0, 3.0], [1.0, 10.0], [[1.0, 2.0], [4.0, 0.5], [-1.0, 1.0]], [5.0, 7.0, 100.0]))),
        tuple(tensors(2, (4,), (4,), (2, 4), (2,))),
    ],
    pairs=True,
    mistakes={
        "weight * scale": {
            "weight": "the weight is the old one: the scale multiplies every channel before it",
            "weight / scale": "the weight is divided by the scale: it multiplies",
            "weight * scale + shift": "the shift is in the new weight: it belongs to the bias",
            "(weight * scale).mT": "the new weight is transposed: (N, C) is expected",
            "weight * scale[:, None]": "the scale multiplies the N rows of the weight: it belongs to the C channels",
        },
        "bias + weight @ shift": {
            "bias": "the bias is the old one: the shift is lost",
            "weight @ shift": "the old bias is lost",
            "bias + (weight * scale) @ shift": "the scale is in the new bias: the shift is added after the scale",
            "bias - weight @ shift": "the shift is subtracted: it is added",
            "bias + shift.sum()": "the shift is summed without the weight: it must pass through it",
            "bias + shift": "the shift is added to the bias as it is: it passes through the weight like any channel",
            "bias + shift @ weight": "the shift passes through the weight along the wrong axis",
        },
    },
    said="the norm and the layer are one linear step now, and only the mean and the division remain outside.",
)
def folded_norm(scale, shift, weight, bias):
    return weight * scale, bias + weight @ shift
