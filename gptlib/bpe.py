"""Byte-pair encoding: the most frequent pair of neighboring tokens becomes a new token, again and again.

A text is split into pre-tokens, and these into bytes. `train_bpe` finds which pairs to merge, in which order;
`apply_merges` merges them in the same order in any other pre-token. Ids 0 to 255 are the bytes, and 256 + r is the
result of merge r. `BPETokenizer` makes a tokenizer of it, and GPT-2's byte order and file format are at the end.

Sennrich et al. 2016; on bytes, with the pattern and the byte order below, Radford et al. 2019 (GPT-2).
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from pathlib import Path

from gptlib.files import atomic_write, check_writable, data_dir, read_verified
from gptlib.tokenizers import check_encodable, tokens_of

Pair = tuple[int, int]

# Words with the space before them, numbers, runs of other symbols, and whitespace: no merge crosses these borders.
PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII)
GAP = -1  # an id for no token: the border of a pre-token, or what is left of a token merged into the one before it


def pre_tokenize(text: str) -> list[str]:
    """Split `text` into pre-tokens; joined, they are `text` again.

    >>> pre_tokenize("I'll go in 1603.")
    ['I', "'ll", ' go', ' in', ' 1603', '.']
    """
    if text.isascii():
        return PATTERN.findall(text)
    # Python's `re` has no class for the letters of all scripts, so the pattern is matched on a copy of the text in
    # which an ASCII character of the same class replaces each other character.
    classes = {ord(c): ascii_class(c) for c in set(text) if not c.isascii()}
    return [text[match.start() : match.end()] for match in PATTERN.finditer(text.translate(classes))]


def ascii_class(character: str) -> str:
    """An ASCII letter, digit, space or symbol, to represent a `character` outside ASCII."""
    return "a" if character.isalpha() else "0" if character.isnumeric() else "\t" if character.isspace() else "."


def train_bpe(pre_tokens: Mapping[str, int], n_merges: int) -> list[Pair]:
    """The first `n_merges` merges, in order, from how often each pre-token occurs; fewer when no pair is left.

    Each merge joins the most frequent pair at that point; among equals the pair with the lower first id, then the
    lower second. The time grows with the number of pairs that are merged, however long a pre-token is.

    >>> train_bpe({"abab": 1, "ab": 2}, n_merges=2)
    [(64, 65), (256, 256)]
    """
    ids, freqs = [GAP], [0]  # all pre-tokens, one after another, with a gap between them
    for pre_token, freq in pre_tokens.items():
        ids += [*byte_ids(pre_token), GAP]
        freqs += [freq] * (len(ids) - len(freqs))
    previous, following = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    counts: Counter[Pair] = Counter()
    positions = defaultdict(list)  # where each pair begins, from left to right; some may be out of date
    for i, pair in enumerate(zip(ids, ids[1:])):
        if GAP not in pair:
            counts[pair] += freqs[i]
            positions[pair].append(i)
    queue = [(-count, pair) for pair, count in counts.items()]  # the most frequent pair comes out first
    heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < n_merges:
        count, pair = heappop(queue)
        if -count != counts[pair]:  # queued before other merges used up some of these pairs
            if counts[pair]:
                heappush(queue, (-counts[pair], pair))
            continue
        (left, right), new, new_pairs = pair, 256 + len(merges), set()
        merges.append(pair)
        for i in positions.pop(pair):
            j = following[i]
            if ids[i] != left or ids[j] != right:
                continue
            before, after, freq = previous[i], following[j], freqs[i]
            ids[i], ids[j] = new, GAP
            following[i], previous[after] = after, i
            if (token := ids[before]) != GAP:
                counts[token, left] -= freq
                counts[token, new] += freq
                positions[token, new].append(before)
                new_pairs.add((token, new))
            if (token := ids[after]) != GAP:
                counts[right, token] -= freq
                counts[new, token] += freq
                positions[new, token].append(i)
                new_pairs.add((new, token))
        del counts[pair]
        for pair in new_pairs:
            if counts[pair]:  # in a run, the next merge may have used it up already
                heappush(queue, (-counts[pair], pair))
    return merges


def apply_merges(ranks: Mapping[Pair, int], ids: list[int]) -> list[int]:
    """Merge pairs in `ids` (T,), the lowest rank first and from the left, until no pair has a rank.

    A queue holds the positions where a merge is possible, so the time grows as T log T.

    >>> apply_merges({(1, 2): 0, (256, 3): 1}, [1, 2, 3, 1, 2])
    [257, 256]
    """
    queue = [(ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:]), start=1) if pair in ranks]
    if not queue:
        return list(ids)
    heapify(queue)
    ids = [GAP, *ids, GAP]
    previous, following = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    while queue:
        rank, i = heappop(queue)
        j = following[i]
        if ranks.get((ids[i], ids[j])) != rank:  # one of the two has been merged with another since
            continue
        before, after = previous[i], following[j]
        ids[i], ids[j] = 256 + rank, GAP
        following[i], previous[after] = after, i
        for left, right in ((before, i), (i, after)):
            if (next_rank := ranks.get((ids[left], ids[right]))) is not None:
                heappush(queue, (next_rank, left))
    return [token for token in ids if token != GAP]


# GPT-2 numbers the printable bytes first. Its files write these as their own characters, the others as U+0100 onward.
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTES = PRINTABLE + sorted(set(range(256)) - set(PRINTABLE))
BYTE_TO_ID = {byte: i for i, byte in enumerate(BYTES)}
BYTE_TO_UNICODE = {byte: chr(byte if byte in PRINTABLE else 256 + i - len(PRINTABLE)) for i, byte in enumerate(BYTES)}
UNICODE_TO_BYTE = {character: byte for byte, character in BYTE_TO_UNICODE.items()}

GPT2_MERGES = ("gpt2/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5")
END_OF_TEXT = "<|endoftext|>"
HEADER = "#version: 0.2"
CACHE_SIZE = 2**16  # pre-tokens whose ids are kept: more than the different words of most texts


def byte_ids(text: str) -> list[int]:
    """The ids of the UTF-8 bytes of `text`.

    >>> byte_ids("hé")
    [71, 127, 102]
    """
    return [BYTE_TO_ID[byte] for byte in text.encode("utf-8")]


class BPETokenizer:
    """A tokenizer of bytes, `merges` (pairs of tokens, in order) and special tokens, whose ids follow in this order.

    Every text can be encoded. A special token is spelled out like other text unless `encode` is told to allow it.

    >>> BPETokenizer([(b"t", b"h"), (b"th", b"e")]).encode("the hat")
    [257, 220, 71, 64, 83]
    """

    def __init__(self, merges: Iterable[tuple[bytes, bytes]], special_tokens: Iterable[str] = (END_OF_TEXT,)):
        self.vocabulary = [bytes([byte]) for byte in BYTES]
        id_of, self._ranks = {token: i for i, token in enumerate(self.vocabulary)}, dict[Pair, int]()
        for rank, (left, right) in enumerate(merges):
            if left not in id_of or right not in id_of or left + right in id_of:
                raise ValueError(
                    f"merge {rank} (line {rank + 2} of a file) joins {left!r} and {right!r}: each must be a byte or "
                    "the result of an earlier merge, and the result must be new. Keep all merges in order"
                )
            self._ranks[id_of[left], id_of[right]] = rank
            id_of[left + right] = len(self.vocabulary)
            self.vocabulary.append(left + right)
        self.special_tokens = check_special_tokens(special_tokens)
        self._special = {name: len(self.vocabulary) + i for i, name in enumerate(self.special_tokens)}
        self.vocabulary += [name.encode("utf-8") for name in self.special_tokens]
        self.vocab_size = len(self.vocabulary)
        self._cache: dict[str, list[int]] = {}  # the same words occur again and again

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Iterable[str] = (END_OF_TEXT,)) -> "BPETokenizer":
        """Learn as many merges from `text` as make `vocab_size` tokens, bytes and special tokens included."""
        special_tokens = check_special_tokens(special_tokens)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise ValueError(
                f"vocab_size must be at least {vocab_size - n_merges}, 256 bytes and {len(special_tokens)} special "
                f"tokens; got {vocab_size}"
            )
        check_encodable(text)
        pairs = train_bpe(Counter(pre_tokenize(text)), n_merges)
        if len(pairs) < n_merges:
            raise ValueError(
                f"after {len(pairs)} merges every pre-token is one token, but {n_merges} merges were asked for: "
                f"use a longer text, or a vocab_size of at most {vocab_size - n_merges + len(pairs)}"
            )
        tokens = [bytes([byte]) for byte in BYTES]
        for left, right in pairs:
            tokens.append(tokens[left] + tokens[right])
        return cls([(tokens[left], tokens[right]) for left, right in pairs], special_tokens)

    @classmethod
    def gpt2(cls) -> "BPETokenizer":
        """GPT-2's vocabulary of 50,257 tokens, from the data folder."""
        file, sha256 = GPT2_MERGES
        return cls(read_merges(read_verified(data_dir() / file, sha256)))

    @classmethod
    def load(cls, path: str | Path, special_tokens: Iterable[str] | None = None) -> "BPETokenizer":
        """Read the merges at `path`, and the special tokens from the `vocab.json` or `tokenizer.json` beside it.

        Raises ValueError for a damaged file, and when ids could be wrong: without either file (unless it is GPT-2's,
        or `special_tokens` are given), or when the ids in that file are not in the order bytes, merges, special tokens.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of merges at {path}: give the path that `save` was given")
        content = path.read_bytes()
        try:
            merges = read_merges(content)
            if special_tokens is None and hashlib.sha256(content).hexdigest() == GPT2_MERGES[1]:
                special_tokens = [END_OF_TEXT]
            if special_tokens is not None:
                return cls(merges, special_tokens)
            vocab = read_vocab(path.parent)
            tokenizer = cls(merges, sorted(vocab, key=lambda token: vocab[token])[256 + len(merges) :])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if (expected := tokenizer._vocab()) != vocab:
            token = next((t for t in expected if vocab.get(t) != expected[t]), "")
            raise ValueError(
                f"{path}: the vocabulary beside it gives {token!r} the id {vocab.get(token)}, but the merges give it "
                f"{expected.get(token)}. Ids must be 256 bytes in GPT-2's order, then the merges, then special tokens"
            )
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write the merges to `path` in the format of GPT-2's `vocab.bpe`, and all ids to the `vocab.json` beside it.

        Hugging Face reads the two as well. Each is written atomically, and `load` refuses two that do not match.
        """
        path, vocab, tokens = Path(path), self._vocab(), [written(token) for token in self.vocabulary]
        check_writable(path)
        if len(vocab) < self.vocab_size or path.name == "vocab.json":
            raise ValueError("a special token is spelled like another token, or the merges' own file is vocab.json")
        lines = [HEADER, *(f"{tokens[left]} {tokens[right]}" for left, right in self._ranks), ""]
        ids = json.dumps(vocab, ensure_ascii=False, indent=1) + "\n"
        atomic_write(path.with_name("vocab.json"), lambda new: new.write_bytes(ids.encode("utf-8")))
        atomic_write(path, lambda new: new.write_bytes("\n".join(lines).encode("utf-8")))

    def _vocab(self) -> dict[str, int]:
        """The ids as `vocab.json` has them: token, as GPT-2's files write it, to id."""
        plain = self.vocabulary[: self.vocab_size - len(self.special_tokens)]
        return {token: i for i, token in enumerate([*map(written, plain), *self.special_tokens])}

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of `text`. Special tokens in `allowed_special` become their ids; the others are spelled out."""
        check_encodable(text)
        allowed = sorted(allowed_special, key=len, reverse=True)  # where two begin alike, the longer one matches
        for name in allowed:
            if name not in self._special:
                raise ValueError(f"{name!r} is no special token; allowed_special takes a list of {self.special_tokens}")
        parts = re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]
        ids: list[int] = []
        for part in parts:
            if part in allowed:
                ids.append(self._special[part])
            else:
                for pre_token in pre_tokenize(part):
                    ids += self._cache.get(pre_token) or self._encode_pre_token(pre_token)
        return ids

    def _encode_pre_token(self, pre_token: str) -> list[int]:
        if len(self._cache) == CACHE_SIZE:
            self._cache.clear()
        self._cache[pre_token] = apply_merges(self._ranks, byte_ids(pre_token))
        return self._cache[pre_token]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (T,); bytes that are not UTF-8, such as a part of a character, become �."""
        return b"".join(tokens_of(ids, self.vocabulary)).decode("utf-8", errors="replace")


