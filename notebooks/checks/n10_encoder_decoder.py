"""Checks of notebook 10: what a decoder reads and predicts, masks, word order, a missing source, one part of chrF."""

import math
from collections import Counter

import torch

import gptlib

from .compare import tensors
from .exercise import exercise, prediction

GAP = "[pad] * (max(map(len, rows)) - len(row))"  # what the padding of a row is
HAND = torch.tensor([[[2.0, 4.0], [6.0, 0.0], [1.0, 8.0]], [[7.0, 5.0], [9.0, 9.0], [9.0, 3.0]]])
KNOWN = {(4, 7): "`<end>` always follows the tenth character", (5, 8, 11): "the first position is 0, not 1"}
POSITIONS = "give positions from 0 to 10, those at which every target has the same token"
CAUSAL = "torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()"
X, Y = tensors(0, (3, 6, 4), (2, 4, 3))
X_IDS = torch.where(torch.arange(6) < torch.tensor([[6], [2], [1]]), 5, 0)


def as_tensors(answer):
    """A demand: what a model is given are tensors."""
    parts = answer([[5]], 0, 1, 2)
    lists = any(not isinstance(part, torch.Tensor) for part in parts)
    return "the ids are right, but not in tensors: a model takes two tensors (B, T)" if lists else None


@exercise(
    cases=[
        *[([[5, 6], [7]], 0, 1, 2), ([[5]], 0, 1, 2), ([[7], [5, 6]], 0, 1, 2), ([[4, 5, 6], [7, 8], [9]], 3, 2, 1)],
        *[([[], [5, 6]], 0, 1, 2), ([[8, 8, 9, 8], [9, 8]], 7, 5, 6)],
    ],
    pairs=True,
    mistakes={
        "[start, *row]": {
            "[start, *row, end]": "the inputs hold `end`, and one column too many: nothing is predicted after `end`",
            f"[start, *row] + ({GAP} and [end])": "a shorter row of the inputs holds `end`, and padding is asked for",
            "[start, *row][: max(map(len, rows))]": "the last token of the longest row is missing in the inputs",
            "[*row]": "`start` is missing: it is the first input, since nothing has been written yet",
            f"{GAP} + [start, *row]": "the padding of the inputs comes first: it belongs after the tokens",
        },
        "[*row, end]": {
            "[start, *row]": "the labels are the inputs, not shifted: each position is given what it should predict",
            "[start, *row, end]": "the labels begin with `start`, and no position should predict it",
            "[*row]": "the labels lack `end`, and so one column: the model would never learn to stop",
            "[*row, pad]": "the labels lack `end`, so the model would never learn to stop",
            f"row + {GAP} + [start]": "the labels end with `start`, as after `roll`: `end` should follow the tokens",
            f"row + {GAP} + [end]": "`end` comes after the padding: it follows the last token of its own row",
            f"{GAP} + [*row, end]": "the padding of the labels comes first: it belongs after the tokens",
        },
        "": {
            "right(rows, 0, start, end)": "padding is 0 here, whatever `pad` is",
            "right(rows, 0, 1, 2)": "padding, start and end are 0, 1 and 2 here, whatever the arguments are",
            "right(rows, pad, end, start)": "`start` and `end` are exchanged",
            "right(rows, pad, start, end)[::-1]": "labels and inputs are exchanged: the inputs come first",
        },
    },
    errors={"expected sequence of length": "rows of different lengths make no tensor: pad each to the longest"},
    demands=[as_tensors],
    said="the inputs begin with `start`, `end` follows the last token of each label, and the padding comes last.",
)
def decoder_batch(rows, pad, start, end):
    inputs = [[start, *row] for row in rows]
    labels = [[*row, end] for row in rows]
    return gptlib.encoder_decoder.pad_ids(inputs, pad), gptlib.encoder_decoder.pad_ids(labels, pad)


def wrong_pair(mask, n_prefix, n_tokens):
    """A clue: the first pair of positions that the mask has wrong."""
    t, s = (mask.bool() != prefix_mask.solution(n_prefix, n_tokens)).nonzero()[0].tolist()
    return f"position {t} attends to {s}, and it should not" if mask[t, s] else f"position {t} should attend to {s} too"


