"""Checks of notebook 11: merges by hand, the longest token, bits, half characters, and tokens that nothing uses."""

import codecs
import functools
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral

from gptlib.checks.judge import Mistake, attempt, choice, examine, exercise, made, number
from gptlib.checks.words import a, counter_example, shortened


def joined(tokens: list, merges: Sequence[tuple]) -> list:
    """The tokens of a piece, strings or bytes, once every merge has been made, the lowest rank first."""
    for pair in merges:
        i = 0
        while i < len(tokens) - 1:
            if tuple(tokens[i : i + 2]) == pair:
                tokens = [*tokens[:i], pair[0] + pair[1], *tokens[i + 2 :]]
            i += 1
    return tokens


# --- by hand ------------------------------------------------------------------------------------------------------


WORD = "thither"
MERGES = [("h", "e"), ("t", "h"), ("he", "r"), ("t", "he"), ("h", "i")]
BY_HAND = {
    ("th", "i", "th", "e", "r"): "a pair further left was joined before one of a lower rank: it is the rank that "
    "decides, not the place",
    ("th", "i", "the", "r"): "that is the longest token from the left each time; merges do not look for length",
    ("t", "hi", "th", "e", "r"): "the highest rank was made first, and the lowest comes first",
    ("t", "hi", "t", "her"): "rank 4 was made before rank 1: the first h goes to the t",
    ("t", "h", "i", "t", "her"): "only the second half is joined: rank 1 finds its pair at the start of the word",
    ("t", "h", "i", "t", "he", "r"): "only rank 0 was made: go on with the next rank that finds its pair",
    ("th", "i", "t", "he", "r"): "rank 2 is missing: it joins he, which rank 0 has made, with r",
    ("t", "h", "i", "t", "h", "e", "r"): "nothing is joined yet",
}


@exercise
def by_hand(tokens, joins):
    """The tokens of 'thither' after five merges, and how often two neighbours were joined on the way."""
    if not isinstance(tokens, (list, tuple)):
        raise Mistake(f"Not yet: tokens: this is {a(tokens)}, and a list of strings is expected, one for each token.")
    tokens = [token.decode("utf-8", "replace") if isinstance(token, bytes) else token for token in tokens]
    if odd := [token for token in tokens if not isinstance(token, str)]:
        raise Mistake(f"Not yet: tokens: it holds {a(odd[0])}, and a list of strings is expected, one for each token.")
    if tokens != joined(list(WORD), MERGES):
        raise Mistake(f"Not yet: {shortened(tokens)}: {BY_HAND.get(tuple(tokens)) or misjoined(tokens)}.")
    counts = {
        5: "five merges are in the table, and not each of them finds its pair",
        4: "these are the tokens; every join leaves one token fewer than there were",
        7: "these are the letters, before the first join",
        2: "a token of three letters takes two joins",
        6: "joining seven letters into a single token would take six",
    }
    try:
        number(joins, 3, counts, tolerance=0.1)
    except Mistake as mistake:
        raise Mistake(str(mistake).replace("Not yet:", "Not yet: joins:")) from None
    return "h e, then t h, then he r: three joins, and seven letters become four tokens."


def misjoined(tokens: list[str]) -> str:
    """What is wrong with tokens that no known mistake explains."""
    if "".join(tokens) != WORD:
        return f"joined again this is {shortened(''.join(tokens))}, and not {WORD!r}"
    known = {left + right for left, right in MERGES}
    if strange := [token for token in tokens if len(token) != 1 and token not in known]:
        return f"no merge makes {strange[0]!r}"
    if left := [rank for rank, pair in enumerate(MERGES) if pair in zip(tokens, tokens[1:])]:
        return f"the pair of rank {left[0]} stands there still: {' and '.join(MERGES[left[0]])}"
    return "a pair was joined before one of a lower rank: start again at the letters"


# --- answers that are lists ---------------------------------------------------------------------------------------


