"""Tokenizers: text to token ids and back.

`CharTokenizer` knows each character of one text. `WordTokenizer` knows whole words, and gives every other word the
same unknown token. `BPETokenizer` knows pieces of words, made of bytes, so that no text is unknown to it.
Each has `encode(str) -> list[int]`, `decode(ids) -> str`, `vocab_size`, and `vocabulary`, its tokens in the order of
their ids.
"""

import json
import operator
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gptlib import bpe
from gptlib.files import check_file, folder, read_checked, write_whole


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


GPT2_MERGES = ("gpt2/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5")
END_OF_TEXT = "<|endoftext|>"
HEADER = "#version: 0.2 "  # the first line of GPT-2's file, which its readers skip; ours names the special tokens there
READ = {character: bytes([byte]) for byte, character in bpe.WRITTEN.items()}
REMEMBERED = 2**16  # pieces whose ids are kept, more than there are different words in most texts


class BPETokenizer:
    """Pieces of words, made of bytes, so that no text is unknown (Sennrich et al. 2016, Radford et al. 2019).

    `merges` are pairs of tokens, in the order in which they were learned: `train` learns them from a text, `load` reads
    them from a file, and `gpt2` takes GPT-2's own. The ids count the 256 bytes, then what each merge makes, then the
    special tokens, which stand for no text: `encode` spells their names out like other words unless they are allowed.
    Raises ValueError for a merge of tokens that no merge before it makes, or of a pair that is there twice.

    >>> BPETokenizer([(b"t", b"h"), (b"th", b"e")]).encode("the hat")
    [257, 220, 71, 64, 83]
    """

    def __init__(self, merges: Iterable[tuple[bytes, bytes]], special_tokens: Iterable[str] = (END_OF_TEXT,)):
        self.vocabulary = [bytes([b]) for b in bpe.BYTES]
        numbers, self._ranks = {token: i for i, token in enumerate(self.vocabulary)}, {}
        for rank, (left, right) in enumerate(merges):
            if not (left in numbers and right in numbers) or left + right in numbers:
                raise ValueError(
                    f"merge {rank} (line {rank + 2} of a file) joins {left!r} and {right!r}: each must be a byte, or "
                    "made by a merge before it, and what they make must be new. Keep all merges, in the order in which "
                    "they were learned"
                )
            self._ranks[numbers[left], numbers[right]] = rank
            numbers[left + right] = len(self.vocabulary)
            self.vocabulary.append(left + right)
        self.special_tokens = list_names(special_tokens)
        self._special = {name: len(self.vocabulary) + i for i, name in enumerate(self.special_tokens)}
        self.vocabulary += [name.encode("utf-8") for name in self.special_tokens]
        self.vocab_size = len(self.vocabulary)
        self._known: dict[str, list[int]] = {}  # the same words come again and again

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Iterable[str] = (END_OF_TEXT,)) -> "BPETokenizer":
        """Learn merges from `text` until bytes, merges and special tokens together are `vocab_size`.

        Each merge joins the pair that is the commonest then; among equals, the pair whose first token is the older one,
        then whose second is. Raises ValueError when `vocab_size` leaves no room, or the text has too few pairs to join.
        """
        special_tokens = list_names(special_tokens)
        wanted = vocab_size - len(bpe.BYTES) - len(special_tokens)
        if wanted < 0:
            raise ValueError(
                f"vocab_size must be at least {vocab_size - wanted}, 256 bytes and {len(special_tokens)} special "
                f"tokens; got {vocab_size}"
            )
        check_characters(text)
        pairs = bpe.learn(Counter(bpe.split(text)), wanted)
        if len(pairs) < wanted:
            raise ValueError(
                f"after {len(pairs)} merges every piece of the text is one token, and {wanted} merges were asked for: "
                f"use a longer text, or a vocab_size of at most {vocab_size - wanted + len(pairs)}"
            )
        tokens = [bytes([b]) for b in bpe.BYTES]
        for left, right in pairs:
            tokens.append(tokens[left] + tokens[right])
        return cls([(tokens[left], tokens[right]) for left, right in pairs], special_tokens)

    @classmethod
    def gpt2(cls) -> "BPETokenizer":
        """GPT-2's own vocabulary of 50,257 tokens.

        Raises FileNotFoundError when its file is not in the data folder, and ValueError when it was altered.
        """
        place, sha256 = GPT2_MERGES
        return cls(*read_merges(read_checked(folder() / place, sha256)))

    @classmethod
    def load(cls, path: str | Path) -> "BPETokenizer":
        """The tokenizer that `save` wrote, or GPT-2's file of merges, or another in its format.

        Raises FileNotFoundError when there is no such file, and ValueError, naming the line, when it is damaged. A file
        that lacks whole lines at its end is a smaller vocabulary, like any other.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no file of merges at {path}: give the path of one that `save` wrote")
        try:
            return cls(*read_merges(path.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the merges to `path`, one a line, in the format of GPT-2's `vocab.bpe`; whole or not at all.

        A space is written Ġ and a newline Ċ there, so that every line is two words. Raises FileNotFoundError when the
        folder does not exist, IsADirectoryError when `path` is one, and OSError when there is no room.
        """
        check_file(path)
        tokens = ["".join(bpe.WRITTEN[b] for b in token) for token in self.vocabulary]
        lines = [HEADER + json.dumps(self.special_tokens, ensure_ascii=False)]
        lines += [f"{tokens[left]} {tokens[right]}" for left, right in self._ranks]
        write_whole(path, lambda new: new.write_bytes("".join(line + "\n" for line in lines).encode("utf-8")))

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of `text`. A special token becomes its one id when it is allowed, and is spelled out otherwise.

        Raises ValueError for half a character (a lone surrogate), which has no bytes, and for an allowed token that is
        none of `special_tokens`.
        """
        check_characters(text)
        allowed = sorted(allowed_special, key=len, reverse=True)  # where two begin alike, the longer one is meant
        for name in allowed:
            if name not in self._special:
                raise ValueError(f"{name!r} is no special token; allowed_special takes a list of {self.special_tokens}")
        parts = re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]
        ids = []
        for part in parts:
            if part in allowed:
                ids.append(self._special[part])
            else:
                for piece in bpe.split(part):
                    ids += self._known.get(piece) or self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        if len(self._known) == REMEMBERED:
            self._known.clear()
        self._known[piece] = bpe.apply(self._ranks, bpe.bytes_of(piece))
        return self._known[piece]

    def decode(self, ids: Iterable[int]) -> str:
        """Bytes that are not UTF-8, such as half a character, become �.

        Raises ValueError for an id outside the vocabulary.
        """
        return b"".join(look_up(ids, self.vocabulary)).decode("utf-8", errors="replace")


def list_names(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """Raises ValueError when two are the same, one is empty, or a single name is given in place of a list."""
    names = tuple(special_tokens)
    if isinstance(special_tokens, str) or "" in names or len(set(names)) < len(names):
        raise ValueError(f"special_tokens is a list of different names, got {special_tokens!r}")
    return names


def check_characters(text: str) -> None:
    """Raises ValueError, saying where, for half of a pair of surrogates: a character number that stands for nothing."""
    if found := re.search("[\ud800-\udfff]", text):
        raise ValueError(
            f"{found[0]!r} at position {found.start()} is half a character (a lone surrogate) and has no bytes: "
            "take it out, or read the text again with the right encoding"
        )


def read_merges(content: bytes) -> tuple[list[tuple[bytes, bytes]], list[str]]:
    """The merges and the special tokens of a file of merges; raises ValueError, naming the line, when it is damaged."""
    header, *lines = content.decode("utf-8", errors="replace").split("\n")
    if not header.startswith(HEADER.strip()):
        raise ValueError(f"line 1 is {header[:40]!r}, but a file of merges begins with {HEADER.strip()!r}")
    if not lines or lines[-1]:
        raise ValueError(f"line {len(lines) + 1} ends without a newline: the file was cut short. Save it again")
    merges = []
    for number, line in enumerate(lines[:-1], start=2):
        try:
            left, right = (b"".join(READ[character] for character in token) for token in line.split(" "))
        except (KeyError, ValueError):
            raise ValueError(f"line {number} is {line!r}, but a merge is two tokens with one space between") from None
        merges.append((left, right))
    return merges, read_special_tokens(header)


def read_special_tokens(header: str) -> list[str]:
    """The names in the first line of a file of merges; GPT-2's own file names none there, and has one."""
    if not header.startswith(HEADER + "["):
        return [END_OF_TEXT]
    try:
        names = json.loads(header.removeprefix(HEADER))
        "".join(names).encode("utf-8")  # each is a text, and can be written
    except (TypeError, ValueError):
        raise ValueError(f"line 1 is {header!r}, but special tokens are a list of names in quotes") from None
    return names
