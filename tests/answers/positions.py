"""Answers to the exercises of notebook 09."""

import math

import numpy as np
import torch

# ---------------------------------------------------------------- right, in other styles


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


def rounded_waves(T, C):
    angle = torch.arange(T)[:, None] * 10000.0 ** (-2 * torch.arange(C // 2) // C)
    return torch.stack((angle.sin(), angle.cos()), 2).reshape(T, C)


def parts(x, power=2.0):
    T, D = x.shape[-2:]
    angle = torch.arange(T)[:, None] / 10000 ** (power * torch.arange(D // 2) / D)
    return x[..., : D // 2], x[..., D // 2 :], angle.cos(), angle.sin()


def complex_turn(x):
    a, b, cos, sin = parts(x)
    turned = torch.complex(a.contiguous(), b.contiguous()) * torch.complex(cos, sin)
    return torch.cat([turned.real, turned.imag], -1)


def rotate_half(x):
    a, b, cos, sin = parts(x)
    return x * torch.cat([cos, cos], -1) + torch.cat([-b, a], -1) * torch.cat([sin, sin], -1)


def looped_turn(x):
    out, D = x.clone(), x.shape[-1]
    for t in range(x.shape[-2]):
        for i in range(D // 2):
            angle = t * 10000 ** (-2 * i / D)
            a, b = x[..., t, i], x[..., t, i + D // 2]
            out[..., t, i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., t, i + D // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


RIGHT = {
    "turned_score": [-9, -9.0, torch.tensor(-9), np.float32(-9)],
    "wave_table": [looped_waves, exponential_waves, lambda T, C: looped_waves(T, C).mT.contiguous().mT],
    "repaired_rotation": [complex_turn, rotate_half, looped_turn],
    "pair_order": [
        lambda D: torch.arange(D).view(-1, 2).T.flatten(),
        lambda D: torch.tensor(sorted(range(D), key=lambda c: (c % 2, c))),
        lambda D: torch.arange(D).unflatten(0, (-1, 2)).mT.reshape(-1),
    ],
}

# ---------------------------------------------------------------- wrong


def mixed(rule, power=2.0):
    return lambda x: torch.cat(rule(*parts(x, power)), -1)


def in_place(x):
    return x.copy_(rotate_half(x))


def interleaved(x):
    halves = torch.cat([x[..., 0::2], x[..., 1::2]], -1)
    return rotate_half(halves).unflatten(-1, (2, -1)).mT.flatten(-2)


def short_only(T, C):
    return looped_waves(T, C) if T < 30 else looped_waves(T, C).clamp(min=-0.5)


WRONG = {
    "turned_score": [
        (9, "distance 0"),
        (0, "a quarter turn"),
        (-1, "cosine of the angle"),
        (-3, "multiplies the two lengths"),
        (3, "the length of each"),
        (2, "how far apart"),
        (-6, "the lengths are added"),
        (1, "point the same way"),
        (-9 / 2**0.5, "comes later"),
        (-16, "too low"),
        ("-9", "a number is expected"),
        (float("nan"), "nan"),
    ],
    "wave_table": [
        (lambda T, C: looped_waves(T, C).view(T, -1, 2).flip(-1).flatten(1), "exchanged"),
        (lambda T, C: torch.cat([looped_waves(T, C)[:, ::2], looped_waves(T, C)[:, 1::2]], 1), "side by side"),
        (lambda T, C: looped_waves(T + 1, C)[1:], "counted from 1"),
        (lambda T, C: exponential_waves(T, 2).repeat(1, C // 2), "equally fast"),
        (lambda T, C: looped_waves(T, C).flip(1), "row 0 is not"),
        (short_only, "in the cases before this one"),
        (lambda T, C: looped_waves(T, C).T, "shape"),
        (lambda T, C: looped_waves(T, C).numpy(), "a tensor is expected"),
        (lambda T, C: looped_waves(T, C).double(), "float64"),
        (lambda T, C: looped_waves(T, C).to("meta"), "device meta"),
        (lambda T, C: looped_waves(T, C)[None], "too many"),
        (lambda T, C: print(end=""), "returns nothing"),
        (lambda T: 1, "TypeError"),
        (looped_waves(2, 2), "not a function"),
        (rounded_waves, "rounded down"),
    ],
    "repaired_rotation": [
        (mixed(lambda a, b, cos, sin: (a * cos + b * sin, a * sin + b * cos), 1.0), "both faults"),
        (mixed(lambda a, b, cos, sin: (a * cos + b * sin, a * sin + b * cos)), "lacks a minus"),
        (mixed(lambda a, b, cos, sin: (a * cos - b * sin, a * sin + b * cos), 1.0), "speeds fall half"),
        (mixed(lambda a, b, cos, sin: (a * cos + b * sin, b * cos - a * sin)), "with the clock"),
        (mixed(lambda a, b, cos, sin: (a * cos - b * sin, b * cos - a * sin)), "both sines"),
        (mixed(lambda a, b, cos, sin: (a * sin - b * cos, a * cos + b * sin)), "sine and cosine are exchanged"),
        (mixed(lambda a, b, cos, sin: (a * cos - b * sin, b)), "only the first half"),
        (interleaved, "neighbours are paired"),
        (lambda x: x, "nothing is turned"),
        (lambda x: 2 * rotate_half(x), "place 0 is turned"),
        (lambda x: torch.cat([x[..., :1, :], 2 * rotate_half(x)[..., 1:, :]], -2), "the lengths change"),
        (in_place, "changes its input"),
        (lambda x: torch.stack(rotate_half(x).chunk(2, -1), -1).flatten(-2), "put back as neighbours"),
        (lambda x: rotate_half(x.flatten(0, -2)).view(x.shape) * torch.ones(x.shape[0] + 7), "an angle for each place"),
        (lambda x: rotate_half(x)[0], "shape"),
        (lambda x: rotate_half(x).double(), "float64"),
        (lambda x: print(end=""), "returns nothing"),
        (lambda x: rotate_half(x).view(3, 3, 3), "RuntimeError"),
    ],
    "pair_order": [
        (lambda D: torch.cat([torch.arange(0, D, 2), torch.arange(1, D, 2)]).argsort(), "the way back"),
        (lambda D: torch.cat([torch.arange(1, D, 2), torch.arange(0, D, 2)]), "the second of each pair"),
        (lambda D: torch.arange(D), "nothing is moved"),
        (lambda D: torch.arange(D).view(-1, 2).flip(1).flatten(), "stay neighbours|the second of each pair"),
        (lambda D: torch.arange(0, D, 2), "shape"),
        (lambda D: torch.cat([torch.arange(0, D, 2), torch.arange(1, D - 1, 2)]), "the last channel is missing"),
        (lambda D: torch.cat([torch.arange(0, D, 2)] * 2), "names each of 0 to 1 once"),
        (lambda D: sorted(range(D), key=lambda c: (c % 2, c)), "returns a list"),
        (lambda D: torch.cat([torch.arange(0, D, 2), torch.arange(1, D, 2)]).float(), "float32"),
        (lambda D: print(end=""), "returns nothing"),
        (torch.arange(6), "not a function"),
    ],
}