def listed(result, kind: type, others: Mapping[type, str]) -> list | None:
    """What an answer returns as a list of `kind`; raises Mistake if it is not, with the reason for some `others`."""
    if isinstance(result, Iterator):
        result = list(itertools.islice(result, 100_000))
    if isinstance(result, tuple):
        result = list(result)
    if result is not None and not isinstance(result, list):
        raise Mistake(f"Not yet: it returns {a(result)}, and a list is expected.")
    for part in result or []:
        if not isinstance(part, kind) or isinstance(part, bool):
            why = next((f": {why}" for other, why in others.items() if isinstance(part, other)), "")
            raise Mistake(f"Not yet: the list holds {a(part)}, {shortened(part)}{why}.")
    return result


def examine_list(
    answer: Callable, cases: Sequence[tuple], expected: Callable, mistakes: Mapping, problem: Callable, use: Callable
) -> None:
    """What `judge.examine` is for tensors, for lists. `problem(result, *inputs)` is None when a result is right.

    So more than one list can be right. `use(answer, *inputs)` calls the answer and makes a list of what it returns.
    """
    if not callable(answer):
        raise Mistake(f"Not yet: this is {a(answer)}, not a function: pass the function itself.")
    results = [attempt(use, answer, inputs, expected) for inputs in cases]
    for inputs, result in zip(cases, results):
        if found := problem(result, *inputs):
            for diagnosis, mistake in mistakes.items():
                if all(result == made(mistake, inputs) for inputs, result in zip(cases, results)):
                    found = diagnosis
                    break
            example = counter_example(inputs, result, expected(*inputs), expected)
            raise Mistake(f"Not yet: {found}.\n\n{example}")


# --- the longest token --------------------------------------------------------------------------------------------


class Vocabulary(set):
    """Tokens in a set that is shown in order, and that stops an answer which asks it without end."""

    def __init__(self, tokens, patience: float = math.inf, piece: bytes = b""):
        super().__init__(tokens)
        self.patience, self.piece = patience, piece

    def asked(self) -> None:
        self.patience -= 1
        if self.patience < 0:
            if not self.piece:
                raise Mistake("Not yet: it goes on without end where the piece is empty, b'': that has no tokens.")
            why = "does each turn of the loop leave less of the piece, and can it end with a single byte"
            raise Mistake(f"Not yet: it goes on without end: {why}?\n\n  piece = {self.piece!r}")

    def __contains__(self, token) -> bool:
        self.asked()
        return super().__contains__(token)

    def __iter__(self) -> Iterator:
        self.asked()
        return super().__iter__()

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, sorted(self, key=lambda token: (-len(token), token))))}}}"


def longest(piece, vocabulary):
    tokens = []
    while piece:
        tokens.append(max((token for token in vocabulary if piece.startswith(token)), key=len))
        piece = piece[len(tokens[-1]) :]
    return tokens


def single(piece, vocabulary):
    return [piece[i : i + 1] for i in range(len(piece))]


def from_the_right(piece, vocabulary):
    back = longest(piece[::-1], {token[::-1] for token in vocabulary})
    return [token[::-1] for token in back][::-1]


def anywhere(piece, vocabulary):
    """The longest token that stands anywhere in the piece, the first such, then what is left and right of it."""
    if not piece:
        return []
    found = max((token for token in vocabulary if token in piece), key=lambda t: (len(t), -piece.index(t)))
    before, _, after = piece.partition(found)
    return [*anywhere(before, vocabulary), found, *anywhere(after, vocabulary)]


def fewest(piece, vocabulary):
    """The shortest list of tokens; among equals the one with the longer first token."""
    best = [[]]  # of the last n bytes, for n = 0, 1, …
    for n in range(1, len(piece) + 1):
        rest = piece[len(piece) - n :]
        fits = sorted((token for token in vocabulary if rest.startswith(token)), key=len, reverse=True)
        best.append(min(([token, *best[n - len(token)]] for token in fits), key=len))
    return best[-1]


