"""Answers to the exercises of notebook 12."""

import functools
import itertools
import math
import re

import numpy as np
import torch
from torch.nn import functional as F

from answers import Several
from gptlib import GPT, GPTConfig

# ---------------------------------------------------------------- blocks within a budget


def one_by_one(budget, n_embd, vocab_size, context_length):
    left, count = budget - vocab_size * n_embd - context_length * n_embd - 2 * n_embd, 0
    attention = n_embd * 3 * n_embd + 3 * n_embd + n_embd * n_embd + n_embd
    feed_forward = n_embd * 4 * n_embd + 4 * n_embd + 4 * n_embd * n_embd + n_embd
    while left >= attention + feed_forward + 4 * n_embd:
        left -= attention + feed_forward + 4 * n_embd
        count += 1
    return count


def in_floats(budget, n_embd, vocab_size, context_length):
    left = budget - n_embd * (vocab_size + context_length + 2)
    return torch.tensor(max(left, 0), dtype=torch.float64).div(12 * n_embd**2 + 13 * n_embd).floor()


def by_building(budget, n_embd, vocab_size, context_length):
    """Models on meta, one block larger each time, until one does not fit."""
    for count in itertools.count():
        with torch.device("meta"):
            model = GPT(GPTConfig(vocab_size, context_length, n_layer=count + 1, n_head=1, n_embd=n_embd))
        if sum(parameter.numel() for parameter in model.parameters()) > budget:
            return count


