"""Checks of notebook 05: several heads."""

import torch

import gptlib

from .compare import same, tensors
from .exercise import exercise, prediction

stages = prediction(
    {"packed": (5, 10, 72), "queries": (5, 3, 10, 8), "weights": (5, 3, 10, 10), "merged": (5, 10, 24)},
    {
        (3, 5, 10, 24): "the three are not separate yet: `qkv_proj` is one layer, and `chunk` comes after it",
        (5, 10, 3, 8): "that is after the `view`; the `transpose` puts the axis of heads beside the batch",
        (5, 3, 10, 24): "each head has a third of the 24 channels, not all of them",
        (5, 10, 10): "that is one matrix per window; each head has a matrix of its own",
        (5, 3, 8, 8): "a weight belongs to a pair of positions, not to a pair of channels",
        (5, 10, 3, 3): "there heads attend to heads: that is what happens without the `transpose`",
        "packed": {(5, 10, 24): "that holds one of the three: queries, keys and values are concatenated"},
        "weights": {(5, 3, 10, 8): "a row of weights has one number per key position, not one per channel"},
        "merged": {
            (5, 3, 10, 8): "these are not merged yet: the concatenated heads share one axis",
            (5, 10, 8): "that has the size of one head: the heads are concatenated, not added or averaged",
        },
    },
    said="the packed projections, the split queries, the weights and the merged heads, each with its shape.",
)

SEEN = {
    0: "head 0 spreads its weight evenly over the past",
    1: "the dark cells of head 1 are scattered: which letters meet there",
    2: "the dark cells of head 2 fill one column, whatever the row is",
    3: "the dark cells of head 3 lie one step below the diagonal",
    4: "the dark cells of head 4 lie two steps below the diagonal",
    5: "the dark cells of head 5 make short columns, each of which ends where a new word begins",
}
HEADS = {"one back": 3, "first position": 2, "same letter": 1, "last space": 5}


def letters_or_not(given):
    """A clue for the heads that are listed."""
    if isinstance(given, list) and {1, 5} & set(given):
        return f"head {min({1, 5} & set(given))} looks for certain letters, and another text has them elsewhere"
    if isinstance(given, list) and set(given) < {0, 2, 3, 4}:
        return "a head is missing: it follows a position or a distance, or averages evenly, whatever the letters are"
    return "the heads are numbered from 0 to 5"


habits = prediction(
    {**HEADS, "on any text": {0, 2, 3, 4}},
    {habit: {head: why for head, why in SEEN.items() if head != right} for habit, right in HEADS.items()},
    said="stripes are distances, columns are positions, and scattered cells depend on the letters.",
    clue=letters_or_not,
)


def numbered(*sizes):
    """Numbers (..., H, T, D) that say where they are: 120 is head 1, position 2, channel 0; windows are thousands."""
    *front, H, T, D = sizes
    window = torch.arange(torch.Size(front).numel()).view(*front, 1, 1, 1)
    head, position, channel = torch.arange(H)[:, None, None], torch.arange(T)[:, None], torch.arange(D)
    return (1000 * window + 100 * head + 10 * position + channel).float()