def grown(piece, vocabulary):
    """A token grows byte by byte, and ends at the first byte with which it is no token."""
    tokens = []
    while piece:
        end = 1
        while end < len(piece) and piece[: end + 1] in vocabulary:
            end += 1
        tokens.append(piece[:end])
        piece = piece[end:]
    return tokens


def overlapping(piece, vocabulary):
    return [longest(piece[i:], vocabulary)[0] for i in range(len(piece))]


def not_whole(piece, vocabulary):
    """Never all that is left, unless it is one byte."""
    tokens = []
    while piece:
        fits = [t for t in vocabulary if piece.startswith(t) and (len(t) < len(piece) or len(t) == 1)]
        tokens.append(max(fits, key=len))
        piece = piece[len(tokens[-1]) :]
    return tokens


LONGEST = {
    "these are single bytes, the shortest tokens that fit": single,
    "it starts at the right end: the first token is the longest that the piece *begins* with": from_the_right,
    "it takes the longest token that stands anywhere: the first token must begin where the piece begins": anywhere,
    "it looks for the fewest tokens: longest match does not look ahead": fewest,
    "it stops at the first length that is no token: a longer one may fit though a shorter one does not": grown,
    "it goes on one byte further each time: the next token begins where the last one ended": overlapping,
    "a token is never all that is left: `range` stops before its end": not_whole,
    "the tokens stand in reverse": lambda piece, vocabulary: longest(piece, vocabulary)[::-1],
    "only the first token is there: go on with what is left of the piece": lambda p, v: longest(p, v)[:1],
    "the last token is missing": lambda p, v: longest(p, v)[:-1],
    "the last byte is missing": lambda p, v: longest(p[:-1], v),
    "spaces at the ends are left out: they are bytes of the piece like others": lambda p, v: longest(p.strip(), v),
    "a token that comes twice is there once": lambda p, v: list(dict.fromkeys(longest(p, v))),
    "the tokens are sorted: they stand in the order of the piece": lambda p, v: sorted(longest(p, v)),
    "tokens of more than two bytes are not found": lambda p, v: longest(p, {t for t in v if len(t) < 3}),
    "an empty piece has no tokens, not an empty one": lambda p, v: longest(p, v) or [b""],
    "it ends with an empty token": lambda p, v: [*longest(p, v), b""],
    "the piece comes back whole, as one token that the vocabulary need not have": lambda p, v: [p],
    "these are all tokens that the piece begins with": lambda p, v: sorted(t for t in v if p.startswith(t)),
}


def not_longest(result, piece, vocabulary):
    right = longest(piece, vocabulary)
    if result == right:
        return None
    if strange := [token for token in result if token not in vocabulary]:
        return f"{shortened(strange[0])} is not in the vocabulary"
    if b"".join(result) != piece:
        return f"joined again the tokens are {shortened(b''.join(result))}, and not the piece"
    n = next(i for i, (one, other) in enumerate(zip(result, right)) if one != other)
    return f"token {n} is {result[n]!r}, and {right[n]!r} fits there too and is longer"


