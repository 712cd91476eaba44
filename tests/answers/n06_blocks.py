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


def added_in_place(x, norm1, attention, norm2, feed_forward):
    stream = x.clone()
    for norm, layer in ((norm1, attention), (norm2, feed_forward)):
        stream += layer(norm(stream))
    return stream


def summed(x, norm1, attention, norm2, feed_forward):
    first = attention(norm1(x))
    return torch.stack([x, first, feed_forward(norm2(torch.add(x, first)))]).sum(0)


def by_trying(scale, shift, weight, bias):
    """The one layer is found from its outputs for zeros and unit vectors."""

    def both(x):
        return F.linear(x * scale + shift, weight, bias)

    at_zero = both(torch.zeros_like(scale))
    return [(both(torch.eye(len(scale))) - at_zero).T, at_zero]


def as_parameters(scale, shift, weight, bias):
    layer = nn.Linear(len(scale), len(bias))
    layer.weight.data, layer.bias.data = weight @ torch.diag(scale), bias + shift @ weight.T
    return layer.weight, layer.bias


def by_autograd(layer, numbers):
    names, parameters = zip(*layer.named_parameters())
    gradients = torch.autograd.grad(F.mse_loss(numbers + layer(numbers), numbers.abs()), parameters)
    return [name for name, gradient in zip(names, gradients) if gradient.count_nonzero()]


def by_hand(layer, numbers):
    hidden = layer.activation(layer.up_proj(numbers))
    found = [f"up_proj.{part}" for part in ("weight", "bias") if layer.down_proj.weight.any()]
    return [*found, *(["down_proj.weight"] if hidden.any() else []), "down_proj.bias"]


RIGHT = {
    "feed_forward_size": [552.0, torch.tensor(552), np.int64(552)],
    "layer_norm": [
        lambda x, scale, shift, eps: F.layer_norm(x, scale.shape, scale, shift, eps),
        by_module,
        looped_norm,
        two_moments,
        corrected_norm,
    ],
    "repaired_block": [added_in_place, summed],
    "with_gradient": [by_autograd, by_hand],
    "folded_norm": [by_trying, as_parameters],
}
WRONG = {
    "feed_forward_size": {"too large": 5520},
    "layer_norm": {
        "position 0 has the mean 0.25": lambda x, scale, shift, eps: x.softmax(-1) * scale + shift,
        "position 0 has the variance 0.25": {"scale * (x": "scale / 2 * (x"},
        "position 0 has the variance 1.00, expected 0.75": {"variance + eps": "variance.clamp(min=eps)"},
        "two shapes do not broadcast": {"mean(dim=-1, keepdim=True)": "mean(dim=-1)"},
    },
    "repaired_block": {
        "x must come back unchanged": lambda x, n, a, m, f: 3 * x + f(m(x)),
        "the half with attention": {"attention(norm1": "3 * attention(norm1"},
        "the half with the feed-forward": {"feed_forward(norm2": "3 * feed_forward(norm2"},
        "what does the feed-forward read": lambda x, n, a, m, f: x + (one := a(n(x))) + f(m(x + 2 * one)),
        "changes its input in place": {"x = x + attention": "x += attention"},
    },
    "with_gradient": {"the same in each of 4": lambda layer, numbers: ["down_proj.bias"]},
    "folded_norm": {
        "at index 0 of what it returns: every number is 2 times": {"weight * scale": "2 * weight * scale"},
        "at index 1 of what it returns: the numbers differ": {"bias + weight @": "bias + 2 * weight @"},
    },
}
