"""Checks of notebook 13: the length of a cache, groups of heads, symmetric quantization, a full context, Muon."""

import torch

from .compare import tensors
from .exercise import exercise, prediction


def fraction(answer):
    return "the value is right, but it is a float: divide with `//`" if type(answer(100, 1, 1, 2, 4)) is float else None


@exercise(
    cases=[
        *[(100, 1, 1, 2, 4), (1000, 2, 3, 4, 2), (48, 3, 1, 4, 1), (16_000_000_000, 32, 8, 128, 2)],
        *[(1_000_000, 30, 3, 64, 4), (95, 1, 2, 2, 2)],
    ],
    mistakes={
        "2 * n_layer": {
            "n_layer": "each position has a key and a value, so the factor 2 is missing",
            "2": "each layer has a cache of its own: multiply by `n_layer`",
            "3 * n_layer": "queries are not stored: a position keeps its key and its value",
        },
        " * n_kv_head": {"": "each key and value head has its own keys and values: multiply by `n_kv_head`"},
        " * head_size": {"": "a key has `head_size` numbers, and so has a value: multiply by `head_size`"},
        "head_size * bytes_per_number": {
            "head_size": "these are numbers, not bytes: multiply by `bytes_per_number`",
            "head_size * bytes_per_number * 8": "these are bits: the memory is counted in bytes",
        },
        "memory // per_position": {
            "per_position": "these are the bytes of one position: how many positions fit into the memory?",
            "memory / per_position": "part of a position cannot be stored: round down, with `//`",
            "memory // 2 * n_layer * n_kv_head * head_size * bytes_per_number": "without parentheses, only the 2 "
            "divides: the bytes of a position belong in (...)",
            "round(memory / per_position)": "rounded to the nearest, and the last position may not fit: round down",
            "(memory - 1) // per_position": "the memory may be filled exactly",
            "-(-memory // per_position)": "rounded up, and the last position does not fit: round down",
            "memory // per_position + 1": "one position too many: it does not fit",
            "memory // per_position - 1": "one position fewer than fit",
        },
    },
    demands=[fraction],
    said="a key and a value per layer and per head, and only whole positions.",
)
def positions_that_fit(memory, n_layer, n_kv_head, head_size, bytes_per_number):
    per_position = 2 * n_layer * n_kv_head * head_size * bytes_per_number
    return memory // per_position


BOTH = "k, v = k.repeat_interleave(n, dim=1), v.repeat_interleave(n, dim=1)"
TWO = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2): one position of two heads
Q, K, V = tensors(1, (1, 4, 3, 2), (1, 2, 3, 2), (1, 2, 3, 2))
WIDE = tensors(2, (2, 6, 2, 4), (2, 3, 5, 4), (2, 3, 5, 4))
ONE = tensors(3, (2, 4, 3, 2), (2, 1, 3, 2), (2, 1, 3, 2))


def tiled(result, q, k, v):
    """A clue: the first query head that would be right with the keys and values of another head."""
    n = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        for g in range(k.shape[1]):
            alone = grouped_attention.solution(q[:, h : h + 1], k[:, g : g + 1], v[:, g : g + 1])
            if g != h // n and torch.allclose(result[:, h : h + 1], alone, atol=1e-4):
                return f"query head {h} uses key and value head {g}, and should use {h // n}"


