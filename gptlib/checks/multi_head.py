"""Checks of notebook 05: several heads."""

import re
from functools import partial

import torch

from gptlib.checks.judge import (
    Mistake,
    examine,
    exercise,
    likeness,
    mistakes_of,
    named_parts,
    plain,
    shape,
    tensors,
    whereabouts,
)
from gptlib.checks.words import shortened, told

# --- predictions --------------------------------------------------------------------------------------------------

STAGES = {
    "strip": (
        (5, 10, 72),
        {
            (5, 10, 24): "that holds one of the three: queries, keys and values stand side by side in one strip",
            (3, 5, 10, 24): "the three are not apart yet: `qkv` is one layer, and `chunk` comes after it",
            (5, 10, 3, 24): "the three are not apart yet: a layer makes the last axis longer and adds none",
            (5, 30, 24): "the strip is longer along the channels; there are still ten positions",
            (15, 10, 24): "the strip is longer along the channels; there are still five windows",
        },
    ),
    "queries": (
        (5, 3, 10, 8),
        {
            (5, 10, 3, 8): "that is after the `view`; the `transpose` brings the heads beside the batch",
            (5, 10, 24): "these are not split yet: a head has an axis of its own",
            (5, 3, 10, 24): "a head has its share of the 24 channels, not all of them",
            (5, 3, 10, 72): "a head has its share of the query's channels, not the whole strip",
            (5, 3, 8, 10): "positions and channels are exchanged: attention works on (..., T, D)",
            (3, 5, 10, 8): "windows come first, then the heads of each",
            (5, 8, 10, 3): "that is eight heads of three channels: the number of heads and their size are exchanged",
            (5, 10, 8): "one head alone; the three of them have an axis",
        },
    ),
    "weights": (
        (5, 3, 10, 10),
        {
            (5, 10, 10): "one map a window; each head has a map of its own",
            (3, 10, 10): "one map a head; each of the five windows has its own",
            (3, 5, 10, 10): "windows come first, then the heads of each",
            (5, 10, 10, 3): "each head has a map of its own, so the heads stand before the two axes of positions",
            (10, 10): "one map; each head of each window has its own",
            (5, 3, 10, 8): "a row of weights has one number for each position that is looked at, not for each channel",
            (5, 3, 8, 8): "that compares channels with channels; a weight belongs to a pair of positions",
            (5, 3, 24, 24): "that compares channels with channels; a weight belongs to a pair of positions",
            (5, 10, 3, 3): "that lets heads look at heads; without the `transpose` that is what happens",
            (5, 30, 30): "that lets heads look at each other; a head looks at its own ten positions",
        },
    ),
    "merged": (
        (5, 10, 24),
        {
            (5, 3, 10, 8): "these are not merged yet: side by side, the heads share one axis",
            (5, 10, 3, 8): "transposed back, and not merged yet: side by side, the heads share one axis",
            (5, 10, 8): "as narrow as one head: added or averaged, not put side by side",
            (5, 30, 8): "the heads stand one after another along the positions: a text three times as long",
            (5, 10, 72): "each head gives back as many channels as its values have; the strip is long gone",
            (5, 24, 10): "positions and channels are exchanged",
        },
    ),
}


@exercise
def stages(answer):
    """A dict of four shapes on the way of x (5, 10, 24) through three heads."""
    for stage, given in named_parts(answer, STAGES):
        try:
            shape(given, *STAGES[stage])
        except Mistake as mistake:
            raise Mistake(str(mistake).replace("Not yet:", f"Not yet: {stage}:", 1)) from None
    return "the strip, the split queries, the weights and the merged heads, each with its shape."


HABITS = {"one back": 3, "first place": 2, "same letter": 1, "last space": 5}
SEEN = {
    0: "each row is one even shade, so nothing is picked out",
    1: "its dark cells are scattered: look which letters meet there",
    2: "its dark cells fill one column, whatever the row is",
    3: "its dark cells lie one step below the diagonal",
    4: "its dark cells lie two steps below the diagonal",
    5: "its dark cells make short columns, and each ends where a new word begins",
}


