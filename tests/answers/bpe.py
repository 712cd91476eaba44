"""Answers to the exercises of notebook 11."""

import codecs
import math
import re

import numpy as np
import torch

from answers import Several

# ---------------------------------------------------------------- right, in other styles


def bits_by_choices(loss, n_tokens, text):
    return math.log2(math.exp(loss) ** n_tokens) / len(bytes(text, "utf-8"))


def sorted_once(piece, vocabulary):
    by_length, tokens, i = sorted(vocabulary, key=len, reverse=True), [], 0
    while i < len(piece):
        tokens.append(next(token for token in by_length if piece.startswith(token, i)))
        i += len(tokens[-1])
    return tokens


def by_alternatives(piece, vocabulary):
    return re.findall(b"|".join(map(re.escape, sorted(vocabulary, key=lambda t: -len(t)))), piece, re.DOTALL)


def recursive(piece, vocabulary):
    ends = [end for end in range(len(piece), 0, -1) if piece[:end] in vocabulary]
    return [piece[: ends[0]], *recursive(piece[ends[0] :], vocabulary)] if ends else []


def yielded(piece, vocabulary):
    while piece:
        first = max(token for token in vocabulary if piece.startswith(token))  # of two prefixes the longer sorts later
        yield first
        piece = piece.removeprefix(first)


def remembering(ids, tokenizer):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    strings = [decoder.decode(tokenizer.vocabulary[i]) for i in ids]
    if strings:
        strings[-1] += decoder.decode(b"", final=True)
    return strings


def look_back(ids, tokenizer):
    given = ""
    for n in range(len(ids)):
        text = tokenizer.decode(ids[: n + 1])
        while text.endswith("�") and n + 1 < len(ids):
            text = text[:-1]
        yield text.removeprefix(given)
        given = text


def by_first_bytes(ids, tokenizer):
    """Whole characters by what the first byte says of their length; a byte that fits nowhere ends what waits."""
    strings, waiting = [], b""
    for n, i in enumerate(ids):
        waiting += tokenizer.vocabulary[i]
        end = len(waiting)
        for back in range(1, min(3, end) + 1):
            byte = waiting[-back]
            if byte >= 0xC0:
                needs = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                end -= back if needs > back and n + 1 < len(ids) else 0
            if byte >= 0xC0 or byte < 0x80:
                break
        strings.append(waiting[:end].decode("utf-8", "replace"))
        waiting = waiting[end:]
    return strings


def by_difference(tokenizer, text):
    made = set(range(256, tokenizer.vocab_size - len(tokenizer.special_tokens)))
    return sorted(made - set(tokenizer.encode(text)))


def by_counts(tokenizer, text):
    counts = torch.bincount(torch.tensor(tokenizer.encode(text)), minlength=tokenizer.vocab_size)
    counts = counts[: tokenizer.vocab_size - len(tokenizer.special_tokens)]
    return [256 + i for i in (counts[256:] == 0).nonzero().flatten().tolist()]


def by_names(tokenizer, text):
    special, used = {name.encode() for name in tokenizer.special_tokens}, tokenizer.encode(text)
    return tuple(
        np.int64(i)
        for i, token in enumerate(tokenizer.vocabulary)
        if len(token) > 1 and token not in special and i not in used
    )


TOKENS = ["th", "i", "t", "her"]
RIGHT = {
    "by_hand": [Several([tuple(TOKENS), 3.0]), Several([[t.encode() for t in TOKENS], torch.tensor(3)])],
    "longest_match": [sorted_once, by_alternatives, recursive, yielded, lambda *given: tuple(sorted_once(*given))],
    "bits_per_byte": [
        Several([bits_by_choices, "B"]),
        Several([lambda loss, n, text: loss * math.log2(math.e) * n / len(text.encode()), "b"]),
        Several([lambda loss, n, text: torch.tensor(loss * n / len(text.encode())) / torch.tensor(2.0).log(), "(b)"]),
    ],
    "stream_decode": [remembering, look_back, by_first_bytes, lambda *given: iter(remembering(*given))],
    "unused": [by_difference, by_counts, by_names, lambda *given: iter(by_difference(*given))],
}

# ---------------------------------------------------------------- wrong


def grows(piece, vocabulary):
    tokens = []
    while piece:
        end = 1
        while end < len(piece) and piece[: end + 1] in vocabulary:
            end += 1
        tokens, piece = [*tokens, piece[:end]], piece[end:]
    return tokens


def from_the_end(piece, vocabulary):
    tokens = []
    while piece:
        start = next(start for start in range(len(piece)) if piece[start:] in vocabulary)
        tokens, piece = [piece[start:], *tokens], piece[:start]
    return tokens


