"""Checks of notebook 09: waves, turns, and the order of channels."""

import torch

from gptlib.checks.judge import Mistake, examine, exercise, number
from gptlib.checks.words import told


@exercise
def turned_score(answer):
    """A number: the score of two vectors of length 3 that a quarter turn a place has set two places apart."""
    mistakes = {
        9: "that is the score at distance 0; two places apart, half a turn lies between them",
        0: "that is the score at distance 1, a quarter turn; here two places lie between them",
        -1: "that is the cosine of the angle; both vectors have length 3",
        1: "query and key do not point the same way, and both have length 3",
        -3: "both vectors have length 3, and the dot product multiplies the two lengths",
        3: "three is the length of each; the score is their dot product",
        2: "two is how far apart they stand; the score is a dot product",
        -6: "the lengths are added; a dot product multiplies them",
        -9 / 2**0.5: "the division by the root of the head size comes later",
    }
    number(answer, -9, mistakes)
    return "two quarter turns apart they point in opposite directions: 3 · 3 · (-1)."


# --- the table ----------------------------------------------------------------------------------------------------


def turned(T, C, base=10_000.0, times=2, first=0, backwards=False):
    """The angles (T, C / 2), or what becomes of them with a mistake in one place."""
    pair = torch.arange(C // 2)
    pair = pair.flip(0) if backwards else pair
    return torch.arange(first, first + T)[:, None] * base ** (-times * pair / C)


def woven(first, second):
    return torch.stack([first, second], dim=-1).flatten(-2)


def waves(T, C, **changes):
    found = turned(T, C, **changes)
    return woven(found.sin(), found.cos())


def by_channel(T, C):
    """The channel's number in place of the pair's: sine and cosine of different angles."""
    found = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(C) / C)
    return torch.where(torch.arange(C) % 2 == 0, found.sin(), found.cos())


def by_double_channel(T, C):
    found = torch.arange(T)[:, None] * 10_000.0 ** (-2 * torch.arange(C) / C)
    return torch.where(torch.arange(C) % 2 == 0, found.sin(), found.cos())


