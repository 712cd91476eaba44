"""Tokenizers: text to token ids and back.

`CharTokenizer` knows each character of one text. `WordTokenizer` knows whole words, and gives every other word the
same unknown token. `BPETokenizer` knows GPT-2's pieces of words, made of bytes, so that no text is unknown to it.
Each has `encode(str) -> list[int]`, `decode(ids) -> str`, `vocab_size`, and `vocabulary`, its tokens in the order of
their ids.
"""

import operator
import re
from collections import Counter
from collections.abc import Iterable

from gptlib.files import folder, read_checked


def look_up(ids: Iterable[int], vocabulary: list) -> list:
    """The tokens of `ids`; raises ValueError for an id outside the vocabulary."""
    ids = [operator.index(i) for i in ids]  # numbers from a list, an array or a tensor, but no 1.5
    for place, i in enumerate(ids):
        if not 0 <= i < len(vocabulary):
            raise ValueError(
                f"token id {i} at position {place} is outside the vocabulary 0…{len(vocabulary) - 1}: "
                "decode with the tokenizer that the ids came from"
            )
    return [vocabulary[i] for i in ids]


class CharTokenizer:
    """One token for each distinct character of `text`, in the order of their code points.

    Raises ValueError when `text` is empty.

    >>> CharTokenizer("banana").encode("nab")
    [2, 0, 1]
    """

    def __init__(self, text: str):
        if not text:
            raise ValueError("a tokenizer needs a text with at least one character to learn its vocabulary from")
        self.vocabulary = sorted(set(text))
        self.vocab_size = len(self.vocabulary)
        self._ids = {character: i for i, character in enumerate(self.vocabulary)}

    @classmethod
    def from_vocabulary(cls, vocabulary: list[str]) -> "CharTokenizer":
        """The tokenizer that has this vocabulary, as saved beside a model; raises ValueError if none can have it."""
        tokenizer = cls("".join(vocabulary))
        if tokenizer.vocabulary != list(vocabulary):
            raise ValueError("this is not a vocabulary of single characters, each there once, in order")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Raises ValueError, saying which and where, at a character that the vocabulary does not hold."""
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            place = next(i for i, character in enumerate(text) if character not in self._ids)
            raise ValueError(
                f"{text[place]!r} at position {place} is not among the {self.vocab_size} characters of the vocabulary: "
                "take it out, or build the tokenizer from a text that contains it"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Raises ValueError for an id outside the vocabulary."""
        return "".join(look_up(ids, self.vocabulary))


