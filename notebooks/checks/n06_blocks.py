"""Checks of notebook 06: the parts of a block."""

import torch

from gptlib import FeedForward

from .compare import tensors
from .exercise import exercise, prediction

feed_forward_size = prediction(
    552,
    {
        512: "these are the weights alone, and a linear layer adds a bias to each of its outputs",
        544: "`down_proj` has biases too, one for each of its 8 outputs",
        520: "`up_proj` has biases too, one for each of its 32 outputs",
        144: "that is 8 to 8 and back again, but the hidden layer is four times as wide",
        288: "that is `up_proj` alone, and `down_proj` follows",
    },
    said="8 · 32 weights and 32 biases in the up-projection, 32 · 8 weights and 8 biases in the down-projection.",
)


def mean_and_variance(result, x, scale, shift, eps):
    """A clue: the mean and variance of a position's channels when scale and shift are undone."""
    rows, rights = (((y - shift) / scale).flatten(0, -2) for y in (result, layer_norm.solution(x, scale, shift, eps)))
    for t, (row, right) in enumerate(zip(rows, rights)):
        found, expected = row.var(unbiased=False).item(), right.var(unbiased=False).item()
        if row.mean().abs() > 1e-3:
            return f"without scale and shift, position {t} has the mean {row.mean():.2f}: it should be 0"
        if abs(found - expected) > 0.01:
            return f"without scale and shift, position {t} has the variance {found:.2f}, expected {expected:.2f}"
    return None


A, B = [1.0, 5.0, 1.0, 5.0], [2.0, 2.0, 4.0, 8.0]
SCALE, SHIFT = torch.tensor([2.0, 1.0, 3.0, 0.5, 1.5]), torch.tensor([1.0, 5.0, -1.0, 2.0, 0.0])
BATCH = tensors(0, (2, 3, 5), spread=3.0)[0] * torch.tensor([0.2, 1.0, 1.0])[:, None]
MOMENTS = "x.mean(dim=-1, keepdim=True)\n    variance = x.var(dim=-1, keepdim=True, unbiased=False)"


@exercise(
    cases=[
        *[(torch.tensor([A, row]), torch.ones(4), torch.zeros(4), 1e-5) for row in (B, [3.0, 3.0, 3.0, 3.0])],
        (torch.tensor([[0.0, 0.0, 0.0, 4.0], A]), torch.ones(4), torch.zeros(4), 1.0),
        *[(torch.tensor([B, A]), SCALE[:4], SHIFT[:4], 1e-5), (BATCH, SCALE, SHIFT, 0.5)],
    ],
    pairs=True,
    mistakes={
        MOMENTS: {
            MOMENTS.replace("-1", "-2"): "normalized over the positions, not over the channels: the future leaks",
            MOMENTS.replace("-1", "1"): "right for (T, C), but in (B, T, C) axis 1 holds the positions: use axis -1",
            MOMENTS.replace("-1", "(-2, -1)"): "positions are normalized together: each has its own mean and variance",
            "0.0\n    variance = x.square().mean(dim=-1, keepdim=True)": "the mean is not subtracted: this is RMSNorm",
        },
        "x.mean(dim=-1, keepdim=True)": {"0.0": "the mean is not subtracted from x"},
        "x.var(dim=-1, keepdim=True, unbiased=False)": {
            "x.var(dim=-1, keepdim=True)": "the variance divides by C - 1: LayerNorm divides by C, `unbiased=False`",
            "x.square().mean(dim=-1, keepdim=True)": "the squares are those of x itself: subtract the mean before",
        },
        "torch.sqrt(variance + eps)": {
            "(variance + eps)": "divided by the variance, not by its root",
            "(torch.sqrt(variance) + eps)": "eps is outside the root: it is added to the variance",
            "torch.sqrt(variance)": "eps is missing: a position whose channels are all equal gives 0 / 0",
            "torch.sqrt(variance + 1e-5)": "the eps that is given is not used, but a small constant",
        },
        "scale * (x": {"(x": "the scale is missing", "(scale * x": "x is scaled before the mean is subtracted"},
        "+ shift": {"": "the shift is missing", "+ shift * scale": "the scale multiplies the shift too: it comes last"},
        "": {"right(x, shift, scale, eps)": "scale and shift are exchanged"},
    },
    clues=[mean_and_variance],
    errors={"must match": "two shapes do not broadcast: do mean and variance keep their axis (`keepdim`)?"},
    said="each position has its own mean and variance, eps is under the root, scale and shift come last.",
)
def layer_norm(x, scale, shift, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, unbiased=False)
    return scale * (x - mean) / torch.sqrt(variance + eps) + shift


LAYERS = {"returns 0": torch.zeros_like, "subtracts 1": lambda x: x - 1, "squares": torch.square}
LAYERS |= {"halves": lambda x: x / 2, "doubles": lambda x: 2 * x}


def of_simple_layers(answer, x, norm1, attention, norm2, feed_forward):
    return answer(x, *(LAYERS[name] for name in (norm1, attention, norm2, feed_forward)))