@exercise
def longest_match(answer):
    """A function piece, vocabulary -> list of tokens, all bytes: from the left, the longest that fits each time."""

    def use(answer, piece, vocabulary):
        why_int = "`piece[0]` is the number of a byte, and `piece[:1]` is the byte itself"
        others = {int: why_int, str: "piece and vocabulary are bytes, and so are the tokens"}
        given = Vocabulary(vocabulary, patience=50_000, piece=piece)
        result = listed(answer(piece, given), bytes, others)
        if given != vocabulary:
            raise Mistake("Not yet: it changes the vocabulary that it is given; work on a copy.")
        return result

    def case(piece, *tokens):
        return piece, Vocabulary([*tokens, *(piece[i : i + 1] for i in range(len(piece)))])

    draw = random.Random(0)
    mixed = bytes(draw.choice(b"abc") for _ in range(40))
    drawn = {mixed[i : i + draw.randint(2, 6)] for i in draw.sample(range(34), 12)}
    cases = [
        case(b"a"),
        case(b"ab", b"ab"),
        case(b"abc", b"ab", b"bc"),
        case(b"abcc", b"ab", b"bcc"),
        case(b"abab", b"ab"),
        case(b"abcab", b"abc"),
        case(b"aaaaa", b"aa", b"aaa"),
        case(b"cab", b"ab", b"ca", b"cb"),
        case(WORD.encode(), *((left + right).encode() for left, right in MERGES)),
        case("déjà".encode(), "é".encode(), "é".encode()[1:] + b"j"),
        case(b"honorificabilitudinitatibus", b"honorificabilitudin", b"itat", b"itatibus", b"ho"),
        case(b" a (a.b) ", b" a", b"(a", b".b"),
        case(mixed, *drawn),
        case(b"", b"a", b"ab"),
    ]
    examine_list(answer, cases, longest, LONGEST, not_longest, use)
    return "from the left, the longest token that fits, and every byte once."


# --- bits for each byte -------------------------------------------------------------------------------------------


def bits(loss, n_tokens, text):
    return loss * n_tokens / math.log(2) / len(text.encode("utf-8"))


BITS = {
    "these are nats for each byte: a bit is ln 2 nats": lambda loss, n, text: bits(loss, n, text) * math.log(2),
    "these are bits for each character: some characters are more than one byte": lambda loss, n, text: (
        loss * n / math.log(2) / len(text)
    ),
    "these are nats for each character: a bit is ln 2 nats, and some characters are more than one byte": (
        lambda loss, n, text: loss * n / len(text)
    ),
    "it is multiplied by ln 2: a bit is less than a nat, so there are more of them": lambda loss, n, text: (
        bits(loss, n, text) * math.log(2) ** 2
    ),
    "it is multiplied by ln 2, and characters are counted in place of bytes": lambda loss, n, text: (
        loss * n * math.log(2) / len(text)
    ),
    "these are bits for each token: spread them over the bytes of the text": lambda loss, n, text: loss / math.log(2),
    "these are nats for each token, as given": lambda loss, n, text: loss,
    "this is the sum over the whole text, in bits": lambda loss, n, text: loss * n / math.log(2),
    "this is the sum over the whole text, in nats": lambda loss, n, text: loss * n,
    "tokens and bytes are exchanged: the loss is for each token, so the sum is the loss times the tokens": (
        lambda loss, n, text: loss / math.log(2) * len(text.encode()) / n
    ),
    "tokens and characters are exchanged: the loss is for each token, so the sum is the loss times the tokens": (
        lambda loss, n, text: loss / math.log(2) * len(text) / n
    ),
    "the number of tokens is not used: the loss is for one of them": lambda loss, n, text: (
        loss / math.log(2) / len(text.encode())
    ),
    "it is divided by 8: bits *for* each byte are asked for, however many bits a byte has": lambda loss, n, text: (
        bits(loss, n, text) / 8
    ),
    "this is the logarithm of the loss: the loss is one already, only its base changes": lambda loss, n, text: (
        math.log2(loss) * n / len(text.encode())
    ),
    "it is divided by 2: from nats to bits it is ln 2": lambda loss, n, text: loss * n / 2 / len(text.encode()),
    "it is divided by ln 10: a bit is a choice of two": lambda loss, n, text: bits(loss, n, text) / math.log2(10),
    "this is e to the loss, the number of choices, and a sum of logarithms is asked for": lambda loss, n, text: (
        math.exp(loss) * n / len(text.encode())
    ),
    "these are two bytes for every character, and UTF-8 has one for the letters of ASCII": lambda loss, n, text: (
        loss * n / math.log(2) / (2 * len(text))
    ),
    "it is divided by the different characters of the text: each of them counts as often as it is there": (
        lambda loss, n, text: loss * n / math.log(2) / len(set(text))
    ),
    "0.693 is ln 2 rounded: `math.log(2)` has all of its digits": lambda loss, n, text: (
        loss * n / 0.693 / len(text.encode())
    ),
    "it is divided by the words of the text": lambda loss, n, text: loss * n / math.log(2) / len(text.split()),
    "it is rounded down to a whole number: `/` divides, `//` drops what is left": lambda loss, n, text: (
        bits(loss, n, text) // 1
    ),
}