def check_special_tokens(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """`special_tokens` as a tuple; raises ValueError unless they are a list of different names."""
    names = tuple(special_tokens)
    if isinstance(special_tokens, str) or "" in names or len(set(names)) < len(names):
        raise ValueError(f"special_tokens is a list of different names, got {special_tokens!r}")
    check_encodable("".join(names))
    return names


def written(token: bytes) -> str:
    """A token as GPT-2's files write it: b" the" -> "Ġthe"."""
    return "".join(BYTE_TO_UNICODE[byte] for byte in token)


def read_merges(content: bytes) -> list[tuple[bytes, bytes]]:
    """The merges in a file; raises ValueError, with the line, when the file is damaged."""
    header, *lines = content.decode("utf-8", errors="replace").split("\n")
    if not header.startswith(HEADER):
        raise ValueError(f"line 1 is {header[:40]!r}, but a file of merges begins with {HEADER!r}")
    if not lines or lines[-1]:
        raise ValueError(f"line {len(lines) + 1} does not end with a newline: the file was cut short. Save it again")
    merges = []
    for number, line in enumerate(lines[:-1], start=2):
        try:
            left, right = (bytes(UNICODE_TO_BYTE[character] for character in token) for token in line.split(" "))
        except (KeyError, ValueError):
            raise ValueError(f"line {number} is {line!r}, but a merge is two tokens with one space between") from None
        merges.append((left, right))
    return merges


def read_vocab(folder: Path) -> dict[str, int]:
    """Token to id, from `vocab.json` or from Hugging Face's `tokenizer.json`."""
    try:
        if (folder / "vocab.json").is_file():
            return dict(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
        stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return stored["model"]["vocab"] | {token["content"]: token["id"] for token in stored["added_tokens"]}
    except (OSError, KeyError, TypeError, ValueError):
        raise ValueError(
            "the ids of its special tokens are unknown: a vocab.json or tokenizer.json of Hugging Face is missing or "
            "damaged beside it. Restore it, or pass special_tokens=[…] if they come after all merges"
        ) from None
