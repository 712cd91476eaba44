"""Byte-pair encoding against direct, slow implementations, and against the Unicode tables of tiktoken and regex."""

import functools
import random
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import regex
import tiktoken

import gptlib
from gptlib import bpe
from gptlib.data import TEXTS

DATA = Path(__file__).resolve().parents[1] / "data"

# GPT-2's own pattern, for engines that have Unicode character classes.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# GPT-2's order of the bytes, and the characters that its files write for them.
PRINTABLE = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
ORDER = PRINTABLE + [b for b in range(256) if b not in PRINTABLE]
WRITTEN = {b: chr(b) if b in PRINTABLE else chr(256 + n - len(PRINTABLE)) for n, b in enumerate(ORDER)}

MAX_LOOKUPS = 9  # per token: 2 at first, 4 for the 2 pairs that a merge makes, 1 for each of 3 entries in the queue


@pytest.fixture(scope="module")
def ranks():
    """The ranks of GPT-2's merges, as pairs of token ids."""
    numbers = {WRITTEN[b]: n for n, b in enumerate(ORDER)}
    pairs = {}
    for line in (DATA / "gpt2" / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]:
        left, right = line.split(" ")
        pairs[numbers[left], numbers[right]] = len(pairs)
        numbers[left + right] = len(numbers)
    return pairs


# ---------------------------------------------------------------- characters that all libraries classify alike


def matched(pattern: str) -> set[str]:
    """The characters that match, by tiktoken's Unicode table: it drops what the pattern does not match."""
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    encoding = tiktoken.Encoding(
        "bytes", pat_str=pattern, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )
    return set(encoding.decode(encoding.encode_ordinary(everything)))


@functools.cache
def shared_characters() -> list[str]:
    """The characters that Python, tiktoken and regex all have in their tables, and those that none of them has.

    Each has its own version of Unicode, and newer versions have some thousand more letters.
    """
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    unassigned = [
        {c for c in everything if unicodedata.category(c) == "Cn"},
        matched(r"\p{Cn}"),
        set(regex.findall(r"\p{Cn}", "".join(everything))),
    ]
    uncertain = set.union(*unassigned) - set.intersection(*unassigned)
    assert len(uncertain) < 30_000
    return [c for c in everything if c not in uncertain]


@functools.cache
def alphabets() -> list:
    """Sets of characters to sample texts from: all of Unicode, and special cases of the pattern and of merging."""
    shared = shared_characters()
    return [
        shared,
        [c for c in shared if c.isalpha() and ord(c) < 0x3000],
        [c for c in shared if c.isnumeric()],
        [c for c in shared if c.isspace()],
        [c for c in shared if unicodedata.category(c) in ("Cc", "Cf", "Mn", "So")],  # controls, accents, emoji
        [chr(code) for code in range(128)],
        "abcdefghijklmnopqrstuvwxyz",
        [" the", " and", "ing", "'s", "'ll", "'Re", "it's", "1603", "\r\n", "    ", "<|endoftext|>", "é", "e\u0301"],
        " \n\t",
        "'sdtmrlve S",
    ]


def random_texts(n: int, seed: int = 0):
    """Short texts, each from one to three of the alphabets; some empty, some with a long run of one character."""
    rng = random.Random(seed)
    for _ in range(n):
        some = [c for alphabet in rng.sample(alphabets(), rng.randint(1, 3)) for c in rng.choices(alphabet, k=9)]
        text = "".join(rng.choices(some, k=rng.choice([0, 1, 2, 5, 10, 20, 40])))
        yield text + rng.choice(some) * rng.choice([0, 0, 0, 30])


# ---------------------------------------------------------------- pre-tokenization


@pytest.mark.parametrize(
    "text, pre_tokens",
    [
        ("I'll we'LL don't 'twas", ["I", "'ll", " we", "'", "LL", " don", "'t", " '", "twas"]),
        ("a  b\n\nc \n", ["a", " ", " b", "\n", "\n", "c", " \n"]),
        ("x16035km²", ["x", "16035", "km", "²"]),
        ("snake_case()...", ["snake", "_", "case", "()..."]),
        ("naïve 東京!\u3000é", ["naïve", " 東京", "!", "\u3000", "é"]),
        ("\x1c\x1d a", ["\x1c\x1d", " a"]),  # whitespace in Python, but not in GPT-2's pattern
        ("", []),
    ],
)
def test_pre_tokens(text, pre_tokens):
    assert bpe.pre_tokenize(text) == pre_tokens