@exercise
def bits_per_byte(answer, best):
    """A function loss, n_tokens, text -> bits for each byte; and the letter of the best of three models."""
    cases = [(2.0, 3, "banana"), (3.5, 4, "café é"), (0.5, 9, "東京"), (6.25, 20, "To be, or not to be: 🎭 ")]
    examine(answer, cases, bits, BITS)
    reasons = {
        "a": "it pays least for a token, but its tokens are short, and it needs 10,000 of them",
        "c": "it needs the fewest tokens, but each of them costs most: multiply",
    }
    try:
        choice(best, "b", reasons)
    except Mistake as mistake:
        raise Mistake(str(mistake).replace("Not yet:", "Not yet: best:")) from None
    return "what a text costs, spread over its bytes, and model b needs the fewest bits."


# --- a stand-in for a tokenizer -----------------------------------------------------------------------------------


PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = sorted(range(256), key=lambda byte: (byte not in PRINTABLE, byte))  # as GPT-2 numbers them


class Tokenizer:
    """Has what the package's tokenizer has, and few merges."""

    def __init__(self, vocabulary, merges=(), special_tokens=()):
        self.vocabulary, self.merges, self.special_tokens = list(vocabulary), list(merges), tuple(special_tokens)
        self.vocab_size = len(self.vocabulary)

    def encode(self, text, allowed_special=()):
        pieces = re.findall(r" ?\w+|\n+|\W", text)
        tokens = [joined([bytes([byte]) for byte in piece.encode()], self.merges) for piece in pieces]
        return [self.vocabulary.index(token) for token in itertools.chain(*tokens)]

    def decode(self, ids):
        return b"".join(self.vocabulary[i] for i in ids).decode("utf-8", errors="replace")

    def __repr__(self) -> str:
        return repr(dict(list(enumerate(self.vocabulary))[256 if self.merges else 0 :]))


def with_merges(merges: Sequence[tuple[bytes, bytes]], *special_tokens: str) -> Tokenizer:
    made_tokens = [left + right for left, right in merges]
    names = [name.encode() for name in special_tokens]
    return Tokenizer([*(bytes([byte]) for byte in BYTES), *made_tokens, *names], merges, special_tokens)


# --- half characters ----------------------------------------------------------------------------------------------