def which_half(result, x, norm1, attention, norm2, feed_forward):
    """A clue: which of the two sublayers must return 0 for the block to be right."""
    if attention == feed_forward:
        return "where both sublayers return 0, x must come back unchanged: something alters the residual stream"
    if feed_forward == "returns 0":
        return "the half with attention is wrong: this is seen where the feed-forward returns 0"
    if attention == "returns 0":
        return "the half with the feed-forward is wrong: this is seen where attention returns 0"
    return "each half alone is right, together they are not: what does the feed-forward read, and where is it added?"


X = torch.tensor([[3.0, 5.0]])


@exercise(
    cases=[
        *[(X, "subtracts 1", a, "halves", f) for f in ("returns 0", "squares") for a in ("returns 0", "doubles")],
        (tensors(0, (2, 3, 4))[0], "halves", "squares", "doubles", "subtracts 1"),
    ],
    pairs=True,
    mistakes={
        "x + attention(norm1(x))": {
            "norm1(x) + attention(norm1(x))": "norm1 is on the residual stream: what is added to must be x itself",
            "norm1(x + attention(x))": "norm1 comes after the addition (post-norm): only attention should read it",
            "x + norm1(attention(x))": "norm1 comes after attention: attention should read norm1(x)",
            "attention(norm1(x))": "the residual connection is missing: attention replaces x",
            "x + attention(x)": "attention reads x without norm1",
            "x + attention(norm2(x))": "attention reads norm2(x), and norm1 is its own",
        },
        "x + feed_forward(norm2(x))": {
            "norm2(x) + feed_forward(norm2(x))": "norm2 is on the residual stream: add to x itself",
            "norm2(x + feed_forward(x))": "norm2 comes after the addition (post-norm)",
            "x + norm2(feed_forward(x))": "norm2 comes after the feed-forward, which should read norm2(x)",
            "feed_forward(norm2(x))": "the residual connection is missing: the feed-forward replaces x",
            "x + feed_forward(x)": "the feed-forward reads x without norm2",
            "x + feed_forward(norm1(x))": "norm1 is used twice: the feed-forward has norm2 as its own",
        },
        "": {
            "x + attention(norm1(x)) + feed_forward(norm2(x))": "parallel: the feed-forward reads x without attention",
            "right(x, norm2, feed_forward, norm1, attention)": "the order is exchanged: attention comes first",
        },
    },
    call=of_simple_layers,
    clues=[which_half],
    said="each sublayer reads the residual stream through its own norm and adds to it, first attention.",
)
def repaired_block(x, norm1, attention, norm2, feed_forward):
    x = x + attention(norm1(x))
    return x + feed_forward(norm2(x))


def of_zeroed(answer, zeroed):
    layer = FeedForward(4)
    for n, (name, parameter) in enumerate(layer.named_parameters()):
        values = torch.zeros_like(parameter) if name.startswith(zeroed) else tensors(n, tuple(parameter.shape))[0]
        parameter.data = values
    return answer(layer, tensors(9, (8, 4))[0])


@exercise(
    cases=[((),), (("down_proj",),), (("up_proj",),), (("down_proj", "up_proj"),)],
    mistakes={
        "parameter.grad.abs().max() > 0": {
            "parameter.abs().max() > 0": "these are the parameters that are not 0 themselves: ask for their gradients",
            "parameter.grad.abs().max() == 0": "these are the parameters whose gradient is 0",
            "parameter.grad.abs().max() > 0 and parameter.ndim == 2": "biases are parameters too",
        },
    },
    call=of_zeroed,
    said="the gradient of each matrix is multiplied by the other, so one of them may start at 0, but not both.",
)
def with_gradient(layer, numbers):
    loss = (numbers + layer(numbers) - numbers.abs()).square().mean()
    loss.backward()
    return [name for name, parameter in layer.named_parameters() if parameter.grad.abs().max() > 0]


PAIR = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 10.0])
WEIGHT, BIAS = torch.tensor([[1.0, 2.0], [4.0, 0.0], [-1.0, 1.0]]), torch.tensor([5.0, 7.0, 100.0])


@exercise(
    cases=[*[(*PAIR, WEIGHT[:N], BIAS[:N]) for N in (2, 3)], tuple(tensors(0, (4,), (4,), (2, 4), (2,)))],
    pairs=True,
    mistakes={
        "weight * scale": {
            "weight": "the weight is the old one: the scale multiplies each channel before the weight does",
            "weight * scale[:, None]": "the scale multiplies the N rows of the weight: it belongs to the C channels",
            "weight * scale + shift": "the shift is added to the weight: it does not multiply n, so it is in the bias",
        },
        "bias + weight @ shift": {
            "bias": "the bias is the old one: the shift is lost",
            "weight @ shift": "the old bias is lost",
            "bias + shift": "the shift is added to the bias as it is: the weight multiplies it like any channel",
            "bias + shift @ weight": "the shift is multiplied along the N rows of the weight: it has C channels",
            "bias + weight * scale @ shift": "the scale multiplies the shift, and the norm adds its shift afterwards",
        },
        "": {"right(scale, shift, weight, bias)[::-1]": "the order is exchanged: first the weight, then the bias"},
    },
    said="one linear layer does the work of both, and only the mean and the division are left to the norm.",
)
def folded_norm(scale, shift, weight, bias):
    return weight * scale, bias + weight @ shift
