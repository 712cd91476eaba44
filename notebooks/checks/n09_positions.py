"""Checks of notebook 09: sinusoids, rotations, another base, and the order of channels."""

import torch

from .compare import tensors
from .exercise import exercise, prediction

turned_score = prediction(
    -9,
    {
        9: "that is the score at distance 0; two positions apart, the vectors differ by half a turn",
        0: "that is the score at distance 1, a quarter turn; here the distance is two positions",
        -1: "that is the cosine of the angle; both vectors have length 3",
        -3: "both vectors have length 3, and the dot product multiplies the two lengths",
        -6: "the lengths are added; a dot product multiplies them",
        -9 / 2**0.5: "the division by the square root of the head size comes later",
        -3.745: "the angle per position is a quarter turn, π/2 radians, not 1 radian",
        -5.386: "180 degrees were passed to a cosine that takes radians",
    },
    said="two quarter turns apart the vectors point in opposite directions: 3 · 3 · (-1).",
)

other_base = prediction(
    {"base 10,000": 2.57, "base 1,000": 2.23},
    {
        "base 10,000": {
            2.31: "that is the loss before the step; take positions 56 to 63",
            2.19: "that is inside the trained length; take positions 56 to 63",
            2.78: "that is the loss at the end of the windows; take positions 56 to 63",
        },
        "base 1,000": {2.36: "that is the loss at the end of the windows; take positions 56 to 63"},
    },
    tolerance=0.03,
    said="with base 1,000 there is no step at position 57.",
)


def angles_found(table, T, C):
    """A clue: read the angles of a table off its pairs."""
    sin, cos = table.detach().float().view(T, -1, 2).unbind(-1)
    if sin[0].abs().max() > 1e-4 or (cos[0] - 1).abs().max() > 1e-4:
        return "row 0 is not 0, 1, 0, 1, …: at position 0 every angle is 0"
    if (sin.square() + cos.square() - 1).abs().max() > 1e-3:
        return "in some pair sin² + cos² is not 1: its two channels need the sine and the cosine of one angle"
    found, right = torch.atan2(sin[1], cos[1]), 10_000.0 ** (-torch.arange(0, C, 2) / C)
    if len(wrong := ((found - right).abs() > 1e-4).nonzero()):
        i = wrong[0].item()
        return f"in row 1, pair {i} has the angle {found[i]:.3g}, and 10000^(-2 · {i} / {C}) is {right[i]:.3g}"
    return None


