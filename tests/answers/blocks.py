"""Answers to the exercises of notebook 06."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# ---------------------------------------------------------------- right, in other styles


def by_pytorch(x, gain, bias, eps):
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps)


def by_module(x, gain, bias, eps):
    layer = nn.LayerNorm(len(gain), eps=eps)
    layer.load_state_dict({"weight": gain, "bias": bias})
    return layer(x)


def looped_norm(x, gain, bias, eps):
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        centred = row - sum(row) / len(row)
        rows.append(centred * (sum(centred**2) / len(row) + eps) ** -0.5 * gain + bias)
    return torch.stack(rows).reshape(x.shape)


def two_moments(x, gain, bias, eps):
    mean, of_squares = x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    return torch.addcmul(bias, gain, (x - mean) * torch.rsqrt(of_squares - mean**2 + eps))


def einsum_norm(x, gain, bias, eps):
    x = x - torch.einsum("...c->...", x)[..., None] / x.shape[-1]
    x /= torch.sqrt(torch.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1] + eps)
    return torch.einsum("...c,c->...c", x, gain) + bias


def corrected_norm(x, gain, bias, eps):
    C = x.shape[-1]
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) / (variance * (C - 1) / C + eps).sqrt() * gain + bias


def in_one_line(x, norm1, attention, norm2, feed_forward):
    return (heard := x + attention(norm1(x))) + feed_forward(norm2(heard))


def added_in_place(x, norm1, attention, norm2, feed_forward):
    road = x.clone()
    for norm, part in ((norm1, attention), (norm2, feed_forward)):
        road += part(norm(road))
    return road


def of_deltas(x, norm1, attention, norm2, feed_forward):
    heard = attention(norm1(x))
    thought = feed_forward(norm2(torch.add(x, heard)))
    return torch.stack([x, heard, thought]).sum(0)


def by_diagonal(gain, bias, weight, offset):
    return weight @ torch.diag(gain), F.linear(bias, weight, offset)


def by_einsum(gain, bias, weight, offset):
    return [torch.einsum("nc,c->nc", weight, gain), torch.einsum("nc,c->n", weight, bias) + offset][0:2]


def by_probing(gain, bias, weight, offset):
    """Finds the one layer by sending zeros and unit vectors through the two."""

    def both(x):
        return F.linear(x * gain + bias, weight, offset)

    at_zero = both(torch.zeros_like(gain))
    return (both(torch.eye(len(gain))) - at_zero).T, at_zero


def by_loops(gain, bias, weight, offset):
    new_weight, new_offset = torch.empty_like(weight), offset.clone()
    for n in range(weight.shape[0]):
        for c in range(weight.shape[1]):
            new_weight[n, c] = weight[n, c] * gain[c]
            new_offset[n] += weight[n, c] * bias[c]
    return new_weight, new_offset


def as_parameters(gain, bias, weight, offset):
    layer = nn.Linear(len(gain), len(offset))
    with torch.no_grad():
        layer.weight.copy_(weight * gain)
        layer.bias.copy_(offset + bias @ weight.T)
    return layer.weight, layer.bias


RIGHT = {
    "feed_forward_size": [
        552,
        torch.tensor(552),
        np.int64(552),
        sum(p.numel() for p in nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8)).parameters()),
    ],
    "layer_norm": [by_pytorch, by_module, looped_norm, two_moments, einsum_norm, corrected_norm],
    "repaired_block": [in_one_line, added_in_place, of_deltas],
    "silent_start": ["b", " B ", "(b)"],
    "folded_norm": [by_diagonal, lambda *given: tuple(by_einsum(*given)), by_probing, by_loops, as_parameters],
}

# ---------------------------------------------------------------- wrong


def centred(x):
    return x - x.mean(-1, keepdim=True)


def variance(x):
    return centred(x).square().mean(-1, keepdim=True)


def normed(x, gain, bias, eps):
    return centred(x) / (variance(x) + eps).sqrt() * gain + bias


def axis(*dims):
    """LayerNorm over other axes; a missing axis takes them all."""

    def norm(x, gain, bias, eps):
        dim = dims or None
        mean, var = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, unbiased=False)
        return (x - mean) / (var + eps).sqrt() * gain + bias

    return norm


def each_window(x, gain, bias, eps):
    return torch.stack([(w - w.mean()) / (w.var(unbiased=False) + eps).sqrt() * gain + bias for w in x])


def norm_in_place(x, gain, bias, eps):
    x -= x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain + bias


def no_keepdim(x, gain, bias, eps):
    return (x - x.mean(-1)) / (x.var(-1, unbiased=False) + eps).sqrt() * gain + bias


def shape_taken_apart(x, gain, bias, eps):
    T, C = x.shape
    mean, var = x.mean(-1).view(T, 1), x.var(-1, unbiased=False).view(T, 1)
    return (x - mean) / (var + eps).sqrt() * gain + bias


def block_in_place(x, norm1, attention, norm2, feed_forward):
    x += attention(norm1(x))
    x += feed_forward(norm2(x))
    return x


def on_the_road(x, norm1, attention, norm2, feed_forward):
    x = norm1(x)
    x = x + attention(x)
    x = norm2(x)
    return x + feed_forward(x)


def as_given(x, norm1, attention, norm2, feed_forward):
    x = norm1(x)
    return x + attention(x) + feed_forward(norm2(x))


def added(make_weight, make_offset):
    return lambda *given: (make_weight(*given), make_offset(*given))


def new_weight(gain, bias, weight, offset):
    return weight * gain


def new_offset(gain, bias, weight, offset):
    return offset + weight @ bias


def folded_in_place(gain, bias, weight, offset):
    offset += weight @ bias
    weight *= gain
    return weight, offset


WRONG = {
    "feed_forward_size": [
        (568, "of a norm"),
        (512, "weights alone"),
        (544, "`narrow` has biases"),
        (520, "`widen` has biases"),
        (144, "widens four times"),
        (288, "`widen` alone"),
        (808, "attention is counted"),
        (600, "too high"),
        ("552", "a number is expected"),
        ([256, 32, 256, 8], "a number is expected"),
        (float("nan"), "Not yet"),
    ],
    "layer_norm": [
        (lambda x, g, b, e: centred(x) / (x.var(-1, keepdim=True) + e).sqrt() * g + b, "`unbiased=False`"),
        (lambda x, g, b, e: g * centred(x) / (x.std(-1, keepdim=True) + e) + b, "two things: population variance"),
        (lambda x, g, b, e: g * centred(x) / x.std(-1, keepdim=True) + b, "two things: population variance"),
        (lambda x, g, b, e: g * centred(x) / (variance(x).sqrt() + e) + b, "outside the root"),
        (lambda x, g, b, e: g * centred(x) / variance(x).sqrt() + b, "eps is missing"),
        (lambda x, g, b, e: normed(x, g, b, 1e-5), "given is not used"),
        (lambda x, g, b, e: normed(x, g, b, 1e-8), "given is not used"),
        (lambda x, g, b, e: g * centred(x) / (variance(x) + e) + b, "not by its root"),
        (lambda x, g, b, e: g * centred(x) + b, "nothing is divided"),
        (axis(-2), "over the positions (axis T)"),
        (axis(0), "over axis 0"),
        (axis(1), "over axis 1"),
        (axis(-1, -2), "normalised together"),
        (axis(), "one mean and variance for everything"),
        (lambda x, g, b, e: (x - x.mean()) / (x.var(unbiased=False) + e).sqrt() * g + b, "one mean and variance"),
        (lambda x, g, b, e: (x - x.mean()) / (variance(x) + e).sqrt() * g + b, "one mean for everything"),
        (lambda x, g, b, e: centred(x) / x.std() * g + b, "position 0 has the variance 0.67"),
        (lambda x, g, b, e: x / (x.square().mean(-1, keepdim=True) + e).sqrt() * g + b, "RMSNorm"),
        (lambda x, g, b, e: x / (variance(x) + e).sqrt() * g + b, "the mean is not subtracted"),
        (lambda x, g, b, e: centred(x) / (x.square().mean(-1, keepdim=True) + e).sqrt() * g + b, "before you square"),
        (lambda x, g, b, e: F.normalize(centred(x), dim=-1) * g + b, "Not yet"),
        (lambda x, g, b, e: normed(x, 1, 0, e), "gain and bias are forgotten"),
        (lambda x, g, b, e: normed(x, g, 0, e), "the bias is forgotten"),
        (lambda x, g, b, e: normed(x, 1, b, e), "the gain is forgotten"),
        (lambda x, g, b, e: normed(x, b, g, e), "exchanged"),
        (lambda x, g, b, e: (normed(x, 1, 0, e) + b) * g, "the gain multiplies it too"),
        (lambda x, g, b, e: normed(x * g + b, 1, 0, e), "before the norm"),
        (lambda x, g, b, e: normed(x * g, 1, b, e), "before the norm"),
        (lambda x, g, b, e: x.softmax(-1) * g + b, "has the mean 0.25"),
        (lambda x, g, b, e: (x - x.mean(-1, keepdim=True) / (variance(x) + e).sqrt()) * g + b, "brackets are missing"),
        (each_window, "as a whole"),
        (lambda x, g, b, e: centred(x) / (centred(x).square().mean() + e).sqrt() * g + b, "one number for everything"),
        (shape_taken_apart, "do not take its shape apart"),
        (lambda x, g, b, e: x * g + b, "two things: the mean is not subtracted"),
        (norm_in_place, "changes its input"),
        (no_keepdim, "keepdim"),
        (axis(2), "the channels are always the last"),
        (lambda x, g, b, e: normed(x.view(-1, len(g)), g, b, e).view(x.shape), "`view` needs that"),
        (lambda x, g, b, e: normed(x, g, b, e).mT, "the shape is (4, 2)"),
        (lambda x, g, b, e: normed(x, g, b, e)[0], "the shape is (4,)"),
        (lambda x, g, b, e: normed(x, g, b, e).double(), "float64"),
        (lambda x, g, b, e: normed(x, g, b, e).half(), "float16"),
        (lambda x, g, b, e: normed(x, g, b, e).to("meta"), "device meta"),
        (lambda x, g, b, e: normed(x, g, b, e).tolist(), "returns a list"),
        (lambda x, g, b, e: (normed(x, g, b, e), variance(x)), "returns a tuple"),
        (lambda x, g, b, e: nn.LayerNorm(len(g)), "returns a LayerNorm"),
        (lambda x, g, b, e: print(end=""), "returns nothing"),
        (lambda x: x, "TypeError"),
        (nn.LayerNorm(4), "TypeError"),
    ],
    "repaired_block": [
        (as_given, "two things: norm1 stands on the road"),
        (on_the_road, "two things: norm1 stands on the road"),
        (lambda x, n, a, m, f: m((h := n(x + a(x))) + f(h)), "post-norm"),
        (lambda x, n, a, m, f: (h := a(n(x))) + f(m(h)), "a residual is dropped: attention"),
        (lambda x, n, a, m, f: f(m(x + a(n(x)))), "a residual is dropped: the feed-forward"),
        (lambda x, n, a, m, f: f(m(a(n(x)))), "both residuals"),
        (lambda x, n, a, m, f: x + a(n(x)) + f(m(x)), "both parts read the same x"),
        (lambda x, n, a, m, f: (h := x + a(n(x))) + f(n(h)), "norm1 is used twice"),
        (lambda x, n, a, m, f: (h := x + a(m(x))) + f(m(h)), "attention reads through norm2"),
        (lambda x, n, a, m, f: (h := x + a(m(x))) + f(n(h)), "norm1 and norm2 are exchanged"),
        (lambda x, n, a, m, f: x + f(m(x + a(n(x)))), "lost from the road"),
        (lambda x, n, a, m, f: (h := x + n(a(x))) + m(f(h)), "two things: norm1 comes after attention"),
        (lambda x, n, a, m, f: (h := x + f(m(x))) + a(n(h)), "the order is exchanged"),
        (lambda x, n, a, m, f: (h := x + a(x)) + f(h), "no norm is used"),
        (lambda x, n, a, m, f: m((h := x + a(n(x))) + f(m(h))), "a norm too many"),
        (lambda x, n, a, m, f: x, "neither part"),
        (lambda x, n, a, m, f: 3 * x, "something stands on the road"),
        (lambda x, n, a, m, f: (h := x + 3 * a(n(x))) + f(m(h)), "the half with attention"),
        (lambda x, n, a, m, f: (h := x + a(n(x))) + 3 * f(m(h)), "the half with the feed-forward"),
        (lambda x, n, a, m, f: (h := x + a(n(x))) + f(m(x + h) / 2), "the half with|what the feed-forward reads"),
        (lambda x, n, a, m, f: x + a(n(x)), "the feed-forward is left out"),
        (block_in_place, "changes its input"),
        (lambda x, n, a, m, f: in_one_line(x, n, a, m, f)[None], "the shape is"),
        (lambda x, n, a, m, f: in_one_line(x, n, a, m, f).double(), "float64"),
        (lambda x, n, a, m, f: in_one_line(x, n, a, m, f).to("meta"), "device meta"),
        (lambda x, n, a, m, f: (x + a(n(x)), f), "returns a tuple"),
        (lambda x, n, a, m, f: print(end=""), "returns nothing"),
        (lambda x, n, a, m, f: x + a, "TypeError"),
        (lambda x: x, "TypeError"),
    ],
    "silent_start": [
        ("a", "`narrow` alone also starts at 0"),
        ("c", "the bias of `narrow` does learn"),
        ("d", "equal channels"),
        ("e", "choose one of"),
        (2, "choose one of"),
        (["b"], "choose one of"),
    ],
    "folded_norm": [
        (added(lambda g, b, w, o: w, new_offset), "the weight is the old one"),
        (added(new_weight, lambda g, b, w, o: o), "the bias of the norm is lost"),
        (added(new_weight, lambda g, b, w, o: w @ b), "the old offset is lost"),
        (added(new_weight, lambda g, b, w, o: o + (w * g) @ b), "after the gain"),
        (added(new_weight, lambda g, b, w, o: o + b), "added to the offset as it is"),
        (added(new_weight, lambda g, b, w, o: o + b @ w), "along the wrong axis"),
        (added(new_weight, lambda g, b, w, o: o + w * b), "added up to one number"),
        (added(new_weight, lambda g, b, w, o: o + (w * b).sum(0)), "added up along the wrong axis"),
        (added(new_weight, lambda g, b, w, o: o + (w * b).sum()), "each of the N rows"),
        (added(new_weight, lambda g, b, w, o: o - w @ b), "is subtracted"),
        (added(new_weight, lambda g, b, w, o: o + b.sum()), "without the weight"),
        (added(lambda g, b, w, o: w * g[:, None], new_offset), "multiplies the N rows"),
        (added(lambda g, b, w, o: w * g.repeat(9)[: len(w), None], new_offset), "multiplies the N rows"),
        (added(new_weight, lambda g, b, w, o: o * g + w @ b), "nothing of the offset"),
        (added(lambda g, b, w, o: w @ o, new_offset), "shapes do not line up"),
        (added(lambda g, b, w, o: w / g, new_offset), "divided by the gain"),
        (added(lambda g, b, w, o: w * g + b, new_offset), "belongs to the offset"),
        (added(lambda g, b, w, o: w + g, new_offset), "the gain is added"),
        (added(lambda g, b, w, o: (w * g).T, new_offset), "transposed"),
        (added(lambda g, b, w, o: w @ g, new_offset), "one number for each old one"),
        (added(lambda g, b, w, o: w * g / g.norm(), new_offset), "counts more or less"),
        (added(new_offset, new_weight), "wrong order"),
        (new_weight, "a pair is expected"),
        (added(lambda g, b, w, o: (w * g).double(), new_offset), "float64"),
        (added(lambda g, b, w, o: (w * g).to("meta"), new_offset), "device meta"),
        (added(new_weight, lambda g, b, w, o: new_offset(g, b, w, o).tolist()), "returns a list"),
        (added(new_weight, lambda g, b, w, o: new_offset(g, b, w, o)[:, None]), "the shape is (2, 1)"),
        (folded_in_place, "changes its input"),
        (lambda g, b, w, o: print(end=""), "returns nothing"),
        (lambda g, b: (g, b), "TypeError"),
    ],
}
