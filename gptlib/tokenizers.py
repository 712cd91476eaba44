"""Tokenizers: text to token ids and back, by characters or by words (`bpe` has byte-pair encoding).

Each has `encode(str) -> list[int]`, `decode(ids) -> str`, `vocab_size`, and `vocabulary`, its tokens in order of id.
"""

import operator
import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

Token = TypeVar("Token", str, bytes)


class CharTokenizer:
    """One token for each distinct character of `text`, in the order of their code points.

    >>> CharTokenizer("banana").encode("nab")
    [2, 0, 1]
    """

    def __init__(self, text: str):
        check_encodable(text)
        if not text:
            raise ValueError("a tokenizer needs a text to build its vocabulary from, got an empty one")
        self.vocabulary = sorted(set(text))
        self.vocab_size = len(self.vocabulary)
        self._ids = {character: i for i, character in enumerate(self.vocabulary)}

    @classmethod
    def from_vocabulary(cls, vocabulary: list[str]) -> "CharTokenizer":
        """The tokenizer with this vocabulary, as saved beside a model."""
        tokenizer = cls("".join(vocabulary))
        if tokenizer.vocabulary != list(vocabulary):
            raise ValueError("a vocabulary of characters holds each of them once, in the order of their code points")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        check_encodable(text)
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            at = next(i for i, character in enumerate(text) if character not in self._ids)
            raise ValueError(f"{text[at]!r} at position {at} is not in the vocabulary of {self.vocab_size}") from None

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(tokens_of(ids, self.vocabulary))


class WordTokenizer:
    """One token for each of the most frequent words of `text`, and for each character that is not part of a word.

    A word is a run of letters, digits and underscores. Id 0 is `<unk>`, the unknown token, which stands for all others.

    >>> WordTokenizer("to be or not to be", max_vocab=4).decode([1, 2, 1, 3, 0])
    ' be to<unk>'
    """

    unknown = "<unk>"

    def __init__(self, text: str, max_vocab: int | None = None):
        check_encodable(text)
        if not text:
            raise ValueError("a tokenizer needs a text to build its vocabulary from, got an empty one")
        if max_vocab is not None and max_vocab < 2:
            raise ValueError(f"max_vocab must be at least 2, the unknown token and one word; got {max_vocab}")
        counts = Counter(self.split(text))
        by_count = sorted(counts, key=lambda word: (-counts[word], word))  # equal counts: alphabetical
        self._set_vocabulary([self.unknown, *by_count][:max_vocab])

    @classmethod
    def from_vocabulary(cls, vocabulary: list[str]) -> "WordTokenizer":
        if list(vocabulary[:1]) != [cls.unknown] or len(set(vocabulary)) < len(vocabulary):
            raise ValueError(f"a vocabulary of words holds {cls.unknown} first, then each word once")
        check_encodable("".join(vocabulary))
        tokenizer = cls.__new__(cls)
        tokenizer._set_vocabulary(list(vocabulary))
        return tokenizer

    def _set_vocabulary(self, vocabulary: list[str]) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self._ids = {word: i for i, word in enumerate(vocabulary)}

    @staticmethod
    def split(text: str) -> list[str]:
        """Words and single other characters; joined, they are `text` again: "I'll" -> ["I", "'", "ll"]."""
        return re.findall(r"\w+|\W", text)

    def encode(self, text: str) -> list[int]:
        check_encodable(text)
        return [self._ids.get(word, 0) for word in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(tokens_of(ids, self.vocabulary))


def tokens_of(ids: Iterable[int], vocabulary: list[Token]) -> list[Token]:
    """The tokens of `ids` (T,), a list, array or tensor of integers; raises ValueError for an id that is none."""
    if getattr(ids, "ndim", 1) != 1:
        raise ValueError(f"ids have shape {tuple(ids.shape)}, but one sequence (T,) is decoded at a time: pass one row")  # type: ignore[attr-defined]
    try:
        numbers = [operator.index(i) for i in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    except TypeError:
        raise TypeError(f"decode takes a sequence of integer token ids, got {type(ids).__name__} {ids!r:.60}") from None
    for position, i in enumerate(numbers):
        if not 0 <= i < len(vocabulary):
            raise ValueError(f"token id {i} at position {position} is outside the vocabulary 0…{len(vocabulary) - 1}")
    return [vocabulary[i] for i in numbers]


def check_encodable(text: str) -> None:
    """Raises TypeError for anything but text, and ValueError for a lone surrogate, which UTF-8 cannot encode."""
    if not isinstance(text, str):
        raise TypeError(f"a tokenizer encodes text, got {type(text).__name__}: pass a str (ids are for decode)")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!r} at position {error.start} is half a character (a lone surrogate)"
        raise ValueError(f"{half}: read the text again with the right encoding") from None