def test_byte_ids_are_in_gpt2s_order():
    assert [bpe.byte_ids(chr(code)) for code in range(128)] == [[ORDER.index(code)] for code in range(128)]
    assert bpe.byte_ids("é東👩") == [ORDER.index(byte) for byte in "é東👩".encode()]
    assert bpe.BYTES == ORDER and bpe.BYTE_TO_UNICODE == WRITTEN and bpe.byte_ids("") == []


# ---------------------------------------------------------------- one merge


def merge_in_place(tokens: list[int], pair: tuple[int, int], new: int) -> None:
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [new]
        i += 1


# ---------------------------------------------------------------- training


def train_directly(text: str, n_merges: int) -> list[tuple[int, int]]:
    """Count all pairs again for each merge; ties go to the lower first id, then to the lower second."""
    pre_tokens = [[ORDER.index(byte) for byte in pre_token.encode()] for pre_token in regex.findall(PATTERN, text)]
    merges = []
    while len(merges) < n_merges:
        counts = {}
        for pre_token in pre_tokens:
            for pair in zip(pre_token, pre_token[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair[0], pair[1])))
        for pre_token in pre_tokens:
            merge_in_place(pre_token, merges[-1], 255 + len(merges))
    return merges


def test_ties_go_to_the_lower_first_id_and_then_to_the_lower_second():
    a, b, c, d = bpe.byte_ids("abcd")
    assert bpe.train_bpe({"dc": 1, "ab": 1, "ba": 1, "ac": 1}, 4) == [(a, b), (a, c), (b, a), (d, c)]
    assert bpe.train_bpe({"abc": 1, "d": 9}, 9) == [(a, b), (256, c)]


def test_a_pre_token_counts_as_often_as_it_occurs():
    a, b, c, d = bpe.byte_ids("abcd")
    assert bpe.train_bpe({"ab": 2, "cd": 3}, 1) == [(c, d)]
    assert bpe.train_bpe({"xab": 2, "yab": 2, "cd": 3}, 1) == [(a, b)]


@pytest.mark.parametrize("alphabet", ["ab", "ab ", "a", "aab ", "abc", "é東 ", "aé\n "])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 30, 200])
def test_merges_agree_with_direct_counting_when_many_pairs_tie(alphabet, length):
    rng = random.Random(length)
    for _ in range(10):
        text = "".join(rng.choices(alphabet, k=length))
        assert bpe.train_bpe(Counter(bpe.pre_tokenize(text)), 60) == train_directly(text, 60), text


@pytest.mark.parametrize("name", TEXTS)
def test_merges_agree_with_direct_counting(name):
    text = gptlib.load_text(name)[:20_000]
    assert bpe.train_bpe(Counter(bpe.pre_tokenize(text)), 150) == train_directly(text, 150)


def test_the_order_of_the_pre_tokens_does_not_matter():
    pre_tokens = Counter(bpe.pre_tokenize(gptlib.load_text("kennedy")[:30_000]))
    shuffled = list(pre_tokens.items())
    random.Random(0).shuffle(shuffled)
    assert bpe.train_bpe(dict(shuffled), 200) == bpe.train_bpe(pre_tokens, 200)


def test_fewer_merges_are_a_prefix_of_more():
    pre_tokens = Counter(bpe.pre_tokenize(gptlib.load_text("kennedy")))
    more = bpe.train_bpe(pre_tokens, 300)
    assert bpe.train_bpe(pre_tokens, 120) == more[:120] and len(more) == 300 and bpe.train_bpe(pre_tokens, 0) == []


def test_training_ends_when_each_pre_token_is_one_token():
    assert bpe.train_bpe({}, 5) == [] and bpe.train_bpe({"a": 7}, 5) == []
    assert len(bpe.train_bpe({"abcdefgh": 1}, 99)) == 7