@exercise(
    cases=[
        (torch.ones(1, 4, 1, 2), torch.zeros(1, 2, 1, 2), TWO),
        (Q, K, V),
        WIDE,
        ONE,
        tensors(4, *[(1, 2, 3, 4)] * 3),
    ],
    mistakes={
        BOTH: {
            "k, v = k.repeat(1, n, 1, 1), v.repeat(1, n, 1, 1)": "the heads are in the order 0, 1, 0, 1, as "
            "`repeat` puts them: neighbors share a head, 0, 0, 1, 1",
            "k, v = k.repeat(1, n, 1, 1), v.repeat_interleave(n, dim=1)": "the keys are still 0, 1, 0, 1",
            "k, v = k.repeat_interleave(n, dim=1), v.repeat(1, n, 1, 1)": "the values are still 0, 1, 0, 1",
            "k, v = (x[:, :1].repeat(1, q.shape[1], 1, 1) for x in (k, v))": "every query head uses head 0: this is "
            "multi-query attention",
            "k, v = (x.mean(1, keepdim=True).repeat(1, q.shape[1], 1, 1) for x in (k, v))": "the heads are averaged: "
            "each group has its own",
        },
        "q.shape[-1] ** 0.5": {
            "k.shape[1] ** 0.5": "the scale is the root of the number of heads: it is that of the channels per head",
            "k.shape[-2] ** 0.5": "the scale is the root of the number of positions: it is that of the channels",
            "q.shape[-2] ** 0.5": "the scale is the root of the number of queries: it is that of the channels",
            "(q.shape[1] // n) ** 0.5": "the scale is the root of the number of key heads: it is that of the channels",
            "(q.shape[1] * q.shape[-1]) ** 0.5": "the scale is the root of H · D: each head has D channels",
            "n ** 0.5": "the scale is the root of the size of a group: it is that of the channels per head",
            "q.shape[-1]": "the scores are divided by D, and not by its root",
            "1": "the scores are not divided by the root of D",
        },
        "/ q.shape[-1]": {"* q.shape[-1]": "multiplied by the root of D: divide by it"},
        "softmax(dim=-1)": {
            "softmax(dim=-2)": "the softmax runs over the queries: each row of weights must sum to 1",
            "softmax(dim=1)": "the softmax runs over the heads: it runs over the keys, dim=-1",
        },
    },
    errors={
        "must match": "k and v need as many heads as q: repeat each of their G heads H / G times, along axis 1",
        "Got 1-D tensor": "`repeat_interleave` without `dim` makes one row of all numbers: give it `dim=1`",
    },
    clues=[tiled],
    said="neighboring query heads share a head of keys and values, for groups of 1, 2 and 4.",
)
def grouped_attention(q, k, v):
    n = q.shape[1] // k.shape[1]  # query heads per key head
    k, v = k.repeat_interleave(n, dim=1), v.repeat_interleave(n, dim=1)
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (B, H, T, S)
    return scores.softmax(dim=-1) @ v


GROUPS = torch.tensor([[6.0, -9.0, 4.0, 0.0]])


def zeros(result, weights, bits):
    """A clue: what is not 0 in a group of zeros."""
    (codes, scale), empty = result, (weights == 0).all(dim=-1)
    if codes[empty].any():
        return "the codes of a group of zeros are not 0: 0 / 0 is nan, and nan has no integer"
    if scale[empty].any():
        return "the scale of a group of zeros is not 0: change only what you divide by"


@exercise(
    cases=[
        *[(GROUPS, 3), (torch.tensor([[5.0, -2.0, 1.6, 0.3], [0.8, 2.1, -1.0, -0.1]]), 4)],
        *[(torch.tensor([[0.0, 0.0], [-3.0, 1.1]]), 2), (tensors(22, (3, 3))[0], 5)],
    ],
    also={"with 8 bits": [(tensors(8, (3, 8))[0] + 0.01, 8)]},
    mistakes={
        "2 ** (bits - 1) - 1": {
            "2 ** bits - 1": "the largest code is that of codes without a sign: one of the bits is for the sign",
            "2 ** bits - 1 - 1": "this is (2^bits - 1) - 1: a code is at most 2^(bits - 1) - 1",
            "2 ** (bits - 1)": "the largest code is one too large: with 3 bits it is 3, and 4 is no signed code",
            "bits": "the largest code is 2^(bits - 1) - 1",
        },
        "weights.abs().amax(dim=-1, keepdim=True)": {
            "weights.amax(dim=-1, keepdim=True)": "the largest weight may be negative: take the absolute values first",
            "weights.abs().max().expand(len(weights), 1)": "all groups share one scale: each row has its own",
            "weights.abs().mean(dim=-1, keepdim=True)": "the scale is made from the mean: larger weights do not fit",
            "(weights.amax(dim=-1, keepdim=True) - weights.amin(dim=-1, keepdim=True))": "this is the whole range: "
            "the codes go from -largest to largest, so half of it is needed",
        },
        "weights.abs().amax(dim=-1, keepdim=True) / largest": {
            "(weights.amax(dim=-1, keepdim=True) - weights.amin(dim=-1, keepdim=True)) / (2**bits - 1)": "this is the "
            "scale of codes with a minimum: here, the largest absolute value gets the largest code",
        },
        "(weights / scale.clamp(min=1e-12)).round()": {
            "(weights / scale.clamp(min=1e-12)).trunc()": "rounded towards 0, as an integer dtype does: round first",
            "(weights / scale.clamp(min=1e-12)).floor()": "rounded down: round to the nearest",
            "(weights // scale.clamp(min=1e-12))": "`//` rounds down: divide with `/` and round to the nearest",
            "(weights.abs() / scale.clamp(min=1e-12)).round()": "the codes have lost their signs",
            "(weights * scale).round()": "multiplied by the scale: this is how a code is decoded",
            "weights.round()": "the weights are rounded as they are: divide them by the scale first",
        },
        "return codes, scale": {
            "return scale, codes": "codes and scale are exchanged: the codes come first",
            "return codes * scale, scale": "these are the decoded weights, not the codes",
            "return codes, 1 / scale": "the scale is inverted: a weight is about code · scale",
        },
    },
    clues=[zeros],
    said="a signed code per weight and a scale per group, for 2, 3, 4, 5 and 8 bits, and for a group of zeros.",
)
def quantize_symmetric(weights, bits):
    largest = 2 ** (bits - 1) - 1
    scale = weights.abs().amax(dim=-1, keepdim=True) / largest  # (N, 1)
    codes = (weights / scale.clamp(min=1e-12)).round().to(torch.int8)
    return codes, scale