@exercise
def habits(answer):
    """A dict: which of six maps has which habit, and which of them need no letters."""
    *singles, (_, free) = named_parts(answer, [*HABITS, "on any text"])
    if all(plain(given) == HABITS[habit] + 1 for habit, given in singles):
        raise Mistake("Not yet: every head has a number one too high: they count from 0, as above the panels.")
    for habit, given in singles:
        if isinstance(given, bool) or plain(given) not in SEEN:
            raise Mistake(f"Not yet: {habit}: give the number of one head, 0 to 5, not {shortened(given)}.")
        if plain(given) != HABITS[habit]:
            raise Mistake(f"Not yet: {habit}: not head {plain(given)}: {SEEN[plain(given)]}.")
    if not isinstance(free, (list, tuple, set)) or any(plain(head) not in SEEN for head in free):
        raise Mistake(f"Not yet: on any text: give a list of heads from 0 to 5, not {shortened(free)}.")
    for head in (1, 5):
        if head in [plain(one) for one in free]:
            why = "it looks for certain letters, and on another text they stand elsewhere"
            raise Mistake(f"Not yet: on any text: not head {head}: {why}.")
    if len({plain(head) for head in free}) < 4:
        why = "it follows a place or a distance, or shares evenly, whatever the letters are"
        raise Mistake(f"Not yet: on any text: a head is missing from the list: {why}.")
    return "stripes are distances, columns are places, and scattered cells are letters that were looked for."


# --- merge --------------------------------------------------------------------------------------------------------


def places(*sizes):
    """Numbers (…, H, T, D) that say where they stand: 120 is head 1, position 2, channel 0; windows are thousands."""
    *front, H, T, D = sizes
    window = torch.arange(torch.Size(front).numel()).view(*front, 1, 1, 1)
    head, position, channel = torch.arange(H)[:, None, None], torch.arange(T)[:, None], torch.arange(D)
    return (1000 * window + 100 * head + 10 * position + channel).float()


def merged(x):
    return x.transpose(-3, -2).flatten(-2)


MERGES = {
    "`view` without `transpose`: heads are mixed with positions": lambda x: x.reshape(merged(x).shape),
    "the channels are interleaved: channel 0 of every head, then channel 1; a head's own belong together": lambda x: (
        x.permute(0, 2, 3, 1).flatten(-2)
    ),
    "the order of the heads is reversed: head 0 comes first": lambda x: merged(x.flip(1)),
    "the channels within each head are reversed": lambda x: merged(x.flip(-1)),
    "the heads are averaged, and each must keep channels of its own": lambda x: x.mean(1),
    "the heads are added up, and each must keep channels of its own": lambda x: x.sum(1),
    "the largest head wins, and each must keep channels of its own": lambda x: x.amax(1),
    "only head 0 is there": lambda x: x[:, 0],
    "only the last head is there": lambda x: x[:, -1],
    "head 0 is there once for each head, and the others are lost": lambda x: merged(x[:, :1].expand_as(x)),
    "the heads stand one after another along the positions, not side by side": lambda x: x.flatten(1, 2),
    "heads and positions share an axis, and it is heads and channels that belong together": lambda x: x.transpose(
        1, 2
    ).flatten(1, 2),
    "positions and channels share an axis, and it is heads and channels that belong together": lambda x: x.flatten(2),
    "the heads went into the batch, and they belong into the channels": lambda x: x.flatten(0, 1),
    "heads and channels changed places, and the last two axes are not merged yet": lambda x: x.permute(0, 2, 3, 1),
    "heads and positions changed places, and the last two axes are not merged yet": lambda x: x.transpose(1, 2),
    "windows and positions share an axis: the batch keeps an axis of its own": lambda x: merged(x).flatten(0, 1),
    "everything in a window stands in one row: the positions keep an axis of their own": lambda x: x.flatten(1),
    "nothing has changed: the heads still have an axis of their own": lambda x: x,
    "the batch and the positions are exchanged: the result is (T, B, C)": lambda x: merged(x).transpose(0, 1),
    "the batch and the positions are mixed: they changed places before the heads were merged": lambda x: x.permute(
        2, 0, 1, 3
    ).reshape(merged(x).shape),
    "positions and channels are exchanged: the result is (B, C, T)": lambda x: merged(x).mT,
    "the wrong axes change places, positions and channels: it is heads and positions that must": lambda x: x.transpose(
        2, 3
    ).reshape(merged(x).shape),
    "positions and channels change places: it is heads and positions that must": lambda x: x.mT.flatten(-2),
    "one row a head, not one a position: the `transpose` has exchanged their sizes too": lambda x: x.transpose(
        1, 2
    ).reshape(x.shape[0], x.shape[1], -1),
    "the wrong axes change places, heads and channels: it is heads and positions that must": lambda x: x.transpose(
        1, 3
    ).reshape(merged(x).shape),
    "the wrong axes change places, batch and heads: it is heads and positions that must": lambda x: x.transpose(
        0, 1
    ).reshape(merged(x).shape),
    "an axis of size 1 is dropped: a batch of one window is still a batch": lambda x: merged(x).squeeze(),
    "only the first window is there: the batch is lost": lambda x: merged(x)[0],
}