def certain(ids, tokenizer):
    """After each id all text that no later id can change, and at the end what is left over as well."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = list(itertools.accumulate(decoder.decode(tokenizer.vocabulary[i]) for i in ids))
    return [*texts[:-1], tokenizer.decode(ids)] if ids else []


def parts_of(texts):
    return [text[len(before) :] for before, text in zip(["", *texts], texts)]


def streamed(ids, tokenizer):
    return parts_of(certain(ids, tokenizer))


def texts_so_far(ids, tokenizer):
    return [tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]


def each_alone(ids, tokenizer):
    return [tokenizer.decode([i]) for i in ids]


def never_flushed(ids, tokenizer):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(tokenizer.vocabulary[i]) for i in ids]


def all_or_nothing(ids, tokenizer, at_the_end=True):
    """What waits is given once all of it is whole; what will never be whole waits until the end."""
    strings, waiting = [], b""
    for n, i in enumerate(ids):
        waiting += tokenizer.vocabulary[i]
        try:
            text = waiting.decode("utf-8")
        except UnicodeDecodeError:
            text = waiting.decode("utf-8", "replace") if at_the_end and n == len(ids) - 1 else ""
        waiting = b"" if text else waiting
        strings.append(text)
    return strings


def until_no_sign(ids, tokenizer):
    """Nothing is given while the text ends with �."""
    texts, given = texts_so_far(ids, tokenizer), 0
    strings = []
    for n, text in enumerate(texts):
        held = text.endswith("�") and n < len(texts) - 1
        strings.append("" if held else text[given:])
        given = given if held else len(text)
    return strings


def stripped(ids, tokenizer):
    return parts_of([text.rstrip("�") for text in texts_so_far(ids, tokenizer)])


STREAMED = {
    "every id is decoded alone: half a character becomes �, and both halves are lost": each_alone,
    "half characters are thrown away: they must wait for their other half": lambda ids, tokenizer: [
        tokenizer.vocabulary[i].decode("utf-8", "ignore") for i in ids
    ],
    "the signs � are taken out of each id's own text: half a character must wait for its other half": (
        lambda ids, tokenizer: [text.replace("�", "") for text in each_alone(ids, tokenizer)]
    ),
    "all text so far comes each time: give only what is new": texts_so_far,
    "all whole text so far comes each time: give only what is new": certain,
    "a � that was given cannot be taken back: wait until the character is whole": lambda ids, tokenizer: parts_of(
        texts_so_far(ids, tokenizer)
    ),
    "what is left over at the end is lost: it becomes �, in the last string": never_flushed,
    "what is left over at the end is lost, and any � before it: they belong into the last string": stripped,
    "all text comes with the last id: give each character with the id that makes it whole": lambda ids, tokenizer: (
        [""] * (len(ids) - 1) + [tokenizer.decode(ids)] * bool(ids)
    ),
    "a whole character waits with the half one behind it, and a byte that never fits holds up all others": (
        all_or_nothing
    ),
    "a whole character waits with the half one behind it, and what is left over at the end is lost": (
        lambda ids, tokenizer: all_or_nothing(ids, tokenizer, at_the_end=False)
    ),
    "a whole character waits with the half one behind it: only the half one must": until_no_sign,
    "what is left over is a string of its own: put it into the last one": lambda ids, tokenizer: parts_of(
        [*itertools.accumulate(never_flushed(ids, tokenizer)), tokenizer.decode(ids)]
    ),
    "an id that makes nothing whole has no string: give an empty one": lambda ids, tokenizer: [
        string for string in streamed(ids, tokenizer) if string
    ],
    "these are single characters: give one string for each id": lambda ids, tokenizer: list(tokenizer.decode(ids)),
    "the text is right, in one string: give one for each id": lambda ids, tokenizer: [tokenizer.decode(ids)],
    "the bytes are read as Latin-1, one character each, and not as UTF-8": lambda ids, tokenizer: [
        tokenizer.vocabulary[i].decode("latin-1") for i in ids
    ],
}


def not_in_time(result, ids, tokenizer):
    """None if the strings give every whole character at once; when a � is given that never gets whole, is left open."""
    if len(result) != len(ids):
        counts = f"ids: {len(ids)}, strings: {len(result)}"
        return f"{counts}; give one string for each id, an empty one where nothing is whole"
    right = tokenizer.decode(ids)
    if "".join(result) != right == "".join(result).replace("�", ""):
        return "a � that was given cannot be taken back: wait until the character is whole"
    if "".join(result) != right:
        return f"joined, the strings are {shortened(''.join(result))}, and decode gives {shortened(right)}"
    given = 0
    for n, (string, text) in enumerate(zip(result, certain(ids, tokenizer))):
        given += len(string)
        if given > len(text):
            return f"string {n}, {shortened(string)}, comes before the bytes that make it whole"
        if given < len(text.rstrip("�")):
            return f"string {n}, {shortened(string)}, holds back {text[given:]!r}, which is whole by then"
    return None


@exercise
def stream_decode(answer):
    """A function ids, tokenizer -> a list of strings, one for each id: the characters that it makes whole."""

    def use(answer, ids, tokenizer):
        others = {bytes: "decode the bytes, and keep those that are not whole yet", int: "text is asked for, not ids"}
        given = list(ids)
        result = listed(answer(given, tokenizer), str, others)
        if given != ids:
            raise Mistake("Not yet: it changes the list of ids that it is given; work on a copy.")
        return result

    def case(*tokens):
        vocabulary = list(dict.fromkeys(tokens))
        return [vocabulary.index(token) for token in tokens], Tokenizer(vocabulary)

    e, t, mask = "é".encode(), "東".encode(), "🎭".encode()
    cases = [
        case(b"a"),
        case(b"to", b" be"),
        case(e[:1], e[1:]),
        case(b"caf" + e[:1], e[1:] + b"s", b"."),
        case(t[:1], t[1:2], t[2:], b"!"),
        case(mask[:2], mask[2:] + t[:2], t[2:] + e[:1], e[1:]),
        case(b"to ", mask[:3]),
        case(b"a", e[:1], b"b", b"c"),
        case(b"\xff", b"a", b"b"),
        case(e[1:], b"a" + t[:2], e, b"d"),
        case(b"to ", "�".encode(), b"be", t[:2]),
        ([], Tokenizer([b"a", e])),
    ]
    draw = random.Random(0)
    parts = [e[:1], e[1:], t[:1], t[1:], mask[:3], mask[3:], b"a", "né".encode(), b"\xff", t[2:] + mask[:2], mask[2:]]
    cases += [([draw.randrange(len(parts)) for _ in range(12)], Tokenizer(parts)) for _ in range(5)]
    examine_list(answer, cases, streamed, STREAMED, not_in_time, use)
    return "each character comes with the id that makes it whole, and joined the strings are what decode gives."


# --- tokens that nothing uses -------------------------------------------------------------------------------------


def merged(tokenizer) -> range:
    return range(256, tokenizer.vocab_size - len(tokenizer.special_tokens))


def never_given(tokenizer, text, ids=merged):
    used = set(tokenizer.encode(text))
    return [i for i in ids(tokenizer) if i not in used]


def nowhere_in(tokenizer, text, ids=merged):
    return [i for i in ids(tokenizer) if tokenizer.vocabulary[i] not in text.encode()]


def all_ids(tokenizer):
    return range(tokenizer.vocab_size)


def all_from_256(tokenizer):
    return range(256, tokenizer.vocab_size)


def all_but_special(tokenizer):
    return range(tokenizer.vocab_size - len(tokenizer.special_tokens))


def all_but_one(tokenizer):
    return range(256, tokenizer.vocab_size - 1)


def all_to_minus_n(tokenizer):
    return range(256, tokenizer.vocab_size)[: -len(tokenizer.special_tokens)]


def line_by_line(tokenizer, text):
    used = {i for line in text.splitlines() for i in tokenizer.encode(line)}
    return [i for i in merged(tokenizer) if i not in used]


def word_by_word(tokenizer, text):
    return [i for i in merged(tokenizer) if all(i not in tokenizer.encode(word) for word in text.split())]


LETTERS = "it looks for a token's letters in the text: they may stand there inside a longer token"
SHARES = {
    "the bytes are counted too, and no merge made them": all_but_special,
    "the special tokens are counted too, and no merge made them": all_from_256,
    "bytes and special tokens are counted too, and no merge made them": all_ids,
    "it takes the last id for a special token: there may be none, or several": all_but_one,
    "where there are no special tokens, `[:-0]` leaves nothing": all_to_minus_n,
    "the first merge is left out: it made id 256": lambda tokenizer: merged(tokenizer)[1:],
    "the last merge is left out": lambda tokenizer: merged(tokenizer)[:-1],
}
UNUSED = {
    LETTERS: nowhere_in,
    "both faults are still there: letters of the text, and tokens that no merge made": functools.partial(
        nowhere_in, ids=all_ids
    ),
    **{why: functools.partial(never_given, ids=ids) for why, ids in SHARES.items()},
    **{
        f"{LETTERS}; and {why}": functools.partial(nowhere_in, ids=ids) for why, ids in SHARES.items() if ids != all_ids
    },
    "these are the tokens that the text uses": lambda tokenizer, text: sorted(
        set(merged(tokenizer)) & set(tokenizer.encode(text))
    ),
    "these are all tokens that the text uses, the bytes as well": lambda tokenizer, text: sorted(
        set(tokenizer.encode(text))
    ),
    "these are all tokens that merges made": lambda tokenizer, text: list(merged(tokenizer)),
    "these are the ranks of the merges; the token that rank 0 made has the id 256": lambda tokenizer, text: [
        i - 256 for i in never_given(tokenizer, text)
    ],
    "the highest id stands first": lambda tokenizer, text: never_given(tokenizer, text)[::-1],
    "the text is encoded word by word, without its spaces: they are part of the tokens": word_by_word,
    "the text is encoded line by line, without its line breaks: they are part of tokens too": line_by_line,
    "each token is encoded alone, and not the text: alone nearly every one comes out": lambda tokenizer, text: [
        i for i in merged(tokenizer) if tokenizer.encode(tokenizer.decode([i])) != [i]
    ],
    "these are the tokens that a later merge uses: many of them are tokens of the text as well": (
        lambda tokenizer, text: [
            i for i in merged(tokenizer) if any(tokenizer.vocabulary[i] in pair for pair in tokenizer.merges)
        ]
    ),
    "these are the tokens that the text uses once": lambda tokenizer, text: [
        i for i in merged(tokenizer) if tokenizer.encode(text).count(i) == 1
    ],
}


def not_unused(result, tokenizer, text):
    right = never_given(tokenizer, text)
    if list(result) == right:
        return None
    if sorted(set(result)) == right:
        return "an id comes twice" if len(result) > len(right) else "the ids do not rise"
    if outside := [i for i in result if i not in merged(tokenizer)]:
        return f"no merge made the token of id {outside[0]}"
    if used := [i for i in result if i not in right]:
        return f"id {used[0]}, {tokenizer.vocabulary[used[0]]!r}, is given, and it is one of the ids of the text"
    missing = next(i for i in right if i not in result)
    return f"id {missing}, {tokenizer.vocabulary[missing]!r}, is missing: encoding the text never gives it"


@exercise
def unused(answer):
    """A function tokenizer, text -> the ids of tokens that merges made and that encoding the text never gives."""

    def use(answer, tokenizer, text):
        why = "the ids are asked for, their places in `tokenizer.vocabulary`"
        return listed(answer(tokenizer, text), Integral, {bytes: why, str: why})

    def learned(*merges, special=("<|endoftext|>",)):
        return with_merges([tuple(part.encode() for part in merge.split("+")) for merge in merges], *special)

    the = ("h+e", "t+he", " +the", " +t", "o+r")
    t, o, k = ("東".encode()[i : i + 1] for i in range(3))
    cases = [
        (learned("t+h", "th+e"), "the"),
        (learned("t+h", "th+e"), "the path"),
        (learned(*the[:2]), "he, the she"),
        (learned(*the, special=()), "the theme of the other"),
        (learned(*the, special=("<|user|>", "[end]")), "to the other thing"),
        (learned("a+n", " +an", "an+d", " an+d"), "and a man and an end"),
        (learned("x+y", *the, "z+z"), "other"),
        (learned("T+h", "Th+e", "\n+\n"), "The The\n\n"),
    ]
    examine_list(answer, cases, never_given, UNUSED, not_unused, use)
    halves = [(with_merges([(t, o), (t + o, k)]), "東"), (with_merges([(t, o), (o, k)]), "東")]
    examine_list(answer, halves, never_given, {}, not_unused, use)
    return "all tokens that were only a step on the way to others, or are not of this text, and no byte among them."