S, U, A = "system", "user", "assistant"
LONG = [(S, 4), (U, 2), (A, 9), (U, 3), (A, 1), (U, 5), (A, 2), (U, 2)]
GREEDY = """def kept_messages(messages, limit):
    left, kept = limit - messages[0][1], []
    for message in messages[:0:-1]:
        if message[1] <= left:
            left, kept = left - message[1], [message, *kept]
    while kept and kept[0][0] != "user":
        kept = kept[1:]
    return [messages[0], *kept]"""
ONE_DROPPED = """def kept_messages(messages, limit):
    kept = messages[1:]
    while kept and sum(size for _, size in [messages[0], *kept]) > limit:
        kept = kept[1:]
    return [messages[0], *(kept[1:] if kept and kept[0][0] != "user" else kept)]"""
PAIRS = """def kept_messages(messages, limit):
    kept = messages[1:]
    while kept and sum(size for _, size in [messages[0], *kept]) > limit:
        kept = kept[2:]
    return [messages[0], *kept]"""
FIRST_ANSWER = """def kept_messages(messages, limit):
    left, first = limit - messages[0][1], len(messages)
    while first > 1 and messages[first - 1][0] == "user" and messages[first - 1][1] <= left:
        first -= 1
        left -= messages[first][1]
    return [messages[0], *messages[first:]]"""
ALL = "messages if sum(size for _, size in messages) <= limit else right(messages, limit)"
OLDEST = "[m for i, m in enumerate(messages) if i == 0 or sum(size for _, size in messages[: i + 1]) <= limit]"


@exercise(
    cases=[
        *[([(S, 3), (U, 2), (A, 6), (U, 1)], limit) for limit in (10, 12, 11, 4, 3, 2, 20)],
        *[(LONG, limit) for limit in (28, 27, 16, 17, 18, 14, 13, 11, 10, 9, 6)],
        *[([(S, 1), (U, 1), (A, 2), (A, 3), (U, 1), (U, 2), (A, 1)], limit) for limit in (10, 9, 5, 4, 2)],
        *[([(S, 1), (A, 2), (U, 3)], limit) for limit in (6, 3)],
    ],
    mistakes={
        "<= limit": {
            "< limit": "the prompt may have exactly `limit` tokens",
            "<= limit + system[1]": "the tokens of the system message count too",
        },
        'rest[0][0] == "user" and ': {"": "after the system message, it begins with an answer whose question is gone"},
        "return [system, *rest]": {
            "return rest": "the system message is missing: it is always kept",
            "return [system, *rest[::-1]]": "the messages are in reverse order",
            "return rest + [system]": "the system message comes last: it is the first",
        },
        "range(1, len(messages))": {
            "range(len(messages) - 1, 0, -1)": "only the last message is kept: as many as fit are asked for",
            "range(1, len(messages) - 1)": "the last message is never tried alone",
            "range(2, len(messages))": "the message after the system message is never kept",
            "range(1, len(messages), 2)": "messages are dropped in pairs: two in a row can have the same role",
            "range(1, len(messages), 4)": "more messages fit than are kept: one turn can be dropped at a time",
        },
        "system = messages[0]": {
            "system = messages[0]\n    if system[1] > limit:\n        return []": "the system message is always kept, "
            "even if it is longer than the limit",
        },
        "return [system]": {
            "return []": "if nothing else fits, the system message is still kept",
            "return [system, messages[-1]]": "the newest message is kept though it does not fit",
            "return messages": "if nothing else fits, the system message alone is kept, not everything",
        },
        "sum(size for _, size in [system, *rest])": {
            "len([system, *rest])": "messages are counted, not their tokens",
            "max(size for _, size in [system, *rest])": "each message fits by itself: their tokens must be added",
        },
        "": {
            OLDEST: "the oldest messages are kept: the newest matter, the question among them",
            GREEDY: "there is a gap: after the first message that does not fit, older ones are kept",
            ONE_DROPPED: "two answers in a row: after one is dropped, it still begins with an answer",
            PAIRS: "messages are dropped in pairs: their roles need not alternate",
            ALL: "everything fits, but the first message after the system's is an answer: it is dropped even then",
            FIRST_ANSWER: "it stops at the newest answer: only the first message must be the user's",
            "right(messages, limit)[1:]": "the system message is missing in every result: it is always kept",
            "[m for m in right(messages, limit) if m[0] != 'assistant']": "the answers are missing: only those before "
            "the first question are dropped",
        },
    },
    said="the system message, and after it the newest messages that fit, from a question on.",
)
def kept_messages(messages, limit):
    system = messages[0]
    for first in range(1, len(messages)):
        rest = messages[first:]
        if rest[0][0] == "user" and sum(size for _, size in [system, *rest]) <= limit:
            return [system, *rest]
    return [system]


