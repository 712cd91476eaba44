"""Answers to the exercises of notebook 11."""

import codecs
import math
import re

import numpy as np
import torch

from answers import Several


def sorted_once(piece, vocabulary):
    by_length, tokens, i = sorted(vocabulary, key=len, reverse=True), [], 0
    while i < len(piece):
        tokens.append(next(token for token in by_length if piece.startswith(token, i)))
        i += len(tokens[-1])
    return tokens


def by_alternatives(piece, vocabulary):
    return re.findall(b"|".join(map(re.escape, sorted(vocabulary, key=lambda t: -len(t)))), piece, re.DOTALL)


def remembering(ids, tokenizer):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    strings = [decoder.decode(tokenizer.vocabulary[i]) for i in ids]
    if strings:
        strings[-1] += decoder.decode(b"", final=True)
    return strings


def look_back(ids, tokenizer):
    given, strings = "", []
    for n in range(len(ids)):
        text = tokenizer.decode(ids[: n + 1])
        while text.endswith("�") and n + 1 < len(ids):
            text = text[:-1]
        strings.append(text.removeprefix(given))
        given = text
    return strings


def by_difference(tokenizer, text):
    made = set(range(256, tokenizer.vocab_size - len(tokenizer.special_tokens)))
    return sorted(made - set(tokenizer.encode(text)))


def by_counts(tokenizer, text):
    counts = torch.bincount(torch.tensor(tokenizer.encode(text)), minlength=tokenizer.vocab_size)
    counts = counts[: tokenizer.vocab_size - len(tokenizer.special_tokens)]
    return [np.int64(256 + i) for i in (counts[256:] == 0).nonzero().flatten().tolist()]


def right_bits(loss, n_tokens, text):
    return math.log2(math.exp(loss) ** n_tokens) / len(bytes(text, "utf-8"))


def one_late(ids, tokenizer):
    strings = remembering(ids, tokenizer)
    return ["", *strings[:-2], "".join(strings[-2:])] if len(strings) > 1 else strings


def one_early(ids, tokenizer):
    strings = remembering(ids, tokenizer)
    return [*strings[1:], ""] if strings and strings[0] == "" else strings


TOKENS = ["th", "i", "t", "her"]
RIGHT = {
    "by_hand": [Several([tuple(TOKENS), 3.0]), Several([TOKENS, torch.tensor(3)])],
    "longest_match": [sorted_once, by_alternatives, lambda *given: tuple(sorted_once(*given))],
    "bits_per_byte": [
        Several([right_bits, "B"]),
        Several([lambda loss, n, text: torch.tensor(loss * n / len(text.encode())) / torch.tensor(2.0).log(), "(b)"]),
    ],
    "leading_space": [{"with": 1.78484, "without": torch.tensor(1.87024)}],
    "stream_decode": [remembering, look_back],
    "unused": [by_difference, by_counts, lambda *given: tuple(by_difference(*given))],
}

WRONG = {
    "by_hand": {
        "no merge makes 'it'": Several([["th", "it", "her"], 4]),
        "the tokens are 'thher'": Several([["th", "her"], 3]),
        "one of a lower rank: start again": Several([["t", "hi", "the", "r"], 3]),
        "a list of strings is expected, one": Several([[b"th", b"i", b"t", b"her"], 3]),
        "rank 0 is still there": Several([["t", "hi", "t", "h", "e", "r"], 1]),
        "too small": Several([TOKENS, 1]),
    },
    "longest_match": {
        "still running": {"pre_token = pre_token[end:]": "pre_token"},
        "IndexError": {"pre_token = pre_token[end:]": "pre_token = [][0]"},
    },
    "bits_per_byte": {
        "best: a: it has the lowest loss": Several([right_bits, "a"]),
        "best: c: it has the fewest tokens": Several([right_bits, "c"]),
        "choose one of": Several([right_bits, "d"]),
        "too high": Several([lambda *a: right_bits(*a) + 1, "b"]),
    },
    "stream_decode": {
        "holds back": one_late,
        "comes before the bytes": one_early,
        "what decode gives there": lambda ids, t: [s.upper() for s in remembering(ids, t)],
    },
    "unused": {"length 0, expected length 1": lambda t, text: [] if text == "the" else [256]},
}