class WordTokenizer:
    """One token for each of the commonest words of `text`, and for each character that is not part of a word.

    A word is a run of letters, digits and underscores. `max_vocab` counts the unknown token, id 0, which stands for
    everything else; so `decode(encode(text))` gives known words back exactly and `<unk>` for the others.
    Raises ValueError when `text` is empty or `max_vocab` leaves no room for a word.

    >>> WordTokenizer("to be or not to be", max_vocab=4).decode([1, 2, 1, 3, 0])
    ' be to<unk>'
    """

    unknown = "<unk>"

    def __init__(self, text: str, max_vocab: int | None = None):
        if not text:
            raise ValueError("a tokenizer needs a text with at least one word to learn its vocabulary from")
        if max_vocab is not None and max_vocab < 2:
            raise ValueError(f"max_vocab must be at least 2, the unknown token and one word; got {max_vocab}")
        counts = Counter(self.split(text))
        by_count = sorted(counts, key=lambda word: (-counts[word], word))  # equal counts: alphabetical
        self._learn([self.unknown, *by_count[: None if max_vocab is None else max_vocab - 1]])

    @classmethod
    def from_vocabulary(cls, vocabulary: list[str]) -> "WordTokenizer":
        """The tokenizer that has this vocabulary, as saved beside a model; raises ValueError if none can have it."""
        if vocabulary[:1] != [cls.unknown] or len(set(vocabulary)) < len(vocabulary):
            raise ValueError(f"this is not a vocabulary of words: {cls.unknown} first, then each word once")
        tokenizer = cls("".join(vocabulary))
        tokenizer._learn(list(vocabulary))
        return tokenizer

    def _learn(self, vocabulary: list[str]) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self._ids = {word: i for i, word in enumerate(vocabulary)}

    @staticmethod
    def split(text: str) -> list[str]:
        """Cut `text` into words and single other characters; joined again they are `text`.

        >>> WordTokenizer.split("I'll go.")
        ['I', "'", 'll', ' ', 'go', '.']
        """
        return re.findall(r"\w+|\W", text)

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, 0) for word in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Raises ValueError for an id outside the vocabulary."""
        return "".join(look_up(ids, self.vocabulary))


# The order in which GPT-2 numbers the 256 bytes: those that print, then the others.
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTES = PRINTABLE + sorted(set(range(256)) - set(PRINTABLE))

# GPT-2's file of merges writes a printing byte as its own character, and the others as the characters from 256 on.
WRITTEN = {chr(b if b in PRINTABLE else 256 + i - len(PRINTABLE)): bytes([b]) for i, b in enumerate(BYTES)}

GPT2_MERGES = ("gpt2/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5")


class BPETokenizer:
    """GPT-2's pieces of words: bytes, joined by merges that were learned from much text (Sennrich et al. 2016).

    Every text can be encoded, because every byte is a token. `merges` are pairs of tokens, in the order in which they
    were learned; how, is the subject of a later notebook. The last token, `<|endoftext|>`, stands between two texts,
    and no text contains it: `encode` spells it out like any other word.

    >>> BPETokenizer([(b"t", b"h"), (b"th", b"e")]).encode("the hat")
    [257, 220, 71, 64, 83]
    """

    # Words with the space before them, numbers, runs of other signs, and spaces: no merge crosses these borders.
    pattern = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII)

    def __init__(self, merges: list[tuple[bytes, bytes]]):
        self.vocabulary = [bytes([b]) for b in BYTES] + [left + right for left, right in merges] + [b"<|endoftext|>"]
        self.vocab_size = len(self.vocabulary)
        self._ids = {token: i for i, token in enumerate(self.vocabulary)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known = {}  # ids of each piece met so far: the same words come again and again

    @classmethod
    def gpt2(cls) -> "BPETokenizer":
        """GPT-2's own vocabulary of 50,257 tokens (Radford et al. 2019).

        Raises FileNotFoundError when its file is not in the data folder, and ValueError when it was altered.
        """
        place, sha256 = GPT2_MERGES
        lines = read_checked(folder() / place, sha256).decode("utf-8").splitlines()[1:]  # the first names a version
        written = (line.split(" ") for line in lines)
        return cls([tuple(b"".join(WRITTEN[c] for c in token) for token in pair) for pair in written])

    @classmethod
    def split(cls, text: str) -> list[str]:
        """Cut `text` into the pieces that no merge crosses; joined again they are `text`.

        >>> BPETokenizer.split("I'll go in 1603.")
        ['I', "'ll", ' go', ' in', ' 1603', '.']
        """
        # Python's patterns have no name for 'a letter of any script'. So each character outside ASCII is replaced by
        # an ASCII character of its kind; the pattern finds the borders there, and the pieces are cut from the text.
        kinds = {ord(c): kind(c) for c in set(text) if not c.isascii()}
        return [text[found.start() : found.end()] for found in cls.pattern.finditer(text.translate(kinds))]

    def encode(self, text: str) -> list[int]:
        return [i for piece in self.split(text) for i in self._merge(piece)]

    def _merge(self, piece: str) -> list[int]:
        """Join the neighbours whose merge was learned first, until no neighbours have a merge."""
        if piece not in self._known:
            tokens = [bytes([b]) for b in piece.encode("utf-8")]
            while pairs := self._ranks.keys() & set(zip(tokens, tokens[1:])):
                tokens = join(tokens, min(pairs, key=self._ranks.get))
            self._known[piece] = [self._ids[token] for token in tokens]
        return self._known[piece]

    def decode(self, ids: Iterable[int]) -> str:
        """Bytes that are not UTF-8, such as half a character, become �.

        Raises ValueError for an id outside the vocabulary.
        """
        return b"".join(look_up(ids, self.vocabulary)).decode("utf-8", errors="replace")


def kind(character: str) -> str:
    """A letter, digit, space or sign of ASCII, to stand for a `character` outside it."""
    return "a" if character.isalpha() else "0" if character.isnumeric() else "\t" if character.isspace() else "."


def join(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Replace each `pair` of neighbours by one token, from the left.

    >>> join([b"a", b"b", b"a", b"b", b"a"], pair=(b"a", b"b"))
    [b'ab', b'ab', b'a']
    """
    joined, i = [], 0
    while i < len(tokens):
        here = tuple(tokens[i : i + 2]) == pair
        joined.append(tokens[i] + tokens[i + 1] if here else tokens[i])
        i += 2 if here else 1
    return joined