def fit(a=12, b=13, tokens=1, positions=1, norm=2, count=lambda left, block: max(0, left // block)):
    def blocks(budget, n_embd, vocab_size, context_length):
        left = budget - (tokens * vocab_size + positions * context_length + norm) * n_embd
        return count(left, a * n_embd**2 + b * n_embd)

    return blocks


# ---------------------------------------------------------------- names

PAIRS = [
    ("token_embedding", "wte"),
    ("position_embedding", "wpe"),
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("attention.qkv", "attn.c_attn"),
    ("attention.project", "attn.c_proj"),
    ("feed_forward.widen", "mlp.c_fc"),
    ("feed_forward.narrow", "mlp.c_proj"),
    ("blocks.", "h."),
]


def chained(name):
    """Replacements, in an order in which none meets what another has written."""
    if name.startswith("norm."):
        return name.replace("norm", "ln_f")
    if name == "head.weight":
        return "wte.weight"
    for ours, theirs in PAIRS:
        name = name.replace(ours, theirs)
    return name


def looked_up(name):
    """All names of a large model written out."""
    table = {"norm.weight": "ln_f.weight", "norm.bias": "ln_f.bias", "head.weight": "wte.weight"}
    for ours, theirs in PAIRS[:2]:
        table[f"{ours}.weight"] = f"{theirs}.weight"
    for i in range(48):
        for ours, theirs in PAIRS[2:-1]:
            for kind in ("weight", "bias"):
                table[f"blocks.{i}.{ours}.{kind}"] = f"h.{i}.{theirs}.{kind}"
    return table[name]


def naive_chain(name):
    """The last norm's replacement meets the norms of the blocks."""
    name = name.replace("norm", "ln_f")
    for ours, theirs in PAIRS:
        name = name.replace(ours, theirs)
    return name.replace("head", "wte")


def then(**changed):
    """Right, and then one word for another."""
    pairs = [tuple(pair.split(">")) for pair in changed.values()]
    return lambda name: functools.reduce(lambda done, pair: done.replace(*pair), pairs, chained(name))


def swapped(one, other):
    return lambda name: chained(name).replace(one, "?").replace(other, one).replace("?", other)


# ---------------------------------------------------------------- one matrix for queries, keys and values


def by_columns(weight, n_head):
    C = len(weight)
    D = C // n_head
    heads = [
        torch.stack([weight[:, third * C + h * D : third * C + (h + 1) * D].T for h in range(n_head)])
        for third in range(3)
    ]
    return heads[0], heads[1], heads[2]


def all_at_once(weight, n_head):
    C = len(weight)
    return weight.T.reshape(3, n_head, C // n_head, C)


def by_einsum(weight, n_head):
    C = len(weight)
    return list(torch.einsum("ithd->thdi", weight.view(C, 3, n_head, -1)))


def rearranged(change):
    """The right three (3, H, D, C), changed."""
    return lambda weight, n_head: tuple(change(all_at_once(weight, n_head)))


def untransposed(weight, n_head):
    q, k, v = weight.chunk(3, dim=1)
    return tuple(part.reshape(n_head, -1, len(weight)) for part in (q, k, v))


def viewed(weight, n_head):
    C = len(weight)
    return tuple(weight.view(3, C, C).view(3, n_head, C // n_head, C))


def taking_turns(weight, n_head):
    C = len(weight)
    return tuple(weight.T.reshape(3, C // n_head, n_head, C).transpose(1, 2))


def head_by_head(weight, n_head):
    C = len(weight)
    return tuple(weight.T.reshape(n_head, 3, C // n_head, C).transpose(0, 1))


def zeroes_the_matrix(weight, n_head):
    parts = [part.clone() for part in all_at_once(weight, n_head)]
    weight.zero_()
    return parts


# ---------------------------------------------------------------- the first difference

BLOCK = 3  # the one that the notebook alters


def looped(ours, theirs, tolerance):
    for i in range(len(ours)):
        gap = torch.nan_to_num(ours[i] - theirs[i], nan=float("inf")).abs().max().item()
        if gap > tolerance:
            return i


def by_allclose(ours, theirs, tolerance):
    for i, pair in enumerate(zip(ours, theirs)):
        if not torch.allclose(*pair, rtol=0, atol=tolerance):
            return torch.tensor(i)
    return None


def stacked(ours, theirs, tolerance):
    gaps = (torch.stack(ours) - torch.stack(theirs)).abs().flatten(1).amax(1)
    return next(iter((~(gaps <= tolerance)).nonzero().flatten().tolist()), None)


def search(differs, nowhere=None, start=0, found=lambda i: i):
    """A loop that ends at the first pair that differs."""

    def first(ours, theirs, tolerance):
        for i, (one, other) in enumerate(zip(ours, theirs)):
            if i >= start and differs(one - other, tolerance):
                return found(i)
        return nowhere(ours) if callable(nowhere) else nowhere

    return first


def largest(gap, tolerance):
    return not gap.abs().max() <= tolerance


def last_one(ours, theirs, tolerance):
    return max((i for i, (a, b) in enumerate(zip(ours, theirs)) if largest(a - b, tolerance)), default=None)


def widest(ours, theirs, tolerance):
    return max(range(len(ours)), key=lambda i: (ours[i] - theirs[i]).abs().nan_to_num(1e9).max().item())


def default_allclose(ours, theirs, tolerance):
    pairs = enumerate(zip(ours, theirs))
    return next((i for i, (a, b) in pairs if not torch.allclose(a, b, atol=tolerance)), None)


def equal_nan(ours, theirs, tolerance):
    pairs = enumerate(zip(ours, theirs))
    return next((i for i, (a, b) in pairs if not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)), None)


def nan_in_ours(ours, theirs, tolerance):
    pairs = enumerate(zip(ours, theirs))
    return next((i for i, (a, b) in pairs if a.isnan().any() or (a - b).abs().max() > tolerance), None)


def signs_first(ours, theirs, tolerance):
    pairs = enumerate(zip(ours, theirs))
    return next((i for i, (a, b) in pairs if largest(a.abs() - b.abs(), tolerance)), None)


def changes_them(ours, theirs, tolerance):
    found = looped(ours, theirs, tolerance)
    ours[0] += 1
    return found


def empties_them(ours, theirs, tolerance):
    found = looped(ours, theirs, tolerance)
    ours.clear()
    return found


def with_block(function, block=BLOCK):
    return Several((function, block))


# ---------------------------------------------------------------- the loss in windows that overlap


def by_plan(plan, join=lambda parts, N: torch.cat(parts).sum().item() / (N - 1), shift=1):
    """A loss from a plan (N, context, stride) -> [(start, end, first scored), …]."""

    @torch.no_grad()
    def loss(logits_of, ids, context, stride):
        parts = []
        for start, end, first in plan(len(ids), context, stride):
            y = ids[start + shift : end + shift]
            parts.append(F.cross_entropy(logits_of(ids[None, start:end])[0], y, reduction="none")[first - start :])
        return join(parts, len(ids))

    return loss


def overlapping(N, context, stride):
    plan = [(0, min(context, N - 1), 0)]
    while plan[-1][1] < N - 1:
        start, end = plan[-1][0] + stride, plan[-1][1]
        plan.append((start, min(start + context, N - 1), end))
    return plan


def masked_targets(logits_of, ids, context, stride):
    """The way of -100: targets that are not scored are ignored."""
    total, count, done = 0.0, 0, 0
    for start in range(0, len(ids) - 1, stride):
        end = min(start + context, len(ids) - 1)
        x, y = ids[start:end], ids[start + 1 : end + 1].clone()
        y[: len(y) - (end - done)] = -100
        total += F.cross_entropy(logits_of(x[None]).flatten(0, 1), y, reduction="sum")
        count += (y != -100).sum()
        done = end
        if done == len(ids) - 1:
            return total / count


def token_by_token(logits_of, ids, context, stride):
    losses = []
    for t in range(1, len(ids)):
        window = max(0, math.ceil((t - context) / stride))
        start, end = window * stride, min(window * stride + context, len(ids) - 1)
        chances = logits_of(ids[None, start:end])[0, t - 1 - start].softmax(-1)
        losses.append(-chances[ids[t]].log().item())
    return np.mean(losses)


def change(replan):
    """The right plan, with something done to its windows."""
    return by_plan(lambda N, context, stride: replan(overlapping(N, context, stride), N, context, stride))


@torch.no_grad()
def by_the_overlap(logits_of, ids, context, stride):
    """stride is taken for the overlap: where it is all of the context, the window stands still."""
    total, start, scored = 0.0, 0, 0
    while scored < len(ids) - 1:
        end = min(start + context, len(ids) - 1)
        y = ids[scored + 1 : end + 1]
        total += F.cross_entropy(logits_of(ids[None, start:end])[0, scored - start :], y, reduction="sum").item()
        start, scored = start + context - stride, end
    return total / (len(ids) - 1)


def never_ends(logits_of, ids, context, stride):
    while True:
        logits_of(ids[None, :context])


def all_in_one(logits_of, ids, context, stride):
    return F.cross_entropy(logits_of(ids[None, :-1])[0], ids[1:]).item()


RIGHT = {
    "blocks_that_fit": [one_by_one, in_floats, by_building, fit()],
    "released_name": [chained, looked_up, lambda name: "".join(chained(name))],
    "split_qkv": [by_columns, all_at_once, by_einsum],
    "first_difference": [
        with_block(looped),
        with_block(by_allclose, torch.tensor(BLOCK)),
        with_block(stacked, float(BLOCK)),
    ],
    "sliding_loss": [by_plan(overlapping), masked_targets, token_by_token],
}

WRONG = {
    "blocks_that_fit": [
        (fit(b=0), "biases and norms of a block are left out"),
        (fit(b=9), "the two norms of a block"),
        (fit(b=11), "a gain and a shift"),
        (fit(b=4), "biases of the four matrices"),
        (fit(a=11, b=12), "the fourth writes back"),
        (fit(a=11), "only three are counted"),
        (fit(a=8, b=12), "narrows again"),
        (fit(a=4, b=4), "the attention of a block alone"),
        (fit(tokens=2), "the head is the token table"),
        (fit(positions=0), "the position table is left out"),
        (fit(tokens=0), "the token table is left out"),
        (fit(norm=0), "the last norm is left out"),
        (fit(norm=1), "the last norm has a gain"),
        (fit(0, 0, 0, 0, 0, count=lambda left, block: left), "parameters, and the budget is"),
        (fit(tokens=0, positions=0, norm=0), "not alone in the budget"),
        (fit(tokens=2, b=0), "two things: the biases and norms of a block are left out: 13 C; and the head is"),
        (fit(count=lambda left, block: left // block), "not fewer"),
        (fit(count=lambda left, block: max(0, -(-left // block))), "rounded up"),
        (fit(count=lambda left, block: max(0, round(left / block))), "to the nearest"),
        (fit(count=lambda left, block: left / block), "not rounded"),
        (fit(count=lambda left, block: max(0, (left - 1) // block)), "exactly is within it"),
        (fit(count=lambda left, block: max(1, left // block)), "0 can be the answer"),
        (fit(count=lambda left, block: left // block + 1), "3 blocks make 4,600 parameters"),
        (fit(a=14), "there is room for 1 more"),
        (fit(count=lambda left, block: -(left // block)), "fewer than 0"),
        (fit(count=lambda left, block: str(left // block)), "a str, and a number"),
        (fit(count=lambda left, block: None), "returns nothing"),
        (lambda budget, n_embd: 1, "TypeError"),
        (12, "not a function"),
    ],
    "released_name": [
        (lambda name: name, "as it went in"),
        (naive_chain, "part of no released name"),
        (then(a="h.>blocks."), "their blocks are called h"),
        (lambda name: re.sub(r"^h\.\d+", "h.{}", chained(name)), "stands there still"),
        (lambda name: None if name == "head.weight" else chained(name), "nothing comes back for head.weight"),
        (then(a="h.>h"), "a dot stands between"),
        (lambda name: "transformer." + chained(name), "the released names have none"),
        (lambda name: "lm_head.weight" if name == "head.weight" else chained(name), "holds that matrix once"),
        (lambda name: name if name == "head.weight" else chained(name), "head.weight is left as it is"),
        (swapped("ln_1", "ln_2"), "the two norms of a block are exchanged"),
        (swapped("wte", "wpe"), "the two tables are exchanged"),
        (swapped("c_fc", "mlp.c_proj"), "the name has 6 of the 5 parts"),
        (swapped("mlp.c_fc", "mlp.c_proj"), "the feed-forward's two are exchanged"),
        (swapped("attn.c_attn", "attn.c_proj"), "attention's two are exchanged"),
        (swapped("attn.c_proj", "mlp.c_proj"), "that is the released name of"),
        (then(a="mlp.c_proj>attn.c_proj"), "the one of the feed-forward is in mlp"),
        (then(a=".attn.>.", b=".mlp.>."), "two c_proj in a block"),
        (then(a="ln_1>ln_0", b="ln_2>ln_1"), "count from 1"),
        (then(a="ln_f>ln_3"), "f for final"),
        (then(a="weight>w", b="bias>b"), "weight or bias"),
        (then(a="bias>weight"), "biases have a name too"),
        (lambda name: ".".join(p for p in chained(name).split(".") if not p.isdigit()), "the number of the block is"),
        (
            lambda name: chained("".join(p if not p.isdigit() else p for p in name.replace("11", "1"))),
            "name of blocks.1",
        ),
        (lambda name: ".".join(reversed(chained(name).split("."))), "their order is not"),
        (lambda name: chained(name).rsplit(".", 1)[0], "the name has 1 of the 2 parts"),
        (lambda name: chained(name) + " ", "does not belong to it"),
        (lambda name: chained(name).split("."), "a list, and a str"),
        (lambda name: {"norm1": "ln_1"}[name], "KeyError"),
        (lambda name: print(end=""), "returns nothing"),
        ("h.0.ln_1", "not a function"),
    ],
    "split_qkv": [
        (untransposed, "still lie as they were released"),
        (lambda w, H: tuple(p.unflatten(0, (H, -1)) for p in w.chunk(3, 1)), "still lie as they were released"),
        (viewed, "cut in the order in which they lie"),
        (lambda w, H: tuple(w.view(3 * len(w), len(w)).view(3, H, -1, len(w))), "in which they lie"),
        (taking_turns, "heads take turns"),
        (head_by_head, "stand together for each head"),
        (rearranged(lambda parts: parts[[1, 0, 2]]), "queries and keys are exchanged"),
        (rearranged(lambda parts: parts[[0, 2, 1]]), "keys and values are exchanged"),
        (rearranged(lambda parts: parts[[2, 0, 1]]), "the values come first"),
        (rearranged(lambda parts: parts.mT), "each head is (in, out)"),
        (rearranged(lambda parts: parts.flatten(1, 2)), "not taken apart"),
        (rearranged(lambda parts: parts.transpose(1, 2)), "the axis in the middle"),
        (rearranged(lambda parts: parts[:, :1]), "only the first head"),
        (rearranged(lambda parts: parts[[1, 0, 2]].mT), "two things: queries and keys"),
        (rearranged(lambda parts: parts[:2]), "a tuple of 2"),
        (rearranged(lambda parts: parts[..., 1:]), "stacked, the shape"),
        (rearranged(lambda parts: -parts), "the sign is wrong"),
        (rearranged(lambda parts: parts.double()), "float64"),
        (
            lambda w, H: (untransposed(w, H)[0], *all_at_once(w, H)[1:]),
            "differ in q, and only there",
        ),
        (
            lambda w, H: (all_at_once(w, H)[0] / (len(w) // H) ** 0.5, *all_at_once(w, H)[1:]),
            "differ in q, and only there",
        ),
        (
            lambda w, H: tuple(p.unflatten(1, (H, -1)).transpose(0, 1) for p in w.T.chunk(3)),
            "the columns are shared out",
        ),
        (lambda w, H: tuple(w[:, i::3].T.unflatten(0, (H, -1)) for i in range(3)), "every third column"),
        (lambda w, H: (*all_at_once(w, H)[:2], "v"), "v is a str"),
        (lambda w, H: (*all_at_once(w, H)[:2], all_at_once(w, H)[2].mT[:1]), "must be alike"),
        (zeroes_the_matrix, "in place"),
        (lambda w, H: w.split(len(w)), "must be alike|a tuple of 1"),
        (lambda w, H: w.unflatten(0, (3, H)), "RuntimeError"),
        (lambda w, H: print(end=""), "returns nothing"),
        (torch.zeros(3, 2, 2), "not a function"),
    ],
    "first_difference": [
        (with_block(looped, BLOCK + 1), "state 0 comes from the embeddings"),
        (with_block(looped, BLOCK + 2), "is given other numbers"),
        (with_block(looped, BLOCK - 2), "is right"),
        (with_block(looped, 17), "the block is not: 17 is too high"),
        (with_block(looped, "3"), "a number is expected"),
        (with_block(widest), "also where all lie within"),
        (
            with_block(lambda o, t, tol: widest(o, t, tol) if looped(o, t, tol) is not None else None),
            "is not the first",
        ),
        (with_block(last_one), "the last state that differs"),
        (with_block(search(lambda gap, tol: not largest(gap, tol))), "the first state that agrees"),
        (with_block(search(largest, found=lambda i: i + 1)), "counted from 1"),
        (with_block(search(lambda gap, tol: not gap.abs().mean() <= tol)), "the mean difference is compared: one"),
        (with_block(search(lambda gap, tol: not gap.mean().abs() <= tol)), "cancel"),
        (with_block(search(lambda gap, tol: not gap.norm() <= tol)), "the length of the whole difference"),
        (with_block(search(lambda gap, tol: not gap.max() <= tol)), "too low as well"),
        (with_block(search(lambda gap, tol: not gap.abs().min() <= tol)), "the smallest difference"),
        (with_block(search(lambda gap, tol: gap.abs().max() > tol)), "nan is not noticed"),
        (with_block(search(lambda gap, tol: (gap.abs() > tol).any())), "nan is not noticed"),
        (with_block(search(lambda gap, tol: not gap.abs().max() < tol)), "exactly the tolerance"),
        (with_block(search(lambda gap, tol: not gap.abs().max() == 0)), "the tolerance is not used"),
        (with_block(default_allclose), "`rtol=0`"),
        (with_block(equal_nan), "nan in both"),
        (with_block(nan_in_ours), "nan is noticed in `ours` only"),
        (with_block(signs_first), "before the subtraction"),
        (with_block(search(largest, found=lambda i: i - 1)), "the number of the state is asked for"),
        (with_block(lambda o, t, tol: looped(o, t, tol) or None), "0 is false"),
        (with_block(search(largest, start=1)), "state 0 is never looked at"),
        (with_block(search(largest, nowhere=-1)), "-1 comes back"),
        (with_block(search(largest, nowhere=len)), "the number of states comes back"),
        (with_block(search(largest, nowhere=0)), "0 comes back"),
        (with_block(lambda o, t, tol: 0 if largest(o[0] - t[0], tol) else None), "only state 0 is looked at"),
        (with_block(search(largest, found=lambda i: i + 9)), "there is no state 10"),
        (with_block(search(largest, found=lambda i: min(i, 1))), "no number differs by more|differs, and state"),
        (with_block(search(largest, found=lambda i: 2 if i == 1 else i)), "before it too"),
        (with_block(search(largest, found=lambda i: i if i == 0 else None)), "it finds nothing|is looked at"),
        (with_block(search(largest, found=bool)), "it returns False|it returns True"),
        (with_block(search(largest, nowhere=False)), "it returns False"),
        (with_block(search(largest, nowhere="nowhere")), "it returns a str"),
        (with_block(search(largest, found=lambda i: i + 0.5)), "it returns 1.5"),
        (with_block(search(largest, found=lambda i: math.nan)), "it returns nan"),
        (with_block(lambda o, t, tol: print(end="")), "is the `return` missing"),
        (with_block(lambda o, t, tol: o - t), "TypeError"),
        (with_block(lambda o, t, tol: 1 if o == t else 2), "RuntimeError"),
        (with_block(changes_them), "work on a copy"),
        (with_block(empties_them), "changes the lists"),
        (with_block(2), "not a function"),
    ],
    "sliding_loss": [
        (change(lambda plan, N, c, s: [(a, b, a) for a, b, _ in plan]), "in the overlap count twice"),
        (change(lambda plan, N, c, s: [(a, b, max(a, b - s)) for a, b, _ in plan]), "first window scores its last"),
        (
            change(lambda plan, N, c, s: plan[:1] + [(a, b, max(a, b - s)) for a, b, _ in plan[1:]]),
            "some are scored twice",
        ),
        (change(lambda plan, N, c, s: overlapping(N, c, c)), "lie side by side"),
        (
            change(lambda plan, N, c, s: overlapping(N, c, 1)),
            "each token has a window of its own: the windows move by `stride`.",
        ),
        (change(lambda plan, N, c, s: [p for p in plan if p[1] - p[0] == c]), "is left out"),
        (change(lambda plan, N, c, s: plan[1:]), "the first window is left out"),
        (change(lambda plan, N, c, s: plan[:-1] + [(max(0, N - 1 - c), *plan[-1][1:])]), "moved back to be full"),
        (change(lambda plan, N, c, s: [(a, min(a + s, N - 1), a) for a, _, _ in plan]), "the least before them"),
        (
            change(lambda plan, N, c, s: [(a, b, max(a, f)) for a, b, f in overlapping(N, c - 1, s)]),
            "one token less than `context`",
        ),
        (by_plan(overlapping, lambda parts, N: torch.stack([p.mean() for p in parts]).mean()), "the windows' means"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts).sum()), "a sum, not a mean"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts).sum() / N), "by the number of tokens: the first"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts).sum() / len(parts)), "by the number of windows"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts).mean().exp()), "perplexity"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts).mean() / math.log(2)), "bits"),
        (by_plan(overlapping, lambda parts, N: -torch.cat(parts).mean()), "the sign is wrong"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts).median()), "what they become"),
        (by_plan(overlapping, lambda parts, N: torch.cat(parts)), "a tensor, and a number"),
        (by_plan(overlapping, lambda parts, N: None), "returns nothing"),
        (by_plan(overlapping, shift=0), "targets equal inputs"),
        (
            by_plan(lambda N, c, s: [(a, b, a) for a, b, _ in overlapping(N, c, s)], lambda p, N: torch.cat(p).sum()),
            "two things: every token of every window",
        ),
        (change(lambda plan, N, c, s: [(max(0, a - 1), b - (a > 0), f) for a, b, f in plan]), "should be tokens"),
        (change(lambda plan, N, c, s: plan + plan), "windows are read, expected"),
        (all_in_one, "at most 3 positions"),
        (by_the_overlap, "move by the overlap"),
        (never_ends, "when does the loop end"),
        (lambda logits_of, ids, context, stride: logits_of(ids[:context]), "shape (B, T)"),
        (lambda logits_of, ids, context, stride: 1.4, "never asked"),
        (lambda logits_of, ids: 1.4, "TypeError"),
    ],
}