def stands_still(piece, vocabulary):
    tokens = []
    while piece:
        tokens.append(max((token for token in vocabulary if piece.startswith(token)), key=len))
    return tokens


def whole_excluded(piece, vocabulary):
    tokens = []
    while piece:
        end = next(end for end in range(max(len(piece) - 1, 1), 0, -1) if piece[:end] in vocabulary)
        tokens, piece = [*tokens, piece[:end]], piece[end:]
    return tokens


def at_most(limit):
    def answer(piece, vocabulary):
        return sorted_once(piece, {token for token in vocabulary if len(token) <= limit})

    return answer


def takes_tokens_out(piece, vocabulary):
    tokens = sorted_once(piece, vocabulary)
    vocabulary.difference_update(tokens)
    return tokens


def unescaped(piece, vocabulary):
    return re.findall(b"|".join(sorted(vocabulary, key=len, reverse=True)), piece)


def never_empty(piece, vocabulary):
    tokens = []
    while piece or not tokens:
        end = len(piece)
        while piece[:end] not in vocabulary:
            end -= 1
        tokens, piece = [*tokens, piece[:end]], piece[end:]
    return tokens


def takes_ids_out(ids, tokenizer):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(tokenizer.vocabulary[ids.pop(0)], final=not ids) for _ in range(len(ids))]


def line_by_line(tokenizer, text):
    used = {i for line in text.splitlines() for i in tokenizer.encode(line)}
    return [i for i in range(256, tokenizer.vocab_size - n_special(tokenizer)) if i not in used]


def guessed_names(tokenizer, text):
    used = tokenizer.encode(text)
    named = [token.startswith(b"<|") for token in tokenizer.vocabulary]
    return [i for i in range(256, tokenizer.vocab_size) if i not in used and not named[i]]


def strict(ids, tokenizer):
    strings, waiting = [], b""
    for i in ids:
        waiting += tokenizer.vocabulary[i]
        try:
            strings.append(waiting.decode())
            waiting = b""
        except UnicodeDecodeError:
            strings.append("")
    if ids:
        strings[-1] += waiting.decode("utf-8", "replace")
    return strings


def silent_until_clean(ids, tokenizer):
    strings, given = [], 0
    for n in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:n])
        if text.endswith("�") and n < len(ids):
            strings.append("")
        else:
            strings.append(text[given:])
            given = len(text)
    return strings


def one_late(ids, tokenizer):
    strings = remembering(ids, tokenizer)
    return ["", *strings[:-2], "".join(strings[-2:])] if len(strings) > 1 else strings


def one_early(ids, tokenizer):
    strings = remembering(ids, tokenizer)
    return [*strings[1:], ""] if strings and strings[0] == "" else strings


def clumsy_end(ids, tokenizer):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    strings = [decoder.decode(tokenizer.vocabulary[i]) for i in ids]
    strings[-1] += decoder.decode(b"", final=True)
    return strings


def changed(answer, change):
    return lambda *given: change(answer(*given))


def ids_of(condition):
    return lambda tokenizer, text: [i for i in range(tokenizer.vocab_size) if condition(i, tokenizer, text)]


def between(first, beyond):
    return ids_of(lambda i, t, text: i not in t.encode(text) and first <= i < t.vocab_size - beyond(t))


def n_special(tokenizer):
    return len(tokenizer.special_tokens)


def letters(tokenizer, text):
    made = range(256, tokenizer.vocab_size - n_special(tokenizer))
    return [i for i in made if tokenizer.vocabulary[i].decode(errors="replace") not in text]


def right_bits(loss, n_tokens, text):
    return loss * n_tokens / math.log(2) / len(text.encode())


def wrong_bits(rule):
    return Several([rule, "b"])


