"""Answers to the exercises of notebook 06."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def by_module(x, scale, shift, eps):
    layer = nn.LayerNorm(len(scale), eps=eps)
    layer.load_state_dict({"weight": scale, "bias": shift})
    return layer(x)


def looped_norm(x, scale, shift, eps):
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        centered = row - sum(row) / len(row)
        rows.append(centered * (sum(centered**2) / len(row) + eps) ** -0.5 * scale + shift)
    return torch.stack(rows).reshape(x.shape)


def two_moments(x, scale, shift, eps):
    mean, of_squares = x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    return torch.addcmul(shift, scale, (x - mean) * torch.rsqrt(of_squares - mean**2 + eps))


def corrected_norm(x, scale, shift, eps):
    C = x.shape[-1]
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) / (variance * (C - 1) / C + eps).sqrt() * scale + shift


def in_one_line(x, norm1, attention, norm2, feed_forward):
    return (between := x + attention(norm1(x))) + feed_forward(norm2(between))


def added_in_place(x, norm1, attention, norm2, feed_forward):
    stream = x.clone()
    for norm, sublayer in ((norm1, attention), (norm2, feed_forward)):
        stream += sublayer(norm(stream))
    return stream


def by_diagonal(scale, shift, weight, bias):
    return weight @ torch.diag(scale), F.linear(shift, weight, bias)


def by_probing(scale, shift, weight, bias):
    """Finds the one layer by sending zeros and unit vectors through the two."""
    at_zero = F.linear(shift, weight, bias)
    return [(F.linear(torch.diag(scale) + shift, weight, bias) - at_zero).T, at_zero]


def as_parameters(scale, shift, weight, bias):
    layer = nn.Linear(len(scale), len(bias))
    with torch.no_grad():
        layer.weight.copy_(weight * scale)
        layer.bias.copy_(bias + shift @ weight.T)
    return layer.weight, layer.bias


RIGHT = {
    "feed_forward_size": [552, torch.tensor(552), np.int64(552)],
    "layer_norm": [by_module, looped_norm, two_moments, corrected_norm, lambda x, *more: by_module(x, *more).tolist()],
    "repaired_block": [in_one_line, added_in_place],
    "zero_init": [" B ", "(b)"],
    "folded_norm": [by_diagonal, by_probing, as_parameters],
}


def shape_unpacked(x, scale, shift, eps):
    T, C = x.shape
    return looped_norm(x.reshape(T, C), scale, shift, eps)


WRONG = {
    "layer_norm": {
        "position 0 has the mean 0.25": lambda x, scale, shift, eps: x.softmax(-1) * scale + shift,
        "position 0 has the variance 0.58": lambda *given: looped_norm(*given).tanh(),
        "mean and variance keep their axis": {"x.mean(dim=-1, keepdim=True)": "x.mean(dim=-1)"},
        "do not unpack its shape": shape_unpacked,
    },
    "repaired_block": {
        "with both sublayers giving 0": lambda x, *parts: 3 * x,
        "the step with attention is wrong": lambda x, n, a, m, f: (h := x + 3 * a(n(x))) + f(m(h)),
        "the step with the feed-forward is wrong": lambda x, n, a, m, f: (h := x + a(n(x))) + 3 * f(m(h)),
    },
    "folded_norm": {
        "at index 0 of what it returns: the shape is (2,), expected (2, 2)": lambda *given: by_diagonal(*given)[::-1],
        "it returns a tensor, and a tuple is expected": lambda *given: by_diagonal(*given)[0],
        "at index 1 of what it returns: the shape": lambda *given: (by_diagonal(*given)[0], given[2]),
    },
}
