"""Checks of notebook 12: counting blocks, names, splitting a matrix, a fault in one block, a loss over a long text."""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

import gptlib

from .compare import Reader, plain, tensors
from .exercise import exercise, prediction
from .report import Mistake, shortened

FIT = "(budget - embeddings_and_norm) // block"
NO_BIASES = "max(0, (budget - (vocab_size + context_length) * n_embd) // (12 * n_embd**2))"


@exercise(
    cases=[
        *[(3_270, 10, 50, 9), (2_000, 10, 50, 9), (1_939, 10, 50, 9), (609, 10, 50, 9), (784, 1, 9, 7)],
        *[(124_439_807 + more, 768, 50_257, 1_024) for more in (1, 0)],
        *[(0, 10, 900, 9), (41_753, 8, 547, 3_196)],
    ],
    mistakes={
        "12 * n_embd**2 + 13 * n_embd": {
            "12 * n_embd**2": "the biases and norms of a block are left out: 13 C",
            "12 * n_embd**2 + 9 * n_embd": "the two norms of a block are left out: a scale and a shift each",
            "12 * n_embd**2 + 4 * n_embd": "the biases of the linear layers are left out: 9 C per block",
            "11 * n_embd**2 + 12 * n_embd": "attention has four matrices: the fourth is the output projection",
        },
        "(vocab_size + context_length + 2) * n_embd": {
            "(2 * vocab_size + context_length + 2) * n_embd": "the output layer is the token embedding, counted twice",
            "(vocab_size + 2) * n_embd": "the position embedding is left out: one row per position",
            "(vocab_size + context_length) * n_embd": "the final norm is left out: 2 C",
            "0": "the blocks do not have the budget to themselves: the two embeddings and the final norm come first",
        },
        f"max(0, {FIT})": {
            FIT: "a budget that is too small even for the embeddings has room for 0 blocks, not for fewer",
            NO_BIASES: "the biases and the norms are left out, in the blocks and after them",
            f"max(0, -(-{FIT}))": "rounded up: a block that fits only in part does not fit",
            f"max(0, {FIT.replace('//', '/')})": "the quotient is not rounded down: there are no parts of blocks",
        },
    },
    said="whole blocks within the budget; the 124M model gets its 12, and with one parameter less only 11.",
)
def blocks_that_fit(budget, n_embd, vocab_size, context_length):
    embeddings_and_norm = (vocab_size + context_length + 2) * n_embd
    block = 12 * n_embd**2 + 13 * n_embd
    return max(0, (budget - embeddings_and_norm) // block)


OURS = list(gptlib.gpt2.hf_names(12)) + ["blocks.47.feed_forward.down_proj.weight", "lm_head.weight"]
THEIRS = {theirs: ours for ours, theirs in gptlib.gpt2.hf_names(48).items()}


@exercise(
    cases=[(name,) for name in OURS],
    mistakes={
        '"wte"': {'"lm_head"': "lm_head is the token embedding, which a released file holds once, as wte"},
        "format(i)": {
            "format(i[-1:])": "the number of a block may have two digits",
        },
        ".{kind}": {".weight": "every name ends in .weight, and the biases are lost", "": "weight or bias is missing"},
        "": {
            "None if ours == 'lm_head.weight' else right(ours)": "None for lm_head.weight: which matrix is it?",
            "right(ours).replace('attn.', '').replace('mlp.', '')": "attn or mlp is missing: a block has two c_proj",
            "'transformer.' + right(ours)": "`transformer.` is a prefix of some libraries, not of the released names",
        },
    },
    errors={"KeyError: 'lm_head": "lm_head is in no line of `NAMES`: which other parameter is the same matrix?"},
    clues=[lambda name, ours: f"{name} is the released name of {THEIRS[name]}" if name in THEIRS else None],
    said="all parameters of a model of 12 blocks, and one of a larger model.",
)
def released_name(ours):
    names = gptlib.gpt2.NAMES | {"lm_head": "wte"}
    part, kind = ours.rsplit(".", 1)
    i = part.split(".")[1] if part.startswith("blocks.") else ""
    pattern = part.replace(f".{i}.", ".{}.", 1)
    return f"{names[pattern].format(i)}.{kind}"


PER_HEAD = "weight.mT.unflatten(0, (n_head, 3, -1)).transpose(0, 1)"


def three(answer, weight, n_head):
    """q, k and v, which may come as one tensor (3, H, D, C)."""
    result = answer(weight, n_head)
    return tuple(result) if isinstance(result, Tensor) and result.ndim and len(result) == 3 else result


@exercise(
    cases=[(torch.arange(3.0 * C**2).view(C, 3 * C), H) for C, H in [(2, 2), (2, 1), (4, 2), (6, 2), (6, 3), (12, 4)]],
    mistakes={
        "weight.mT.chunk(3, dim=0)": {
            "weight.chunk(3, dim=1)": "not transposed: the thirds are (in, out) as in the file, and ours are (out, in)",
            "weight.reshape(3, len(weight), -1)": "reshaped in memory order, where each row holds parts of q, k and v",
            "(weight[:, i::3].mT for i in range(3))": "every third column is taken: the first C columns make queries",
            f"{PER_HEAD}.flatten(1, 2)": "q, k and v are taken per head, as in some models: here queries come first",
        },
        "in (q, k, v)": {
            "in (k, q, v)": "queries and keys are exchanged: the order is q, k, v",
            "in (q, v, k)": "keys and values are exchanged: the order is q, k, v",
        },
        "part.unflatten(0, (n_head, -1))": {
            "part.unflatten(0, (-1, n_head)).transpose(0, 1)": "the rows go to the heads in turn: D neighbors each",
            "part.unflatten(0, (n_head, -1)).mT": "each head is (C, D), and (D, C) is asked for: its outputs are rows",
            "part.unflatten(1, (n_head, -1)).transpose(0, 1)": "the inputs are split: each head reads all C channels",
        },
    },
    call=three,
    said="queries, keys and values of every head, row by row, for matrices of four widths.",
)
def split_qkv(weight, n_head):
    q, k, v = weight.mT.chunk(3, dim=0)
    return tuple(part.unflatten(0, (n_head, -1)) for part in (q, k, v))


def found(answer, ours, theirs, tolerance):
    i = answer(list(ours[:, None]), list(theirs[:, None]), tolerance)  # (1, T, C) each
    if i is not None and (isinstance(i, bool) or plain(i) is None or plain(i) % 1 or plain(i) < 0):
        raise Mistake(f"it returns {shortened(i)}, and the number of a state or None is expected")
    return str(i if i is None else int(plain(i)))


def gap_there(result, ours, theirs, tolerance):
    """A clue: how far apart the states are at the index that was found."""
    if result == "None":
        return f"it finds nothing, and state {first_difference.solution(ours, theirs, tolerance)} differs"
    gap = (ours - theirs)[int(result)].abs().max().item()
    within = f"in state {result} no number differs by more than {gap:.3g}, and the tolerance is {tolerance:g}"
    return within if gap <= tolerance else f"state {result} differs, and a state before it too"


def states(*rows):
    """(L, T, C) with T = C = 2."""
    return torch.tensor(rows, dtype=torch.float32).view(-1, 2, 2)


NO, ALL, NAN, BIG, MORE = (0, 0, 0, 0), (1, 1, 1, 1), (0, math.nan, 0, 0), (1e5, 3, 0, 0), (1e5 + 0.75, 3, 0, 0)
ZEROS, DEEP, NOISE = states(NO, NO, NO), *tensors(0, (7, 5, 8), (7, 5, 8))
NEAR = DEEP + 1e-6 * NOISE
WRONG_BLOCKS = {
    **dict.fromkeys((0, 1, 2), "the output of this block agrees"),
    4: "that is the number of the state, and state 0 comes from the embeddings: which block's output is it?",
    5: "block 5 computes what it should: its input differs already",
}


@exercise(
    cases=[
        *[(states(NO, (0, 0, 0, -0.5), (2, 0, 0, 0)), ZEROS, 0.25), (ZEROS, states(NO, NO, NO), 0.25)],
        (states((0.25, 0, 0, -0.25), NO, (0, 0.75, 0, 0), NO), states(NO, NO, NO, NO), 0.5),
        *[(states((0, 0.75, 0, 0), NO, (0, 0, -1, 0)), ZEROS, 0.5), (states(NO, (0.5, 0, 0, 0), ALL), ZEROS, 0.5)],
        *[(states(ALL, (1, -1, 1, 1)), states(ALL, ALL), 0.5), (states(BIG, MORE), states(BIG, BIG), 0.5)],
        *[(states(NO, NAN, ALL), ZEROS, 0.5), (states(NO, NAN, ALL), states(NO, NAN, NO), 0.5)],
        *[(NEAR, DEEP, 1e-4), (NEAR - 1e-3 * (torch.arange(7) > 2).view(7, 1, 1), DEEP, 1e-4)],
    ],
    mistakes={
        "not (one - other).abs().max() <= tolerance": {
            "(one - other).abs().max() > tolerance": "nan is not noticed: every comparison with nan is false",
            "not (one - other).abs().max() < tolerance": "a difference of exactly the tolerance is within it",
            "not (one - other).abs().mean() <= tolerance": "the mean is compared: one number that differs is enough",
            "not (one - other).max() <= tolerance": "the sign counts: a number may be too low as well as too high",
            "not torch.allclose(one, other, atol=tolerance)": "`allclose` also allows 1e-5 of the number: `rtol=0`",
        },
        "return i": {
            "return i + 1": "the states are counted from 1, and the first is 0",
            "return i - 1": "this is the block; the number of the state is asked for",
        },
    },
    said="the first state that differs, in eleven pairs of lists; and the altered block is the one before it.",
    value=prediction({"altered_block": 3}, {"altered_block": WRONG_BLOCKS}, said=""),
    call=found,
    clues=[gap_there],
)
def first_difference(ours, theirs, tolerance):
    for i, (one, other) in enumerate(zip(ours, theirs)):
        if not (one - other).abs().max() <= tolerance:
            return i
    return None


def windows_found(answer, ids, context, stride):
    """A probe: which windows are read."""
    mine, right = Reader(context).eval(), Reader(context).eval()
    answer(mine, ids, context, stride), sliding_loss.solution(right, ids, context, stride)
    for i, (one, other) in enumerate(itertools.zip_longest(mine.windows, right.windows, fillvalue="nothing")):
        if one != other:
            return f"window {i} should read {other}, and it reads {one}"
    return "the windows are right: look at which of their predictions are scored, and with which targets"


TEXT = torch.tensor([0, 1, 3, 2, 2, 1, 0, 3, 1, 1, 2, 0, 3, 0, 0, 1])
LAST = "-stride if start else 0 :"
MEAN = 'reduction="mean") * (len(ids) - 1) / (1 - (len(ids) - 1 - context) // -stride)'


@exercise(
    cases=[(TEXT[:n], *sizes) for n, *sizes in [(6, 3, 1), (8, 4, 2), (9, 4, 1), (12, 5, 2), (16, 6, 4), (14, 4, 3)]],
    also={"right where windows overlap, wrong for stride = context": [(TEXT[:9], 4, 4), (TEXT[:2], 1, 1)]},
    mistakes={
        "logits[scored - start :], ids[scored + 1 : end + 1]": {
            "logits, ids[start + 1 : end + 1]": "all predictions of every window are scored: some count twice",
            "logits[-stride:], ids[start + 1 : end + 1][-stride:]": "the first window must score all that it predicts",
            f"logits[{LAST}], ids[start + 1 : end + 1][{LAST}]": "the last window may have fewer new targets",
            "logits[scored - start :], ids[scored:end]": "the targets equal the inputs: nothing is predicted",
        },
        'reduction="sum")': {MEAN: "a mean of means: the first window predicts more tokens"},
        "end, start + stride": {"end, start + context": "the windows do not overlap: they move by `stride` tokens"},
        "total / (len(ids) - 1)": {
            "total": "a sum, not a mean: divide by the number of predictions",
            "total / len(ids)": "divided by the number of tokens, and the first is never predicted",
            "2.718281828 ** (total / (len(ids) - 1))": "this is the perplexity, the exponential of the loss",
        },
    },
    call=lambda answer, ids, context, stride: answer(Reader(context).eval(), ids, context, stride),
    probes=[windows_found],
    seconds=3,
    said="every token but the first is predicted once, with stride 1, without overlap, and in between.",
)
@torch.no_grad()
def sliding_loss(logits_of, ids, context, stride):
    total, start, scored = 0.0, 0, 0
    while scored < len(ids) - 1:
        end = min(start + context, len(ids) - 1)
        logits = logits_of(ids[None, start:end])[0]
        new = F.cross_entropy(logits[scored - start :], ids[scored + 1 : end + 1], reduction="sum")
        total, scored, start = total + new.item(), end, start + stride
    return total / (len(ids) - 1)


UNTRAINED = "that is the loss before training: measure it again after the 50 steps"
trained_on = prediction(
    {"wrong": 1.925, "right": 1.445},
    {
        "wrong": {2.35: UNTRAINED, 1.445: "that is the right model: leave `attn.c_proj.weight` as it is in the file"},
        "right": {1.374: UNTRAINED, 1.925: "that is the wrong model: transpose all four matrices of a block"},
    },
    said="training hides nearly half of what the mistake costs, and the right model does not improve.",
    tolerance=0.015,
)