WRONG = {
    "by_hand": [
        (Several([["th", "i", "th", "e", "r"], 2]), "not the place"),
        (Several([["th", "i", "the", "r"], 3]), "longest token"),
        (Several([["t", "hi", "th", "e", "r"], 2]), "the lowest comes first"),
        (Several([["t", "hi", "t", "her"], 3]), "rank 4 was made before rank 1"),
        (Several([["t", "h", "i", "t", "her"], 2]), "only the second half"),
        (Several([["th", "i", "t", "he", "r"], 2]), "rank 2 is missing"),
        (Several([["t", "h", "i", "t", "he", "r"], 1]), "only rank 0"),
        (Several([list("thither"), 0]), "nothing is joined"),
        (Several([["th", "it", "her"], 4]), "no merge makes 'it'"),
        (Several([["th", "her"], 3]), "joined again this is 'thher'"),
        (Several([["t", "hi", "t", "h", "e", "r"], 1]), "rank 0 stands there still"),
        (Several([["t", "hi", "the", "r"], 3]), "before one of a lower rank"),
        (Several(["th i t her", 3]), "a list of strings"),
        (Several([[257, 72, 83, 258], 3]), "it holds an int"),
        (Several([TOKENS, 5]), "not each of them finds its pair"),
        (Several([TOKENS, 4]), "these are the tokens"),
        (Several([TOKENS, 2]), "takes two joins"),
        (Several([TOKENS, 7]), "before the first join"),
        (Several([TOKENS, 1]), "too low"),
        (Several([TOKENS, "3"]), "joins: this is a str"),
    ],
    "longest_match": [
        (lambda piece, v: [piece[i : i + 1] for i in range(len(piece))], "single bytes"),
        (from_the_end, "right end"),
        (grows, "stops at the first length"),
        (whole_excluded, "`range` stops before its end"),
        (stands_still, "goes on without end: does each turn"),
        (never_empty, "where the piece is empty"),
        (takes_tokens_out, "changes the vocabulary"),
        (unescaped, "it stops with"),
        (lambda piece, v: sorted_once(piece.strip(), v), "spaces at the ends are left out"),
        (changed(sorted_once, lambda tokens: tokens[::-1]), "in reverse"),
        (changed(sorted_once, lambda tokens: tokens[:1]), "only the first token"),
        (changed(sorted_once, lambda tokens: tokens[:-1]), "last token is missing"),
        (changed(sorted_once, lambda tokens: [*tokens, b""]), "empty token"),
        (changed(sorted_once, lambda tokens: list(dict.fromkeys(tokens))), "comes twice"),
        (lambda piece, v: [sorted_once(piece[i:], v)[0] for i in range(len(piece))], "one byte further each time"),
        (lambda piece, v: sorted_once(piece[:-1], v), "last byte is missing"),
        (at_most(2), "more than two bytes"),
        (at_most(6), "fits there too and is longer"),
        (lambda piece, v: [piece], "comes back whole"),
        (lambda piece, v: sorted_once(piece, v) if len(piece) < 10 else [piece], "is not in the vocabulary"),
        (lambda piece, v: sorted_once(piece, v) if len(piece) < 10 else [piece[:1]] * 3, "joined again"),
        (lambda piece, v: list(piece), "an int, 97: `piece[0]`"),
        (lambda piece, v: [token.decode("latin-1") for token in sorted_once(piece, v)], "so are the tokens"),
        (lambda piece, v: b" ".join(sorted_once(piece, v)), "returns a bytes"),
        (lambda piece, v: [token for token in v if token in piece and len(token) > 1][0], "IndexError"),
        (lambda piece, v: print(end=""), "returns nothing"),
        (lambda piece: [piece], "TypeError"),
        ([b"a"], "not a function"),
    ],
    "bits_per_byte": [
        (wrong_bits(lambda loss, n, text: loss * n / len(text.encode())), "nats for each byte"),
        (wrong_bits(lambda loss, n, text: loss * n / len(text)), "nats for each character"),
        (wrong_bits(lambda loss, n, text: loss * n / math.log(2) / len(text)), "bits for each character"),
        (wrong_bits(lambda loss, n, text: loss * n * math.log(2) / len(text.encode())), "multiplied by ln 2"),
        (wrong_bits(lambda loss, n, text: loss / math.log(2)), "bits for each token"),
        (wrong_bits(lambda loss, n, text: loss / math.log(2) * len(text.encode()) / n), "tokens and bytes"),
        (wrong_bits(lambda loss, n, text: loss / math.log(2) / len(text.encode())), "number of tokens is not used"),
        (wrong_bits(lambda loss, n, text: loss * n / math.log(2)), "the whole text, in bits"),
        (wrong_bits(lambda loss, n, text: right_bits(loss, n, text) / 8), "divided by 8"),
        (wrong_bits(lambda loss, n, text: loss * n / 0.693 / len(text.encode())), "0.693 is ln 2 rounded"),
        (wrong_bits(lambda loss, n, text: right_bits(loss, n, text) // 1), "`//` drops"),
        (wrong_bits(lambda loss, n, text: round(right_bits(loss, n, text), 2)), "rounded to 2 decimals"),
        (wrong_bits(lambda loss, n, text: str(right_bits(loss, n, text))), "a number is expected"),
        (wrong_bits(lambda loss, n, text: right_bits(loss, n, text) + 1), "the result differs"),
        (wrong_bits(lambda loss, n, text: print(end="")), "returns nothing"),
        (wrong_bits(2.0), "not a function"),
        (Several([right_bits, "a"]), "pays least for a token"),
        (Several([right_bits, "c"]), "fewest tokens"),
        (Several([right_bits, "d"]), "best: choose one of"),
        (Several([right_bits, 2]), "best: choose one of"),
    ],
    "stream_decode": [
        (lambda ids, t: [t.decode([i]) for i in ids], "decoded alone"),
        (lambda ids, t: [t.vocabulary[i].decode(errors="ignore") for i in ids], "thrown away"),
        (lambda ids, t: [t.decode([i]).replace("�", "") for i in ids], "taken out"),
        (lambda ids, t: [t.decode(ids[: n + 1]) for n in range(len(ids))], "only what is new"),
        (
            lambda ids, t: [t.decode(ids[: n + 1])[len(t.decode(ids[:n])) :] for n in range(len(ids))],
            "cannot be taken back",
        ),
        (
            lambda ids, t: [t.decode(ids[: n + 1]).removeprefix(t.decode(ids[:n])) for n in range(len(ids))],
            "be taken back",
        ),
        (strict, "holds up all others"),
        (silent_until_clean, "only the half one must"),
        (one_late, "holds back"),
        (one_early, "comes before the bytes"),
        (lambda ids, t: [""] * (len(ids) - 1) + [t.decode(ids)] if ids else [], "with the last id"),
        (lambda ids, t: [string for string in remembering(ids, t) if string], "give an empty one"),
        (lambda ids, t: [*remembering(ids, t), ""], "give one string for each id, an empty"),
        (lambda ids, t: list(t.decode(ids)), "single characters"),
        (lambda ids, t: [t.decode(ids)], "in one string"),
        (lambda ids, t: t.decode(ids), "returns a str"),
        (lambda ids, t: [t.vocabulary[i] for i in ids], "decode the bytes"),
        (lambda ids, t: list(ids), "not ids"),
        (lambda ids, t: [bytes([i]).decode() for i in ids], "joined"),
        (clumsy_end, "IndexError"),
        (takes_ids_out, "changes the list of ids"),
        (lambda ids, t: [t.vocabulary[i].decode() for i in ids], "UnicodeDecodeError"),
        (lambda ids, t: print(end=""), "returns nothing"),
    ],
    "unused": [
        (letters, "looks for a token's letters"),
        (ids_of(lambda i, t, text: t.vocabulary[i].decode(errors="replace") not in text), "both faults"),
        (
            ids_of(lambda i, t, text: i >= 256 and t.vocabulary[i].decode(errors="replace") not in text),
            "; and the spec",
        ),
        (between(0, lambda t: 0), "bytes and special tokens"),
        (between(0, n_special), "the bytes are counted"),
        (between(256, lambda t: 0), "the special tokens are counted"),
        (between(256, lambda t: 1), "there may be none, or several"),
        (lambda t, text: [i for i in range(256, t.vocab_size)[: -n_special(t)] if i not in t.encode(text)], "`[:-0]`"),
        (line_by_line, "line by line"),
        (guessed_names, "no merge made"),
        (lambda t, text: by_difference(t, text.lower()), "one of the ids of the text|is missing|is given"),
        (between(257, n_special), "the first merge is left out"),
        (between(256, lambda t: n_special(t) + 1), "the last merge is left out"),
        (lambda t, text: sorted({i for i in t.encode(text) if i >= 256}), "that the text uses"),
        (changed(by_difference, lambda ids: ids[::-1]), "highest id"),
        (changed(by_difference, lambda ids: [i - 256 for i in ids]), "ranks of the merges"),
        (changed(by_difference, lambda ids: [i for i in ids for _ in range(2)]), "comes twice"),
        (changed(by_difference, lambda ids: sorted(ids, key=lambda i: -i % 3)), "do not rise"),
        (changed(by_difference, lambda ids: ids[:1]), "is missing"),
        (changed(by_difference, lambda ids: [*ids, 299]), "no merge made"),
        (changed(by_difference, lambda ids: sorted({*ids, 256})), "is given"),
        (changed(by_difference, set), "returns a set"),
        (changed(by_difference, len), "returns an int"),
        (changed(by_difference, torch.tensor), "returns a tensor"),
        (lambda t, text: [t.vocabulary[i] for i in by_difference(t, text)], "ids are asked for"),
        (lambda t, text: by_difference(t, text.split()), "TypeError"),
        (
            lambda t, text: sorted(
                set(range(256, t.vocab_size - n_special(t))) - {i for word in text.split() for i in t.encode(word)}
            ),
            "word by word",
        ),
        (lambda t, text: print(end=""), "returns nothing"),
    ],
}