def lines_run(function, *arguments) -> int:
    """How many lines of gptlib/bpe.py a call executes: a measure of work that does not depend on other processes."""
    lines, before = 0, sys.gettrace()

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != bpe.__file__:
            return None
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return lines


def test_the_time_of_training_grows_with_the_merged_pairs_and_not_with_merges_times_length():
    """On one very long pre-token, such as Chinese text without spaces."""
    text = "".join(random.Random(0).choices([chr(0x4E00 + i) for i in range(500)], k=2000))
    assert len(bpe.pre_tokenize(text)) == 1
    few, many = (lines_run(bpe.train_bpe, {text: 1}, n) for n in (100, 300))
    assert many < 60 * len(text.encode()) and many < 2 * few  # 6,000 bytes; 200 more passes would be 1,200,000 lines


# ---------------------------------------------------------------- applying


def apply_directly(ranks: dict, tokens: list[int]) -> list[int]:
    """Merge the first pair of the lowest rank, and search again."""
    tokens = list(tokens)
    while found := [(ranks[pair], i) for i, pair in enumerate(zip(tokens, tokens[1:])) if pair in ranks]:
        rank, i = min(found)
        tokens[i : i + 2] = [256 + rank]
    return tokens


def test_merges_are_applied_by_rank_and_from_the_left():
    rng = random.Random(0)
    for _ in range(1000):
        ranks = {}
        while len(ranks) < rng.randint(0, 20):  # pairs of bytes 0 to 3 and of earlier results
            pair = tuple(rng.choices([*range(4), *range(256, 256 + len(ranks))], k=2))
            ranks.setdefault(pair, len(ranks))
        tokens = rng.choices(range(4), k=rng.choice([0, 1, 2, 3, 10, 50]))
        before = list(tokens)
        assert bpe.apply_merges(ranks, tokens) == apply_directly(ranks, tokens) and tokens == before


def test_the_lowest_rank_comes_before_the_longest_token():
    a, b, c = bpe.byte_ids("abc")
    ranks = {(b, c): 0, (a, b): 1, (256, a): 2, (257, c): 3}
    assert bpe.apply_merges(ranks, [a, b, c]) == [a, 256]  # bc first; then no ab is left that could become abc


class Counted(dict):
    """Ranks that count look-ups, and fail above a limit."""

    def __init__(self, ranks: dict, limit: int):
        super().__init__(ranks)
        self.lookups, self.limit = 0, limit

    def count(self):
        self.lookups += 1
        assert self.lookups <= self.limit, f"more than {self.limit} look-ups"

    def __contains__(self, pair):
        self.count()
        return super().__contains__(pair)

    def __getitem__(self, pair):
        self.count()
        return super().__getitem__(pair)

    def get(self, pair, default=None):
        self.count()
        return super().get(pair, default)


@pytest.mark.parametrize("alphabet", ["abcdefghijklmnopqrstuvwxyz", "a", "ab", "é", "\n", "="])
def test_look_ups_per_token_do_not_grow_with_the_length(ranks, alphabet):
    """Counted, not timed: each merge puts at most two positions into the queue."""
    rng = random.Random(0)
    for n in (2_000, 20_000):
        tokens = bpe.byte_ids("".join(rng.choices(alphabet, k=n)))
        counted = Counted(ranks, limit=MAX_LOOKUPS * len(tokens))
        ids = bpe.apply_merges(counted, tokens)
        assert counted.lookups >= len(tokens) - 1 and len(ids) < len(tokens)


# ---------------------------------------------------------------- pre-tokenization, over all of Unicode


def test_every_character_has_tiktokens_class():
    letters, numbers, spaces = matched(r"\p{L}"), matched(r"\p{N}"), matched(r"\s")
    for c in shared_characters():
        if not c.isascii():
            expected = "a" if c in letters else "0" if c in numbers else "\t" if c in spaces else "."
            assert bpe.ascii_class(c) == expected, f"U+{ord(c):04X} {c!r}"


def test_pre_tokens_agree_with_gpt2s_pattern():
    texts = [*random_texts(5000), *(gptlib.load_text(name) for name in TEXTS)]
    for text in texts:
        pre_tokens = bpe.pre_tokenize(text)
        assert pre_tokens == regex.findall(PATTERN, text), repr(text)
        assert "".join(pre_tokens) == text