FREE_AXES = {
    "what comes in without a batch goes out with one, of size 1: a single window is (H, T, D), and then (T, C)": (
        lambda x: merged(x)[None]
    ),
    "the axes in front of the heads have become one: whatever stands there stays": lambda x: merged(x).flatten(0, -3),
}


def out_of_place(result, x):
    """A clue for `places`: which kind of neighbour a number should not have met."""
    right, result = merged(x).double(), result.detach().double()
    if not torch.isin(result, right).all():
        return "there are numbers that are not in x: merging moves numbers and changes none"
    if result.unique().numel() < right.unique().numel():
        return "some numbers are there twice and others are lost: merging only moves them"
    if not torch.equal(result // 1000, right // 1000):
        return "windows are mixed: a number has left its window"
    if not torch.equal(result // 10 % 10, right // 10 % 10):
        return "heads are mixed with positions: a row holds numbers of other positions"
    if not torch.equal(result // 100, right // 100):
        return "each position has its own numbers, but the heads do not come in order, one after another"
    return "the channels within a head are out of order"


@exercise
def merged_heads(answer):
    """A function x (..., H, T, D) -> (..., T, C)."""

    def call(answer, x):
        try:
            return answer(x)
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            why = "after `transpose` a position's channels no longer lie side by side in memory"
            raise Mistake(f"Not yet: `transpose` without `contiguous`: `view` refuses, because {why}.") from None

    cases = [(places(1, 2, 3, 2),), (places(2, 3, 4, 2),), (places(3, 2, 5, 4),), (places(2, 1, 3, 2),)]
    examine(answer, cases, merged, MERGES, clues=[out_of_place], call=call)
    examine(answer, [(places(2, 4, 3, 2).transpose(1, 2),)], merged, clues=[out_of_place], call=call)
    for x in (places(2, 3, 2), places(2, 2, 3, 4, 2)):
        why = f"right for (B, H, T, D), and wrong for an x of shape {tuple(x.shape)}: count the axes from the end"
        try:
            examine(answer, [(x,)], merged, FREE_AXES)
        except Mistake as mistake:
            _, _, rest = str(mistake).partition("Not yet: ")
            if rest.startswith(tuple(FREE_AXES)):
                raise
            raise Mistake(f"Not yet: {why} ({rest.split(chr(10))[0].rstrip('.')}).") from None
    return "every position has its own channels, head after head, with any axes in front."


# --- attention, with the slips that people make -------------------------------------------------------------------


def own(x, H):
    return x.unflatten(-1, (H, -1)).transpose(-3, -2)


def causal(scores, axis=-1):
    return scores.masked_fill(ahead(scores), -torch.inf).softmax(dim=axis)


def ahead(scores):
    return torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)


def attend(q, k, v, n_head, *, split=own, divisor=None, weigh=causal, roles=(0, 1, 2), join=merged):
    """Attention of several heads, (B, T, C) each -> (B, T, C), with a place for every slip."""
    T, C = q.shape[-2:]
    D = C // n_head
    q, k, v = ((q, k, v)[role] for role in roles)
    q, k, v = (split(part, n_head) for part in (q, k, v))
    scores = q @ k.mT / (divisor(D, C, n_head, T) if divisor else D**0.5)
    return join(weigh(scores) @ v)


def maps(q, k, v, n_head):
    """The weights alone, (B, H, T, T)."""
    return causal(own(q, n_head) @ own(k, n_head).mT / (q.shape[-1] // n_head) ** 0.5)


def head_by_head(slice_of):
    """A split in which head h takes the channels slice_of(h, D, H)."""
    return lambda x, H: torch.stack([x[..., slice_of(h, x.shape[-1] // H, H)] for h in range(H)], dim=1)


SCALES = {
    "scaled by C, not by the head size": lambda D, C, H, T: C**0.5,
    "the scores are not scaled: divide by √D": lambda D, C, H, T: 1,
    "scaled by D, not by its square root": lambda D, C, H, T: D,
    "scaled by C, and even without the square root": lambda D, C, H, T: C,
    "multiplied by √D, not divided by it": lambda D, C, H, T: D**-0.5,
    "scaled by the number of heads, not by their size": lambda D, C, H, T: H**0.5,
    "divided by the number of heads, not by the root of their size": lambda D, C, H, T: H,
    "scaled by the number of positions, not by the head size": lambda D, C, H, T: T**0.5,
}
SPLITS = {
    "the heads overlap: head 1 begins inside head 0, and the last channels belong to nobody": head_by_head(
        lambda h, D, H: slice(h, h + D)
    ),
    "all heads share the first head's channels": head_by_head(lambda h, D, H: slice(0, D)),
    "all heads share the last head's channels": head_by_head(lambda h, D, H: slice(-D, None)),
    "a head takes every H-th channel; its share is D channels side by side": head_by_head(
        lambda h, D, H: slice(h, None, H)
    ),
    "the heads take their channels in reversed order": head_by_head(
        lambda h, D, H: slice((H - 1 - h) * D, (H - h) * D)
    ),
    "`view` without `transpose` in the split: heads are mixed with positions": lambda x, H: x.reshape(
        x.shape[0], H, x.shape[1], -1
    ),
    "every head works on all the channels, not on its share": lambda x, H: x[:, None].expand(-1, H, -1, -1),
}
WEIGHS = {
    "the mask is missing: the future leaks": lambda scores: scores.softmax(-1),
    "only head 0 is masked: in the others the future leaks": lambda scores: torch.cat(
        [causal(scores[:, :1]), scores[:, 1:].softmax(-1)], dim=1
    ),
    "only window 0 is masked: in the others the future leaks": lambda scores: torch.cat(
        [causal(scores[:1]), scores[1:].softmax(-1)]
    ),
    "softmax over the queries: columns sum to one, rows do not": partial(causal, axis=-2),
    "softmax over the heads: each head needs rows of its own": partial(causal, axis=1),
    "the mask is added after the softmax": lambda scores: scores.softmax(-1).tril(),
    "the future is set to 0 before the softmax, and e to the 0 is 1: it still takes part": lambda scores: (
        scores.masked_fill(ahead(scores), 0).softmax(-1)
    ),
    "the past is masked and the future kept": lambda scores: causal(scores.flip(-1, -2)).flip(-1, -2),
    "the softmax is missing": lambda scores: scores.masked_fill(ahead(scores), 0),
    "no mask, and the softmax over the queries: columns sum to one, and the future leaks": lambda s: s.softmax(-2),
    "every position takes the best match alone: a softmax shares": lambda scores: torch.eye(scores.shape[-1])[
        causal(scores).argmax(-1)
    ],
    "queries and keys are not used: the weights are an equal average": lambda scores: causal(0 * scores),
}
ROLES = {
    "queries and keys are exchanged: q asks": (1, 0, 2),
    "the keys are not used: q is compared with itself": (0, 0, 2),
    "the queries are not used: k is compared with itself": (1, 1, 2),
    "keys and values are exchanged: k is what a position offers, v what it gives": (0, 2, 1),
    "queries and values are exchanged: v is what a position gives": (2, 1, 0),
    "the keys are gathered, not the values": (0, 1, 1),
    "the queries are gathered, not the values": (0, 1, 0),
    "queries, keys and values are taken in the wrong order": (1, 2, 0),
    "queries, keys and values are in the wrong order": (2, 0, 1),
}
SLIPS = [("divisor", SCALES), ("split", SPLITS), ("weigh", WEIGHS), ("roles", ROLES)]


LATER = (
    "position 0 is right and a later one is not, so the weights are wrong: look at the scale, the mask and the softmax"
)


# --- repair -------------------------------------------------------------------------------------------------------

JOINS = {
    "`view` without `transpose` in the merge: heads are mixed with positions": lambda x: x.reshape(merged(x).shape),
    "the heads are averaged, and each must keep channels of its own": lambda x: x.mean(1),
    "the heads are added up, and each must keep channels of its own": lambda x: x.sum(1),
    "the heads are added up in every channel": lambda x: merged(x.sum(1, keepdim=True).expand_as(x)),
    "the heads stand one after another along the positions, not side by side": lambda x: x.flatten(1, 2),
    "the order of the heads is reversed": lambda x: merged(x.flip(1)),
    "the channels are interleaved: a head's own belong together": lambda x: x.permute(0, 2, 3, 1).flatten(-2),
    "the heads are not merged: they still have an axis": lambda x: x,
    "the heads are not merged: each position has one row a head": lambda x: x.transpose(1, 2),
    "the heads are stacked, not put side by side": lambda x: x.transpose(0, 1),
    "the heads went into the batch": lambda x: x.transpose(0, 1).flatten(0, 1),
    "only head 0 is there": lambda x: x[:, 0],
    "only the last head is there": lambda x: x[:, -1],
    "the last head is missing": lambda x: merged(x[:, :-1]),
    "the first head is missing": lambda x: merged(x[:, 1:]),
    "head 0 is there once for each head": lambda x: merged(x[:, :1].expand_as(x)),
}


def several_heads(q, k, v, n_head):
    return attend(q, k, v, n_head)


def exchanged(q, k, v, n_head):
    """Head h takes the channels from h * H on, and H of them."""
    own = [[part[..., h * n_head : (h + 1) * n_head] for part in (q, k, v)] for h in range(n_head)]
    D = q.shape[-1] // n_head
    return torch.cat([causal(q @ k.mT / D**0.5) @ v for q, k, v in own], dim=-1)


ENDS = "the heads get narrower: head h begins at h * D, so it ends at (h + 1) * D"


def ends_early(q, k, v, n_head, heads=None):
    """Head h begins h heads further on and ends only h channels further on; divided by √D, or by √C with heads = 1."""
    C, D = q.shape[-1], q.shape[-1] // n_head
    own = [[part[..., h * D : h + D] for part in (q, k, v)] for h in range(n_head)]
    return torch.cat([causal(q @ k.mT / (C // (heads or n_head)) ** 0.5) @ v for q, k, v in own], dim=-1)


def one_head(q, k, v, n_head):
    return causal(q @ k.mT / q.shape[-1] ** 0.5) @ v


def first_row(result, q, k, v, n_head):
    """A clue: position 0 has no past, so it hands on its own value."""
    if found := likeness(result.detach().double(), several_heads(q, k, v, n_head).double()):
        return found
    parts = (own(part.detach().double(), n_head) for part in (result, several_heads(q, k, v, n_head)))
    if found := whereabouts(*parts, names=["window", "head"]):
        return found
    if not torch.allclose(result[:, 0].detach().to(v), v[:, 0], atol=1e-4):
        return (
            "position 0 sees only itself, so its row must be row 0 of v, and it is not: look at mask, split and merge"
        )
    return LATER


@exercise
def repaired_heads(answer):
    """A function q, k, v (B, T, C), n_head -> (B, T, C): causal attention of several heads, side by side."""
    cases = [
        (*tensors(1, *3 * [(1, 2, 4)]), 2),
        (*tensors(2, *3 * [(2, 3, 8)]), 2),
        (*tensors(3, *3 * [(2, 4, 6)]), 3),
    ]
    rarer = [(*(part.mT for part in tensors(4, *3 * [(3, 12, 20)])), 4), (*tensors(5, *3 * [(1, 3, 4)]), 1)]
    whole = {
        "it returns the weights, one map a head: they must gather the values": maps,
        "it returns the values: nothing is gathered": lambda q, k, v, n_head: v,
        "the head's size and the number of heads are exchanged: a head has D channels": exchanged,
        ENDS: ends_early,
        f"two things: {ENDS}; and scaled by C, not by the head size": partial(ends_early, heads=1),
        "`n_head` is not used: this is one head as wide as the model": one_head,
        "every head gathers all the channels of v, and it has a share of them": lambda q, k, v, n_head: (
            (maps(q, k, v, n_head) @ v[:, None]).transpose(1, 2).flatten(2)
        ),
        "v is added to what is gathered": lambda q, k, v, n_head: several_heads(q, k, v, n_head) + v,
        "q is added to what is gathered": lambda q, k, v, n_head: several_heads(q, k, v, n_head) + q,
    }
    mistakes = whole | mistakes_of(attend, [*SLIPS, ("join", JOINS)])
    examine(answer, cases, several_heads, mistakes, clues=[first_row], tolerance=1e-3)
    examine(answer, rarer, several_heads, clues=[first_row], tolerance=1e-3)
    return "each head has its own channels and divides by the root of its own size, for 1, 2, 3 and 4 heads."


# --- what each head adds ------------------------------------------------------------------------------------------


def apart(x, w_qkv, w_project, n_head, *, cut=None, write=None, only_weights=False, **slips):
    """What each head adds to the output, (B, T, C) -> (B, H, T, C), with a place for every slip."""
    parts = cut(x @ w_qkv.mT, n_head) if cut else (x @ w_qkv.mT).chunk(3, dim=-1)
    if only_weights:
        return maps(*parts, n_head)
    gathered = attend(*parts, n_head, join=lambda x: x, **slips)  # (B, H, T, D)
    return write(gathered, w_project) if write else gathered @ columns(w_project, n_head)


def columns(w, H):
    return torch.stack(w.chunk(H, dim=1)).mT  # (H, D, C)


def added(gathered, w):
    return gathered @ columns(w, gathered.shape[1])


def blocks(gathered):
    """The merged heads, each alone among zeros: (B, H, T, D) -> (B, H, T, C)."""
    H = gathered.shape[1]
    return torch.stack([merged(gathered * (torch.arange(H) == h)[:, None, None]) for h in range(H)], dim=1)


CUTS = {
    "the strip is cut head by head, and first come all queries, then all keys, then all values": lambda strip, H: (
        part.flatten(-2) for part in strip.unflatten(-1, (H, 3, -1)).unbind(-2)
    ),
    "the strip is cut every third channel, and first come all queries, then all keys, then all values": (
        lambda strip, H: strip.unflatten(-1, (-1, 3)).unbind(-1)
    ),
}
WRITES = {
    "a head's share of the projection is a group of its columns; these are rows": lambda gathered, w: (
        gathered @ w.unflatten(0, (gathered.shape[1], -1))
    ),
    "a head takes every H-th column; its share is D columns side by side": lambda gathered, w: (
        gathered @ torch.stack([w[:, h :: gathered.shape[1]] for h in range(gathered.shape[1])]).mT
    ),
    "these are the output's channels shared out, the projection's rows: every one of them holds all heads": (
        lambda gathered, w: blocks(own(added(gathered, w).sum(1), gathered.shape[1]))
    ),
    "these are the output's channels shared out: after the projection every one of them holds all heads": (
        lambda gathered, w: own(added(gathered, w).sum(1), gathered.shape[1])
    ),
    "every head has the same part of the whole output: each has a share of its own": lambda gathered, w: (
        added(gathered, w).sum(1, keepdim=True) / gathered.shape[1]
    ).expand_as(added(gathered, w)),
    "the columns of the heads overlap: head 1 begins inside head 0": lambda gathered, w: (
        gathered @ torch.stack([w[:, h : h + gathered.shape[-1]] for h in range(gathered.shape[1])]).mT
    ),
    "the heads stand one after another along the positions: each has an axis of its own": lambda gathered, w: added(
        gathered, w
    ).flatten(1, 2),
    "the heads stand side by side in the channels: each has an axis of its own": lambda gathered, w: merged(
        added(gathered, w)
    ),
    "the heads are the last axis: (B, H, T, C) is asked for": lambda gathered, w: added(gathered, w).movedim(1, -1),
    "every head writes through the first head's columns": lambda gathered, w: (
        gathered @ columns(w, gathered.shape[1])[:1]
    ),
    "the heads write through each other's columns, in reversed order": lambda gathered, w: (
        gathered @ columns(w, gathered.shape[1]).flip(0)
    ),
    "that is the whole output, all heads added up: keep them apart": lambda gathered, w: added(gathered, w).sum(1),
    "every head has the whole output, all heads added up: keep them apart": lambda gathered, w: (
        added(gathered, w).sum(1, keepdim=True).expand_as(added(gathered, w))
    ),
    "each is divided by the number of heads: heads add up, they are not averaged": lambda gathered, w: (
        added(gathered, w) / gathered.shape[1]
    ),
    "that is what is left *without* each head: asked for is what it adds": lambda gathered, w: (
        added(gathered, w).sum(1, keepdim=True) - added(gathered, w)
    ),
    "the sums run on from head to head: each head on its own": lambda gathered, w: added(gathered, w).cumsum(1),
    "the projection is missing: these are the heads' own results": lambda gathered, w: gathered,
    "the projection is missing: these are the merged heads": lambda gathered, w: merged(gathered),
    "the projection is missing: these are the merged heads, each among zeros": lambda gathered, w: blocks(gathered),
    "the heads are the first axis: (B, H, T, C) is asked for": lambda gathered, w: added(gathered, w).transpose(0, 1),
    "positions come before heads: (B, H, T, C) is asked for": lambda gathered, w: added(gathered, w).transpose(1, 2),
    "positions and channels are exchanged: (B, H, T, C) is asked for": lambda gathered, w: added(gathered, w).mT,
    "the projection stands the wrong way round: `nn.Linear` stores (out, in)": lambda gathered, w: blocks(gathered) @ w,
}


FIT = re.compile(r"\(\d+x(\d+) and (\d+)x\d+\)|be: \[\d+, (\d+)\] but got: \[\d+, (\d+)\]")


def misfit(error, C, D):
    """Why two matrices do not fit, from the sizes in PyTorch's message: what the left brings and the right takes."""
    found = FIT.search(str(error))
    brought, taken = [int(size) for size in found.groups() if size] if found else (None, None)
    if brought == D and taken == C:
        return f"a head brings {D} channels, and this takes {C}: the whole projection, or columns the wrong way round?"
    if brought == D:
        return f"a head brings {D} channels, and this part takes {taken}: its share is {D} columns"
    return "`nn.Linear` stores its weight as (out, in), so a product needs it the other way round"


def contribution(x, w_qkv, w_project, n_head):
    return apart(x, w_qkv, w_project, n_head)


def shares(result, x, w_qkv, w_project, n_head):
    """A clue: are the heads right together, and is position 0 right, which looks at nothing but itself?"""
    right, result = contribution(x, w_qkv, w_project, n_head).double(), result.detach().double()
    if found := likeness(result, right):
        return found
    if torch.allclose(result.sum(1), right.sum(1), atol=1e-3):
        return "together the heads give the right output, but the shares are not theirs: look which columns are whose"
    if found := whereabouts(result, right, names=["window", "head"]):
        return found
    if not torch.allclose(result[:, :, 0], right[:, :, 0], atol=1e-3):
        return "position 0 is wrong, and it only sees itself: look at the mask, the values and the projection's columns"
    return LATER


@exercise
def contributions(answer):
    """A function x (B, T, C), w_qkv (3C, C), w_project (C, C), n_head -> (B, H, T, C): what each head adds."""

    def call(answer, *inputs):
        try:
            return answer(*inputs)
        except RuntimeError as error:
            if not any(words in str(error) for words in ("cannot be multiplied", "Expected size for first two")):
                raise
            C = inputs[0].shape[-1]
            why = misfit(error, C, C // inputs[-1])
            raise Mistake(f"Not yet: two matrices do not fit: {why} ({told(error)}).") from None

    cases = [
        (*tensors(6, (1, 2, 4), (12, 4), (4, 4), spread=0.8), 2),
        (*tensors(7, (2, 3, 8), (24, 8), (8, 8), spread=0.8), 2),
        (*tensors(8, (2, 4, 6), (18, 6), (6, 6), spread=0.8), 3),
    ]
    rarer = [(*(part.mT for part in tensors(9, (3, 12, 20), (12, 36), (12, 12), spread=0.8)), 4)]
    whole = {
        "it returns the weights, one map a head: they must gather the values": partial(apart, only_weights=True),
        "x is added to every head: asked for is what the head adds": lambda x, *others: (
            contribution(x, *others) + x[:, None]
        ),
    }
    mistakes = whole | mistakes_of(apart, [("write", WRITES), *SLIPS, ("cut", CUTS)])
    examine(answer, cases, contribution, mistakes, clues=[shares], call=call, tolerance=1e-3)
    examine(answer, rarer, contribution, clues=[shares], call=call, tolerance=1e-3)
    return "each head writes through its own columns of the projection, and together they are the whole output."
