"""Answers to the exercises of notebook 12."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from answers import Several


def by_subtraction(budget, n_embd, vocab_size, context_length):
    left, count = budget - vocab_size * n_embd - context_length * n_embd - 2 * n_embd, 0
    while left >= 12 * n_embd * n_embd + 13 * n_embd:
        left, count = left - 12 * n_embd * n_embd - 13 * n_embd, count + 1
    return count


PAIRS = "token_embedding wte position_embedding wpe lm_head wte final_norm ln_f norm1 ln_1 norm2 ln_2 qkv_proj c_attn"
PAIRS += " out_proj c_proj up_proj c_fc down_proj c_proj attention attn feed_forward mlp blocks h"


def chained(name):
    words = PAIRS.split()
    for ours, theirs in zip(words[::2], words[1::2]):
        name = name.replace(ours, theirs)
    return name


def by_columns(weight, n_head):
    C = len(weight)
    D = C // n_head
    starts = [[third * C + h * D for h in range(n_head)] for third in range(3)]
    return [torch.stack([weight[:, start : start + D].T for start in row]) for row in starts]


def all_at_once(weight, n_head):
    return weight.T.reshape(3, n_head, -1, len(weight))


def looped(ours, theirs, tolerance):
    for i in range(len(ours)):
        if torch.nan_to_num(ours[i] - theirs[i], nan=float("inf")).abs().amax(dim=(0, 1, 2)).item() > tolerance:
            return i


def by_allclose(ours, theirs, tolerance):
    close = [torch.allclose(*pair, rtol=0, atol=tolerance) for pair in zip(ours, theirs)]
    return None if all(close) else np.int64(close.index(False))


def changed(change):
    return lambda *given: change(looped(*given))


def masked_targets(logits_of, ids, context, stride):
    """Targets of -100 are ignored."""
    total, count, done = 0.0, 0, 0
    for start in range(0, len(ids) - 1, stride):
        end = min(start + context, len(ids) - 1)
        x, y = ids[start:end], ids[start + 1 : end + 1].clone()
        y[: len(y) - (end - done)] = -100
        total += F.cross_entropy(logits_of(x[None]).flatten(0, 1), y, reduction="sum")
        count, done = count + (y != -100).sum(), end
        if done == len(ids) - 1:
            return total / count


def token_by_token(logits_of, ids, context, stride):
    losses = []
    for t in range(1, len(ids)):
        start = max(0, math.ceil((t - context) / stride)) * stride
        probs = logits_of(ids[None, start : min(start + context, len(ids) - 1)])[0, t - 1 - start].softmax(-1)
        losses.append(-probs[ids[t]].log().item())
    return np.mean(losses)


RIGHT = {
    "blocks_that_fit": [by_subtraction],
    "released_name": [chained],
    "split_qkv": [by_columns, all_at_once],
    "first_difference": [Several([looped, 3]), Several([by_allclose, torch.tensor(3)])],
    "sliding_loss": [masked_targets, token_by_token],
    "trained_on": [{"wrong": 1.932, "right": 1.44}],
}
WRONG = {
    "blocks_that_fit": {},
    "released_name": {
        "lm_head is in no line of `NAMES`": {' | {"lm_head": "wte"}': ""},
        "h.1.ln_1.weight is the released name of blocks.1": {"format(i)": "format(int(i or 0) + 1)"},
        "is the released name of blocks.0.norm2": lambda name: chained(name.replace("norm1", "norm2")),
        "h.0.mlp.c_proj.weight is the released name of": lambda name: chained(name.replace("up_proj", "down_proj")),
        "is the released name of position_embedding": lambda name: chained(name.replace("token", "position")),
    },
    "split_qkv": {"at index 0 of what it returns": lambda w, H: (all_at_once(w, H)[0] / 2, *all_at_once(w, H)[1:])},
    "first_difference": {
        "altered_block: 4": Several([looped, 4]),
        "altered_block: 5": Several([looped, 5]),
        "altered_block: 1: the output of this block agrees": Several([looped, 1]),
        "it finds nothing, and state 1 differs": changed(lambda i: None if i == 1 else i),
        "in state 0 no number differs by more than 0, and": changed(lambda i: i and i // 3),
        "state 2 differs, and a state before it too": changed(lambda i: 2 if i == 1 else i),
        "it returns True": changed(lambda i: bool(i)),
    },
    "sliding_loss": {
        "the model takes idx (B, T) with T ≤ 3, got (5,)": lambda model, ids, *given: model(ids[:-1]).mean(),
        "T ≤ 3, got (1, 5)": lambda model, ids, *given: model(ids[None, :-1]).mean(),
        "window 3 should read nothing": lambda *given: masked_targets(*given) + token_by_token(*given),
        "and it reads [0, 1]": {"start + context,": "start + context - 1,"},
        "window 0 should read": {"ids[None, start:end]": "ids[None, start:end].flip(1)"},
        "the windows are right: look": {"total + new.item()": "max(total, new.item())"},
        "wrong for stride = context": {"= 0.0,": "= (stride == context) * 1.0,"},
        "does the loop end": {"start + stride\n": "start\n"},
    },
}