def whole_exponent(T, C):
    found = torch.arange(T)[:, None] * 10_000.0 ** (-2 * torch.arange(C // 2) // C)
    return woven(found.sin(), found.cos())


def row_0(table, T, C):
    """A clue: at place 0 nothing has turned."""
    right = torch.tensor([0.0, 1.0]).repeat(C // 2)
    if not torch.allclose(table[0].detach().float().cpu(), right, atol=1e-4):
        return "row 0 is not 0, 1, 0, 1 …: at place 0 no hand has turned"
    return None


@exercise
def wave_table(answer):
    """A function T, C -> (T, C): the sinusoid table."""
    examine(
        answer,
        cases=[(1, 2), (3, 2), (3, 4), (5, 6), (4, 10), (40, 16)],
        expected=waves,
        mistakes={
            "sine and cosine are exchanged: even columns hold the sine": lambda T, C: woven(
                turned(T, C).cos(), turned(T, C).sin()
            ),
            "all sines stand first and then all cosines: the two of a pair stand side by side": lambda T, C: torch.cat(
                [turned(T, C).sin(), turned(T, C).cos()], dim=-1
            ),
            "sines everywhere: a sine alone cannot tell which way the hand moves": lambda T, C: woven(
                turned(T, C).sin(), turned(T, C).sin()
            ),
            "cosines everywhere: odd columns hold them, even columns the sines": lambda T, C: woven(
                turned(T, C).cos(), turned(T, C).cos()
            ),
            "each channel has an angle of its own: both channels of a pair share one": by_channel,
            "the exponent counts channels twice over: `i` counts pairs, and both of a pair share an angle": (
                by_double_channel
            ),
            "the exponent is -i / C: the factor 2 is missing, and the slow hands are too fast": lambda T, C: waves(
                T, C, times=1
            ),
            "the exponent is -4i / C: the slow hands are too slow": lambda T, C: waves(T, C, times=4),
            "the exponent has the wrong sign: the hands get faster, not slower": lambda T, C: waves(T, C, times=-2),
            "the fast hand stands last: pair 0 is the fastest": lambda T, C: waves(T, C, backwards=True),
            "the places are counted from 1: the first is place 0": lambda T, C: waves(T, C, first=1),
            "the exponent is rounded down to a whole number: `/` divides, `//` drops what is left": whole_exponent,
            "all hands turn equally fast: the exponent is missing": lambda T, C: waves(T, C, times=0),
            "the base is 1000, and the formula says 10000": lambda T, C: waves(T, C, base=1000.0),
            "the base is 100000, and the formula says 10000": lambda T, C: waves(T, C, base=100_000.0),
            "these are the angles, without sine and cosine": lambda T, C: woven(turned(T, C), turned(T, C)),
            "the angles are taken for degrees: a hand turns in radians": lambda T, C: woven(
                turned(T, C).deg2rad().sin(), turned(T, C).deg2rad().cos()
            ),
            "the sine and the cosine are divided as well: only the angle shrinks": lambda T, C: (
                waves(T, C, times=0) * (10_000.0 ** (-2 * torch.arange(C // 2) / C)).repeat_interleave(2)
            ),
        },
        clues=[row_0],
        tolerance=1e-3,
    )
    return "sine and cosine of one angle stand side by side, fast hands first, for tables of six sizes."


# --- the rotation -------------------------------------------------------------------------------------------------


def turns(x, sign=1, times=2, first=0, base=10_000.0):
    T, D = x.shape[-2:]
    angle = sign * turned(T, D, base, times, first)
    return angle.cos(), angle.sin()


def rotation(x, **changes):
    cos, sin = turns(x, **changes)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def neighbours(x):
    cos, sin = turns(x)
    first, second = x[..., 0::2], x[..., 1::2]
    return woven(first * cos - second * sin, first * sin + second * cos)


def mixed_pairing(x):
    cos, sin = turns(x)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def combined(rule):
    """A rotation whose two halves are put together by `rule(first, second, cos, sin)`."""
    return lambda x, times=2: torch.cat(rule(*x.chunk(2, dim=-1), *turns(x, times=times)), dim=-1)


def plus(a, b, cos, sin):
    return a * cos + b * sin, a * sin + b * cos


def places_on_heads(x):
    """Right for one head; the places counted along the first axis of a batch."""
    return x if x.ndim == 2 else rotation(x.transpose(-3, -2)).transpose(-3, -2)


def lengths_stay(result, x):
    """A clue: where a length has changed."""
    before, after = x.norm(dim=-1), result.detach().norm(dim=-1)
    if torch.allclose(before, after, atol=1e-3):
        return None
    return "the lengths change, and a turn leaves every length as it is"


def turning(answer, x):
    """Call the answer, and say what sizes that do not fit mean here."""
    try:
        return answer(x)
    except RuntimeError as error:
        if "must match" not in str(error):
            raise
        why = "there must be an angle for each place and pair, T and D / 2: the last two axes of x are T and D"
        raise Mistake(f"Not yet: sizes do not fit: {why} ({told(error)}).") from None


def nothing_at_0(result, x):
    """A clue: at place 0 there is nothing to turn."""
    if torch.allclose(result[..., 0, :].detach(), x[..., 0, :], atol=1e-4):
        return None
    return "place 0 is turned as well: its angle is 0"


@exercise
def repaired_rotation(answer):
    """A function x (..., T, D) -> (..., T, D): rotary positions, paired across the halves."""
    draw = torch.Generator().manual_seed(0)
    cases = [torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.5, 2.0, -1.0]] * 3)]
    cases += [torch.randn(5, 6, generator=draw), torch.randn(2, 3, 4, 10, generator=draw)]
    cases.append(torch.randn(2, 8, 12, generator=draw).mT)
    examine(
        answer,
        cases=[(case,) for case in cases],
        expected=rotation,
        mistakes={
            "both faults are still there": lambda x: combined(plus)(x, times=1),
            "the speeds are right now, and the lengths still change: one product lacks a minus": combined(plus),
            "lengths stay now, and the speeds fall half as far as they should: look at the exponent": lambda x: (
                rotation(x, times=1)
            ),
            "it turns with the clock: the minus stands at the other sine": lambda x: rotation(x, sign=-1),
            "with the clock, and the speeds fall half as far as they should": lambda x: rotation(x, sign=-1, times=1),
            "both sines have a minus: one of the two turns back what the other turned": combined(
                lambda a, b, cos, sin: (a * cos - b * sin, b * cos - a * sin)
            ),
            "the minus stands at a cosine: that mirrors the pair, and a place of 0 turns nothing": combined(
                lambda a, b, cos, sin: (a * cos + b * sin, a * sin - b * cos)
            ),
            "sine and cosine are exchanged: at place 0 nothing may change": combined(
                lambda a, b, cos, sin: (a * sin - b * cos, a * cos + b * sin)
            ),
            "neighbours are paired: here channel i of the first half belongs to channel i of the second": neighbours,
            "neighbours are taken apart and put back as halves: both ends must use one pairing": mixed_pairing,
            "the turned halves are put back as neighbours: here the first half goes back in front": lambda x: woven(
                *rotation(x).chunk(2, dim=-1)
            ),
            "the halves come back exchanged": combined(lambda a, b, cos, sin: (a * sin + b * cos, a * cos - b * sin)),
            "each half is multiplied by a cosine and a sine of its own: a turn mixes the two": combined(
                lambda a, b, cos, sin: (a * cos, b * sin)
            ),
            "only the first half is turned": combined(lambda a, b, cos, sin: (a * cos - b * sin, b)),
            "the exponent has the wrong sign: the hands get faster, not slower": lambda x: rotation(x, times=-2),
            "the exponent is -4i / D: the slow pairs are too slow": lambda x: rotation(x, times=4),
            "all pairs turn equally fast: the exponent is missing": lambda x: rotation(x, times=0),
            "the places are counted from 1: place 0 is not turned": lambda x: rotation(x, first=1),
            "right for one head, not for a batch: the places are on the axis before the last": places_on_heads,
            "nothing is turned": lambda x: x,
        },
        clues=[nothing_at_0, lengths_stay],
        call=turning,
        tolerance=1e-3,
    )
    return "each pair turns by its own angle, lengths stay, and batches of heads work too."


# --- the order of the channels ------------------------------------------------------------------------------------


def order(D):
    return torch.cat([torch.arange(0, D, 2), torch.arange(1, D, 2)])


def each_once(result, D):
    """A clue: an order names every channel once."""
    if sorted(result.detach().flatten().tolist()) != list(range(D)):
        return f"an order of {D} channels names each of 0 to {D - 1} once"
    return None


@exercise
def pair_order(answer):
    """A function D -> (D,) whole numbers: which row of the old weights stands where in the new ones."""

    def at_rest(answer, D):
        result = answer(D)
        if isinstance(result, (list, tuple, range)) and all(type(place) is int for place in result):
            raise Mistake("Not yet: it returns a list, and a tensor is expected: `torch.tensor` makes one of it.")
        return result

    examine(
        answer,
        cases=[(2,), (4,), (6,), (10,)],
        expected=order,
        mistakes={
            "this is the way back, from halves to neighbours": lambda D: order(D).argsort(),
            "the second of each pair stands first: each pair would turn backwards": lambda D: order(D).roll(D // 2),
            "nothing is moved: neighbours stay neighbours": torch.arange,
            "the order is reversed: pair 0 must stay the fastest": lambda D: order(D).flip(0),
            "in each half the pairs stand in reverse: pair 0 must stay the fastest": lambda D: (
                order(D).view(2, -1).flip(1).flatten()
            ),
            "the last channel is missing: `arange` stops before its end": lambda D: order(D)[:-1],
            "the halves are exchanged: no neighbours come apart": lambda D: torch.arange(D).roll(D // 2),
            "the second half is reversed: pairs would be mixed": lambda D: torch.cat(
                [torch.arange(0, D, 2), torch.arange(1, D, 2).flip(0)]
            ),
            "the channels are reversed: the neighbours are neighbours still": lambda D: torch.arange(D).flip(0),
            "neighbours are exchanged, and they stay neighbours": lambda D: (
                torch.arange(D).view(-1, 2).flip(1).flatten()
            ),
        },
        clues=[each_once],
        call=at_rest,
    )
    return "the first of every pair, then the second of every pair, for 2, 4, 6 and 10 channels."