@exercise(
    cases=[(2, 4), (0, 3), (3, 5), (1, 4), (4, 4), (2, 6), (1, 1)],
    mistakes={
        "causal | in_prefix": {
            "causal": "this is the causal mask: inside the prefix, positions attend to later ones too",
            "causal | in_prefix[:, None]": "the rows of the prefix are true, not its columns: it attends to everything",
            "causal & in_prefix": "only the prefix is attended to: a later position attends to itself and others too",
            "(causal | in_prefix) & (in_prefix == in_prefix[:, None])": "what follows the prefix does not attend to it",
            "causal | in_prefix | ~in_prefix[:, None]": "the positions after the prefix attend to later ones",
            "~(causal | in_prefix)": "it is true where a position is masked: true means allowed here",
            "(causal | in_prefix).mT": "transposed: a row is the position that attends, a column the one attended to",
            "torch.where(causal | in_prefix, 0.0, -torch.inf)": "these are numbers to add to scores, not booleans",
        },
        ".tril()": {
            ".tril(-1)": "the diagonal is masked after the prefix: a position attends to itself",
            ".tril(n_prefix - 1)": "the diagonal is moved: each row sees one position more than the row above",
        },
        CAUSAL: {"torch.eye(n_tokens, dtype=torch.bool)": "after the prefix, a position should attend to earlier ones"},
        "< n_prefix": {"<= n_prefix": "the prefix is one position too long: it is 0 to `n_prefix` - 1"},
        "": {
            "torch.ones(n_tokens, n_tokens, dtype=torch.bool)": "everything is allowed, as in an encoder",
            "right(n_prefix, n_prefix + n_tokens)": "`n_tokens` counts all tokens, those of the prefix too",
        },
    },
    clues=[wrong_pair],
    said="the prefix is read in both directions and the rest causally, for prefixes of 0 to 4 tokens.",
)
def prefix_mask(n_prefix, n_tokens):
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    in_prefix = torch.arange(n_tokens) < n_prefix
    return causal | in_prefix


@exercise(
    cases=[
        *[(HAND[:1], torch.tensor([[5, 7, 0]]), 0), (HAND, torch.tensor([[5, 7, 6], [5, 0, 0]]), 0)],
        *[(X, X_IDS, 0), (Y, torch.tensor([[0, 4, 9, 9], [7, 12, 0, 9]]), 9)],
    ],
    mistakes={
        "(x * words).sum(dim=1)": {"x.sum(dim=1)": "the vectors at the padding are added too: make them 0 first"},
        "words.sum(dim=1)": {
            "x.shape[1]": "divided by the width of the batch, padding included, and not by the number of words",
            "words.sum()": "divided by the number of words in the whole batch: each text has its own number",
            "words.sum(dim=1).max()": "divided by the number of words of the longest text: each has its own",
            "words[..., 0].sum(dim=1)": "the counts (B,) are lined up with the channels, not the texts: make it (B, 1)",
            "(x * words != 0).sum(dim=1)": "zeros are not counted: a number in the vector of a word may be 0",
            "1": "this is the sum over the words: divide it by their number",
        },
        "ids != pad": {
            "ids == pad": "this is the mean over the padding: the mask must be true at words",
            "ids != 0": "padding is taken to be 0, and `pad` says which id it is",
        },
        "": {
            "x.mean(dim=1)": "both faults are still there: the padding is added, and the width divides",
            "x[ids != pad].mean(dim=0).expand(len(x), -1)": "this is one mean over all texts: each has its own",
        },
    },
    errors={"must match": "sizes do not broadcast: x (B, T, C) takes a mask (B, T, 1), and a sum (B, C) counts (B, 1)"},
    said="each text has its own mean, and it no longer depends on how wide the batch is.",
)
def masked_mean(x, ids, pad):
    words = (ids != pad)[..., None]
    return (x * words).sum(dim=1) / words.sum(dim=1)


@exercise(
    cases=[
        (torch.tensor([[6, 7, 5, 0]]), torch.tensor([[0.8, 0.1, 0.5, 0.3]]), 0),
        (torch.tensor([[3, 0, 2, 1], [6, 4, 7, 5]]), torch.tensor([[0.2, 0.7, 0.9, 0.4], [0.6, 0.3, 0.1, 0.0]]), 9),
        (torch.tensor([[7, 5, 4, 9], [3, 6, 0, 5], [8, 9, 9, 9]]), tensors(4, (3, 4))[0].sigmoid(), 9),
    ],
    mistakes={
        "keys.masked_fill(ids == pad, torch.inf)": {
            "keys": "padding is shuffled in between the words: its keys must be larger than all others",
            "keys.masked_fill(ids == pad, -1)": "padding comes first: its keys must be the largest",
            "keys.masked_fill(ids == 0, torch.inf)": "padding is taken to be 0, and `pad` says which id it is",
        },
        "ids.gather(1, keys.argsort(dim=1))": {
            "keys.argsort(dim=1)": "these are the positions in the order of their keys: take the ids at them",
            "ids.gather(1, keys.argsort().argsort())": "the order is inverted, as by `scatter` or a second `argsort`",
            "ids.gather(1, (-keys % -9).argsort())": "the largest key comes first, and the smallest should",
            "ids.gather(0, keys.argsort(dim=0))": "words move from one text to another: sort along dim=1",
            "ids[:, keys[0].argsort()]": "every text is ordered by the keys of row 0: `gather` takes an order per row",
        },
    },
    errors={"out of bounds": "`ids[order]` takes whole rows: `gather` along dim=1 takes ids from each row"},
    value=prediction({"lost": "a"}, {"lost": dict.fromkeys("bc", "compare the two means again")}, ""),
    said="each text is in the order of its own keys, padding last, and the accuracy falls by less than 3 points.",
)
def reordered(ids, keys, pad):
    keys = keys.masked_fill(ids == pad, torch.inf)
    return ids.gather(1, keys.argsort(dim=1))