def out_of_place(result, x):
    """A clue for `numbered`: which numbers are at the wrong index."""
    right = x.transpose(-3, -2).flatten(-2)
    if not torch.equal(result // 1000, right // 1000):
        return "windows are mixed: a number has left its window"
    if not torch.equal(result // 10 % 10, right // 10 % 10):
        return "heads are mixed with positions: a row holds numbers of other positions"
    in_order = torch.equal(result // 100, right // 100)
    return None if in_order else "each position has its own numbers, but the heads do not come one after another"


@exercise(
    cases=[(numbered(1, 2, 3, 2),), (numbered(2, 3, 4, 2).flip(1),), (numbered(3, 2, 5, 4).flip(1),)],
    also={"right for (B, H, T, D) only: count axes from the end": [(numbered(2, 3, 2),), (numbered(2, 2, 3, 4, 2),)]},
    mistakes={
        "x.transpose(-3, -2).flatten(-2)": {
            "x.reshape(*x.shape[:-3], x.shape[-2], -1)": "`view` without `transpose`: heads are mixed with positions",
            "x.transpose(1, 2).reshape(*x.shape[:2], -1)": "one row per head: `transpose` exchanges the sizes too",
            "x.movedim(-3, -1).flatten(-2)": "the heads are interleaved: channel 0 of every head, then channel 1",
            "x.flatten(-3, -2)": "the heads are concatenated along the positions, not along the channels",
            "x.sum(dim=-3)": "the heads are added, and each must keep channels of its own",
        },
    },
    clues=[out_of_place],
    errors={"view size is not compatible": "`view` refuses after `transpose`: use `contiguous` first, or `reshape`"},
    said="every position has its own channels, head after head, with any axes in front.",
)
def merged_heads(x):
    return x.transpose(-3, -2).flatten(-2)


def what_moves(answer, q, k, v, n_head):
    """A probe: which channels of the result change with one channel of v or q? And is row 0 right?"""
    C, right = q.shape[-1], answer(q, k, v, n_head)
    for c, one in enumerate(torch.eye(C)):
        for name, moved in (("v", answer(q, k, v + one, n_head)), ("q", answer(q + one, k, v, n_head))):
            moved = ((moved - right).abs() > 1e-5).flatten(0, 1).any(dim=0).nonzero().flatten().tolist()
            if name == "v" and moved != [c] or {m * n_head // C for m in moved} - {c * n_head // C}:
                expected = f"[{c}]" if name == "v" else f"only those of head {c * n_head // C}"
                return f"when channel {c} of {name} changes, channels {moved} of the result change, expected {expected}"
    own = same(right[:, 0], v[:, 0])
    return None if own else "position 0 attends only to itself, so row 0 of the result must be row 0 of v"


BY_HAND = torch.tensor([[[[1.0, 1.0], [1.0, 2.0]]], [[[1.0, 0.0], [0.0, 1.0]]], [[[2.0, 4.0], [6.0, 8.0]]]])  # q, k, v
SIZES = [(1, 3, 4, 2), (2, 3, 8, 2), (2, 5, 6, 3), (2, 4, 3, 1)]


@exercise(
    cases=[(*BY_HAND, 2), *((*tensors(1, *3 * [(B, T, C)]), H) for B, T, C, H in SIZES)],
    pairs=True,
    mistakes={
        "slice(h * D, (h + 1) * D)": {
            "slice(h, h + D)": "the heads overlap: head 1 begins inside head 0, and the last channels are not used",
            "slice(h * D, h + D)": "the heads get narrower: head h begins at h * D, so it ends at (h + 1) * D",
            "slice(h, None, n_head)": "a head takes every H-th channel: it should take D adjacent channels",
            "slice(h * n_head, (h + 1) * n_head)": "the number of heads and the head size are exchanged in the slice",
        },
        "q[..., own], k[..., own]": {
            "q[..., own] / n_head**0.5, k[..., own]": "scaled by C, not by the head size",
            "q[..., own] * D**0.5, k[..., own]": "the scores are not scaled: divide by √D",
            "q[..., own] / D**0.5, k[..., own]": "scaled by D, not by its square root",
            "q[..., own] * (D / n_head) ** 0.5, k[..., own]": "scaled by the number of heads, not by the head size",
            "q[..., own], k[..., own], causal=False": "the mask is missing: the future leaks",
            "k[..., own], q[..., own]": "queries and keys are exchanged: rows belong to queries, columns to keys",
        },
        "v[..., own]": {"k[..., own]": "the weights average the keys: it is the values that are averaged"},
        "torch.cat(answers, dim=-1)": {
            "torch.cat(answers, dim=1)": "the heads are concatenated along the positions, not along the channels",
            "torch.stack(answers, 1).reshape(q.shape)": "merged by `view` alone: heads are mixed with positions",
        },
        "": {
            "gptlib.attention_weights(q, k) @ v": "`n_head` is not used: this is one head as wide as the model",
            "right(*(x.view(len(x), n_head, x.shape[1], -1).transpose(1, 2).flatten(2) for x in (q, k, v)), n_head)": (
                "split by `view` without `transpose`: heads are mixed with positions"
            ),
        },
    },
    probes=[what_moves],
    said="each head has its own channels and divides by the root of its own size, for 1, 2 and 3 heads.",
)
def repaired_heads(q, k, v, n_head):
    D = q.shape[-1] // n_head
    answers = []
    for h in range(n_head):
        own = slice(h * D, (h + 1) * D)
        answers.append(gptlib.attention_weights(q[..., own], k[..., own]) @ v[..., own])
    return torch.cat(answers, dim=-1)


def shares(result, *inputs):
    """A clue: is the sum over the heads right?"""
    added = same(result.sum(dim=1), contributions.solution(*inputs).sum(dim=1), 1e-3)
    return added and "the heads add up to the right output, but a head has the wrong part: which columns are its own?"


@exercise(
    cases=[
        (BY_HAND[0], torch.cat([torch.eye(2), torch.eye(2), 2 * torch.eye(2)]), torch.tensor([[1.0, 2], [0, 1]]), 2),
        *((*tensors(6, (B, T, C), (3 * C, C), (C, C)), H) for B, T, C, H in [SIZES[0], SIZES[1], (2, 4, 6, 3)]),
    ],
    mistakes={
        "attention_weights(q, k)": {
            "attention_weights(q / n_head**0.5, k)": "scaled by C, not by the head size",
            "attention_weights(q, k, causal=False)": "the mask is missing: the future leaks",
            "attention_weights(k, q)": "queries and keys are exchanged: in `w_qkv` all queries come first",
        },
        "gathered @ columns.mT": {
            "gathered": "the projection is missing: these are the values that each head gathers",
            "gathered @ torch.stack(w_out.chunk(n_head))": "these are rows of `w_out`: a head owns D of its columns",
            "gptlib.merge_heads(gathered) @ w_out.mT": "that is the whole output, all heads added: keep them apart",
            "(gathered @ columns.mT).transpose(1, 2)": "positions come before heads: (B, H, T, C) is asked for",
            "gathered @ columns.mT / n_head": "divided by the number of heads: heads are added, not averaged",
        },
    },
    clues=[shares],
    errors={
        "cannot be multiplied": "two matrices do not fit: `nn.Linear` stores (out, in), a head has D channels, not C",
        "Expected size for first two": "two stacks of matrices do not fit: a head has D channels, D columns of w_out",
    },
    tolerance=1e-3,
    said="each head writes through its own columns of the projection, and together they are the whole output.",
)
def contributions(x, w_qkv, w_out, n_head):
    q, k, v = (gptlib.split_heads(part, n_head) for part in (x @ w_qkv.mT).chunk(3, dim=-1))
    gathered = gptlib.attention_weights(q, k) @ v
    columns = torch.stack(w_out.chunk(n_head, dim=1))
    return gathered @ columns.mT


without_projection = prediction(
    {"no skip": 2.22, "skip": 2.175},
    {
        "no skip": {2.40: "that is one head: train with `n_head=4`"},
        "skip": {2.25: "that is one head: train with `n_head=4`"},
        4.17: "that is a model before training: `gptlib.train` comes before `gptlib.evaluate`",
    },
    said="compare each run with the one that has the projection, and with what a seed changes.",
)
