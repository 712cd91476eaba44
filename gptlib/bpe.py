"""Byte-pair encoding: the commonest pair of neighbours becomes a token of its own, again and again.

Text is cut into pieces, and pieces into bytes. `learn` counts which neighbours to join, in which order; `apply` joins
them in any other piece, in the same order. Tokens are numbers: 0 to 255 the bytes, 256 + r what merge r makes. A
tokenizer, which turns texts into such numbers, is in `tokenizers`.

Sennrich et al. 2016; on bytes, with the pattern and the numbers below, Radford et al. 2019 (GPT-2).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

# Words with the space before them, numbers, runs of other signs, and spaces: no merge crosses these borders.
PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII)

# The order in which GPT-2 numbers the 256 bytes: those that print, then the others.
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTES = PRINTABLE + sorted(set(range(256)) - set(PRINTABLE))
NUMBERS = {byte: number for number, byte in enumerate(BYTES)}

# How GPT-2's files write a byte: one that prints as its own character, the others as the characters from 256 on.
WRITTEN = {byte: chr(byte if byte in PRINTABLE else 256 + i - len(PRINTABLE)) for i, byte in enumerate(BYTES)}

Pair = tuple[int, int]


def split(text: str) -> list[str]:
    """Cut `text` into the pieces that no merge crosses; joined again they are `text`.

    >>> split("I'll go in 1603.")
    ['I', "'ll", ' go', ' in', ' 1603', '.']
    """
    if text.isascii():
        return PATTERN.findall(text)
    # Python's patterns have no name for 'a letter of any script'. So each character outside ASCII is replaced by an
    # ASCII character of its kind; the pattern finds the borders there, and the pieces are cut from the text.
    kinds = {ord(c): kind(c) for c in set(text) if not c.isascii()}
    return [text[found.start() : found.end()] for found in PATTERN.finditer(text.translate(kinds))]


def kind(character: str) -> str:
    """A letter, digit, space or sign of ASCII, to stand for a `character` outside it."""
    return "a" if character.isalpha() else "0" if character.isnumeric() else "\t" if character.isspace() else "."


def bytes_of(piece: str) -> list[int]:
    """The bytes of `piece` in UTF-8, by GPT-2's numbers.

    >>> bytes_of("hé")
    [71, 127, 102]
    """
    return [NUMBERS[byte] for byte in piece.encode("utf-8")]


def merge(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """Replace each `pair` of neighbours by the token `new`, from the left.

    >>> merge([1, 2, 3, 1, 2], pair=(1, 2), new=4)
    [4, 3, 4]
    """
    merged, i = [], 0
    while i < len(tokens):
        here = tuple(tokens[i : i + 2]) == pair
        merged.append(new if here else tokens[i])
        i += 2 if here else 1
    return merged


def learn(pieces: Mapping[str, int], n_merges: int) -> list[Pair]:
    """The merges of a text, in order: each joins the pair that is the commonest once those before it are made.

    `pieces` says how often each piece occurs, so that a word is worked on once and counts as often as it is there.
    Among equally common pairs the one with the lower first number is taken, then the one with the lower second.
    Fewer merges come back when each piece has become a single token before.

    >>> learn({"abab": 1, "ab": 2}, n_merges=2)
    [(64, 65), (256, 256)]
    """
    words, often = [bytes_of(piece) for piece in pieces], list(pieces.values())
    counts, where = Counter(), defaultdict(set)  # of each pair: how often, and in which words
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            counts[pair] += often[w]
            where[pair].add(w)
    queue = [(-count, pair) for pair, count in counts.items()]  # the commonest comes out first
    heapify(queue)
    merges = []
    while queue and len(merges) < n_merges:
        count, pair = heappop(queue)
        if -count != counts[pair]:  # written down before other merges took some of these pairs away
            if counts[pair]:
                heappush(queue, (-counts[pair], pair))
            continue
        new = 256 + len(merges)
        merges.append(pair)
        made = set()
        for w in where.pop(pair):
            before, words[w] = words[w], merge(words[w], pair, new)
            for old in zip(before, before[1:]):
                counts[old] -= often[w]
            for now in zip(words[w], words[w][1:]):
                counts[now] += often[w]
                if new in now:
                    where[now].add(w)
                    made.add(now)
        for now in made:
            heappush(queue, (-counts[now], now))
    return merges


def apply(ranks: Mapping[Pair, int], tokens: list[int]) -> list[int]:
    """Join neighbours, the merge of the lowest rank first and from the left, until no neighbours have a merge.

    A queue holds the places where a merge could be made, so the time grows as n log n with the number of tokens.

    >>> apply({(1, 2): 0, (256, 3): 1}, [1, 2, 3, 1, 2])
    [257, 256]
    """
    queue = [(ranks[pair], i) for i, pair in enumerate(zip(tokens, tokens[1:])) if pair in ranks]
    heapify(queue)
    end = len(tokens)
    tokens = [*tokens, None]  # None has no merge: at the end and, being place -1 too, before the start
    before, after = list(range(-1, end)), [*range(1, end + 1), end]  # each token's neighbours, by their places
    while queue:
        rank, i = heappop(queue)
        j = after[i]
        if ranks.get((tokens[i], tokens[j])) != rank:  # one of the two has been joined with another since
            continue
        tokens[i], tokens[j] = 256 + rank, None
        after[i] = after[j]
        before[after[i]] = i
        for left, right in ((before[i], i), (i, after[i])):
            if (pair := (tokens[left], tokens[right])) in ranks:
                heappush(queue, (ranks[pair], left))
    return [token for token in tokens if token is not None]