@exercise(
    cases=[(12, 3), (182_622, 11), (1, 11), (2, 1), (5, 4)],
    mistakes={
        "math.log(n_days) / n_tokens": {
            "math.log2(n_days) / n_tokens": "these are bits: for nats, take the natural logarithm",
            "math.log10(n_days) / n_tokens": "this is the logarithm to base 10: for nats, take the natural logarithm",
            "math.log(n_days)": "this is the loss of a whole target: the loss of `fit` is a mean over its tokens",
            "math.log(n_days) / (n_tokens - 1)": "`<end>` is a token too, and its loss, 0, counts in the mean",
            "-math.log(n_days) / n_tokens": "the sign is wrong: a loss is the negative logarithm of a probability",
            "math.log(n_days / n_tokens)": "the division comes after the logarithm: the losses of the tokens are added",
            "math.log(n_days) * n_tokens": "multiplied by the number of tokens: the loss is a mean per token",
            "n_days ** (1 / n_tokens)": "this is the perplexity: the loss is its logarithm",
        },
    },
    value=prediction({"known": {4, 7, 10}}, {"known": KNOWN}, "", clue=lambda given: POSITIONS),
    said="ln 182,622 / 11 = 1.10 nats per token, and the hyphens and `<end>` have almost no part in it.",
)
def lowest_loss(n_days, n_tokens):
    return math.log(n_days) / n_tokens


@exercise(
    cases=[
        *[("chat", "chatte", 1), ("chats", "chat", 1), ("anana", "banana", 2), ("le chat", "la chatte", 3)],
        *[
            ("oui", "non", 2),
            ("a", "ab", 2),
            ("aab", "abbb", 1),
            (" ou", "ou", 1),
            ("la la la", "la", 2),
            ("Éva", "éva", 1),
        ],
    ],
    mistakes={
        "Counter(text[i : i + n] for i in range(len(text) - n + 1))": {
            "Counter({text[i : i + n] for i in range(len(text) - n + 1)})": "each n-gram counts once: keep the counts",
            "Counter(text[i : i + n] for i in range(len(text) - n))": "the last n-gram of each text is missing",
            "Counter(text[i : i + n] for i in range(len(text)))": "the last strings are shorter than n: stop before",
            "Counter(text[i : i + n] for i in range(0, len(text) - n + 1, n))": "n-grams overlap: take steps of 1",
            "Counter(zip(*(text.split()[i:] for i in range(n))))": "these are n-grams of words: count characters",
        },
        "(ours & theirs).total()": {
            "len(ours & theirs)": "shared n-grams are counted once each: `.total()` adds their counts",
            "sum(ours[gram] for gram in ours if gram in theirs)": "take the smaller of the two counts of an n-gram",
        },
        "5 * precision * recall / (4 * precision + recall)": {
            "5 * recall * precision / (4 * recall + precision)": "precision and recall are exchanged",
            "2 * precision * recall / (precision + recall)": "this is F1, and 5PR / (4P + R) is asked for",
            "5 * precision * recall / 4 * precision + recall": "only the 4 divides: put the sum 4P + R in parentheses",
            "precision": "this is the precision alone",
            "recall": "this is the recall alone",
            "500 * precision * recall / (4 * precision + recall)": "this is a percentage: divide it by 100",
        },
        "": {
            "right(guess.replace(' ', ''), reference.replace(' ', ''), n)": "spaces are left out: here they count",
            "right(guess.strip(), reference.strip(), n)": "spaces at the ends are removed: here they count",
        },
    },
    errors={"division by zero": "it divides by 0: where nothing is shared, the score is 0.0"},
    said="scores for n = 1, 2 and 3, each shared n-gram as often as both have it, and 0 where none is shared.",
)
def char_f(guess, reference, n):
    ours, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (guess, reference))
    shared = (ours & theirs).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / ours.total(), shared / theirs.total()
    return 5 * precision * recall / (4 * precision + recall)