@exercise(
    cases=[(1, 2), (3, 2), (3, 4), (5, 6), (4, 10), (40, 16)],
    mistakes={
        "-2 * i / C": {
            "-i / C": "the exponent is -i / C: the factor 2 is missing, so the slow pairs are too fast",
            "2 * i / C": "the exponent has the wrong sign: later pairs must have smaller angles, not larger ones",
        },
        "angles.sin()": {"angles.cos()": "cosines everywhere: even columns hold sines"},
        "angles.cos()": {"angles.sin()": "sines everywhere: odd columns hold cosines"},
        "table[:, 0::2] = angles.sin()\n    table[:, 1::2] = angles.cos()": {
            "table[:, 0::2] = angles\n    table[:, 1::2] = angles": "these are the angles, without sine and cosine",
            "table[:, 0::2] = angles.cos()\n    table[:, 1::2] = angles.sin()": "sine and cosine are exchanged",
        },
        "": {
            "torch.cat([right(T, C)[:, 0::2], right(T, C)[:, 1::2]], dim=1)": "all sines come first, then all cosines",
            "right(T, 2 * C).view(T, -1, 4)[..., [0, 3]].flatten(1)": "each channel has its own angle, not each pair",
        },
    },
    clues=[angles_found],
    tolerance=1e-3,
    said="the sine and cosine of one angle are neighbors, and pair 0 is the fastest, for tables of six sizes.",
)
def wave_table(T, C):
    i = torch.arange(C // 2)
    angles = torch.arange(T)[:, None] * 10_000.0 ** (-2 * i / C)  # (T, 1) * (C / 2,) -> (T, C / 2)
    table = torch.zeros(T, C)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()
    return table


def rotation_found(result, x):
    """A clue: what a rotation leaves as it is."""
    if not torch.allclose(result[..., 0, :], x[..., 0, :], atol=1e-4):
        return "position 0 is rotated as well: its angle is 0"
    if not torch.allclose(x.norm(dim=-1), result.norm(dim=-1), atol=1e-3):
        return "the lengths change, and a rotation keeps every length"
    return None


@exercise(
    cases=[
        *[(torch.tensor([[1.0, 0.0]] * 2),), (torch.tensor([[1.0, 0.5, 2.0, -1.0]] * 3),)],
        *[(x,) for x in tensors(0, (5, 6), (2, 3, 4, 10))],
        (tensors(2, (2, 8, 12))[0].mT,),  # not contiguous
    ],
    pairs=True,
    mistakes={
        "-2 * i / D": {
            "-i / D": "the exponent is half of what it should be: compare it with the formula",
            "2 * i / D": "the exponent has the wrong sign: later pairs must rotate more slowly",
            "0 * i": "all pairs rotate at the same speed: the exponent is missing",
        },
        "torch.arange(T)": {"torch.arange(1, T + 1)": "positions are counted from 1: position 0 is not rotated"},
        "x.chunk(2, dim=-1)": {"x[..., 0::2], x[..., 1::2]": "pairs are taken as neighbors and put back as halves"},
        "first * cos - second * sin, first * sin + second * cos": {
            "first * cos + second * sin, first * sin + second * cos": "the lengths change: one product lacks a minus",
            "first * cos + second * sin, second * cos - first * sin": "it rotates clockwise: negate the other sine",
            "first * cos - second * sin, second * cos - first * sin": "both sines have a minus, not only one",
            "first * cos + second * sin, first * sin - second * cos": "the minus is at a cosine: that mirrors the pair",
            "first * sin - second * cos, first * cos + second * sin": "sine and cosine are exchanged",
            "first * sin + second * cos, first * cos - second * sin": "the halves come back exchanged",
            "first * cos - second * sin, second": "only the first half is rotated",
        },
        "": {
            "right(x).unflatten(-1, (2, -1)).mT.flatten(-2)": "the rotated halves are put back as neighbors",
            "right(x.unflatten(-1, (-1, 2)).mT.flatten(-2)).unflatten(-1, (2, -1)).mT.flatten(-2)": (
                "neighbors are paired: here channel i of the first half is paired with channel i of the second"
            ),
            "right(x) if x.ndim == 2 else right(x.transpose(-3, -2)).transpose(-3, -2)": (
                "right for one head, not for a batch: the positions are the axis before the last"
            ),
        },
    },
    clues=[rotation_found],
    errors={"must match the size": "sizes differ: angles are (T, D / 2), and T and D are the last two axes of x"},
    tolerance=1e-3,
    said="each pair is rotated by its own angle and lengths are kept, for batches of heads too.",
)
def repaired_rotation(x):
    T, D = x.shape[-2:]
    i = torch.arange(D // 2)
    angles = torch.arange(T)[:, None] * 10_000.0 ** (-2 * i / D)  # (T, D / 2)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def each_once(order, D):
    """A clue: an order names every channel once."""
    once = sorted(order.flatten().tolist()) == list(range(D))
    return None if once else f"an order of {D} channels names each of 0 to {D - 1} once"


@exercise(
    cases=[(2,), (4,), (6,), (10,)],
    mistakes={
        "torch.cat([torch.arange(0, D, 2), torch.arange(1, D, 2)])": {
            "torch.arange(D)": "nothing is moved: neighbors stay neighbors",
            "torch.arange(D).roll(D // 2)": "the halves are exchanged: neighbors stay neighbors",
        },
        "": {
            "right(D).roll(D // 2)": "the second channel of each pair comes first: each pair would rotate backward",
            "right(D).argsort()": "this is the inverse, from halves to neighbors",
            "right(D)[:-1]": "the last channel is missing: `arange` stops before its end",
        },
    },
    clues=[each_once],
    said="the first channel of every pair, then the second of every pair, for 2, 4, 6 and 10 channels.",
)
def pair_order(D):
    return torch.cat([torch.arange(0, D, 2), torch.arange(1, D, 2)])