def other_steps(result, x, steps):
    """A clue: the smaller number of steps that would give this result."""
    for n in range(steps):
        if torch.allclose(result, newton_schulz.solution(x, n), atol=1e-4):
            return f"this is what {n} step{'s' * (n != 1)} would give: is the `return` in the loop, or a step not kept?"


EACH = """def newton_schulz(x, steps):
    for _ in range(steps):
        x = x / x.norm()
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x"""
FEW = {
    0: "without a step, the update is the average of the gradients, and its loss is the highest",
    2: "compare its mean loss with that of 10 steps again: they differ by more than 0.15",
    10: "fewer steps come within 0.15 of its loss: enter the smallest number that does",
}


@exercise(
    cases=[
        *[(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), steps) for steps in (1, 2, 0)],
        *[(x, steps) for x in tensors(7, (2, 3), (3, 3), (4, 2)) for steps in (1, 5)],
    ],
    mistakes={
        "x / x.norm()": {
            "x": "divide `x` by its norm first: a singular value above √3 grows without limit",
            "x / x.max()": "divided by the largest number: divide by the root of the sum of all squares",
            "x / x.norm(dim=-1, keepdim=True)": "each row is divided by its own norm: there is one for the matrix",
            "x / x.norm(dim=0, keepdim=True)": "each column is divided by its own norm: there is one for the matrix",
            "x / x.abs().sum()": "divided by the sum of the absolute values: take the root of the sum of all squares",
            "x / x.abs().max()": "divided by the largest absolute value: divide by the root of the sum of all squares",
            "x / x.square().sum()": "divided by the sum of squares: take its root",
            "x / torch.linalg.matrix_norm(x, 2)": "divided by the largest singular value: by the norm is asked for",
        },
        "range(steps)": {
            "range(1)": "one step is made, whatever `steps` is",
            "range(steps - 1)": "one step too few",
            "range(steps + 1)": "one step too many",
        },
        "1.5 * x - 0.5 * x @ x.mT @ x": {
            "1.5 * x - 0.5 * x**3": "each number is cubed by itself: x Xᵀ X cubes the singular values",
            "1.5 * x + 0.5 * x @ x.mT @ x": "the cube is added: subtract it",
            "1.5 * x - 0.5 * x @ x.mT": "x xᵀ has the squares of the singular values: a third factor is missing",
            "0.5 * x - 1.5 * x @ x.mT @ x": "the factors 1.5 and 0.5 are exchanged",
            "1.5 * x - 0.5 * x.mT @ x @ x.mT": "this is the transposed matrix cubed: x xᵀ x keeps the order",
            "x - x @ x.mT @ x": "the factors 1.5 and 0.5 are missing",
            "1.5 * x - x @ x.mT @ x": "the factor 0.5 is missing",
            "(1.5 * x - 0.5 * x) @ x.mT @ x": "both terms are multiplied by xᵀ x: only the second is",
            "1.5 * (x := x / x.norm()) - 0.5 * x @ x.mT @ x": "divided by the norm in every step: only once, before",
            "(y := 1.5 * x - 0.5 * x @ x.mT @ x) / y.norm()": "divided by the norm after every step: only once, before",
            "3.4445 * x - 4.7750 * x @ x.mT @ x + 2.0315 * x @ x.mT @ x @ x.mT @ x": "this is Muon's own step: the "
            "classical one has 1.5 and -0.5",
        },
        "": {
            EACH: "divided by the norm in every step: only once, before the loop",
            "(lambda u, s, vt: u @ vt)(*torch.linalg.svd(x, full_matrices=False))": "this is the exact U Vᵀ: steps "
            "only come near it",
        },
    },
    errors={"cannot be multiplied": "the order is x @ x.mT @ x: (m, n) by (n, m) by (m, n)"},
    clues=[other_steps],
    value=prediction({"enough": 5}, {"enough": FEW}, "", clue=lambda n: "enter one of the four: 0, 2, 5 or 10"),
    said="all singular values come closer to 1, and 5 steps are enough for a loss within 0.15 of that with 10.",
)
def newton_schulz(x, steps):
    x = x / x.norm()
    for _ in range(steps):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x
