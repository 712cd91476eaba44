"""Answers to the exercises of notebook 09."""

import math

import numpy as np
import torch


def looped_waves(T, C):
    table = torch.zeros(T, C)
    for t in range(T):
        for i in range(C // 2):
            table[t, 2 * i] = math.sin(t / 10000 ** (2 * i / C))
            table[t, 2 * i + 1] = math.cos(t / 10000 ** (2 * i / C))
    return table


def exponential_waves(T, C):
    speed = torch.exp(torch.arange(0, C, 2) * (-math.log(10000.0) / C))
    angle = torch.outer(torch.arange(T).float(), speed)
    return torch.stack((angle.sin(), angle.cos()), 2).reshape(T, C)


def numpy_waves(T, C):
    angle = np.arange(T)[:, None] / 10000 ** (2 * np.arange(C // 2) / C)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(T, C)  # float64


def parts(x):
    T, D = x.shape[-2:]
    angle = torch.arange(T)[:, None] / 10000 ** (2 * torch.arange(D // 2) / D)
    return x[..., : D // 2], x[..., D // 2 :], angle.cos(), angle.sin()


def complex_turn(x):
    a, b, cos, sin = parts(x)
    turned = torch.complex(a.contiguous(), b.contiguous()) * torch.complex(cos, sin)
    return torch.cat([turned.real, turned.imag], -1)


def rotate_half(x):
    a, b, cos, sin = parts(x)
    return x * torch.cat([cos, cos], -1) + torch.cat([-b, a], -1) * torch.cat([sin, sin], -1)


RIGHT = {
    "other_base": [{"base 10,000": torch.tensor(2.59), "base 1,000": 2.24}],
    "turned_score": [-9, -9.0, torch.tensor(-9), np.float32(-9)],
    "wave_table": [looped_waves, exponential_waves, numpy_waves],
    "repaired_rotation": [complex_turn, rotate_half],
    "pair_order": [
        lambda D: torch.arange(D).view(-1, 2).T.flatten().int(),
        lambda D: sorted(range(D), key=lambda channel: (channel % 2, channel)),
    ],
}
WRONG = {
    "turned_score": {"too large": -18},
    "wave_table": {
        "row 0 is not 0, 1, 0, 1": lambda T, C: looped_waves(T, C).flip(1),
        "sin² + cos² is not 1": {"angles.cos()": "angles.cos() ** 2"},
        "pair 1 has the angle 0.0316, and": {"10_000.0": "1000.0"},
        "pair 1 has the angle 0.01,": {"-2 * i / C": "-2 * i / (2 * i + 2).clamp(max=C)"},
    },
    "repaired_rotation": {
        "position 0 is rotated as well": lambda x: 2 * rotate_half(x),
        "keeps every length": lambda x: torch.cat([x[..., :1, :], 3 * rotate_half(x)[..., 1:, :]], -2),
        "angles are (T, D / 2)": {"torch.arange(T)": "torch.arange(T + 1)"},
    },
    "pair_order": {"names each of 0 to 1 once": {"arange(1, D, 2)": "arange(0, D, 2)"}},
}
