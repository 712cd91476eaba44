"""Byte-pair encoding: merge the most frequent pair of neighboring tokens into a new token, again and again.

A text is split into pre-tokens, and these into bytes. `train_bpe` finds the merges, and `apply_merges` repeats them in
the same order in any other pre-token. Ids 0 to 255 are the bytes, and 256 + r is the result of merge r.

Sennrich et al. 2016; on bytes, with the pattern and the byte order below, Radford et al. 2019 (GPT-2).
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from pathlib import Path

from gptlib.files import atomic_write, data_dir, read_verified
from gptlib.tokenizers import check_encodable, tokens_of

Pair = tuple[int, int]
# Words with the space before them, numbers, runs of other symbols, and whitespace: no merge crosses these borders.
PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII)
BORDER = re.compile(r".*\S(?=[ \n])", re.DOTALL)  # up to the last space or newline that follows something else
GAP = -1  # an id for no token: the border of a pre-token, or what is left of a token merged into the one before it


def pre_tokenize(text: str) -> list[str]:
    """Split `text` into pre-tokens; joined, they are `text` again: "I'll go." -> ["I", "'ll", " go", "."]."""
    if text.isascii():
        return PATTERN.findall(text)
    # Python's `re` has no class for the letters of all scripts, so the pattern is matched on a copy of the text in
    # which an ASCII character of the same class replaces each other character.
    classes = {ord(c): ascii_class(c) for c in set(text) if not c.isascii()}
    return [text[match.start() : match.end()] for match in PATTERN.finditer(text.translate(classes))]


def pieces(chunks: Iterable[str]) -> Iterator[str]:
    """The text of `chunks`, cut where a space or newline follows something else: no tokenizer has a token across."""
    rest = ""
    for chunk in chunks:
        searched, rest = max(len(rest) - 1, 0), rest + chunk
        if border := BORDER.match(rest, searched):
            yield rest[: border.end()]
            rest = rest[border.end() :]
    yield rest


def ascii_class(character: str) -> str:
    """An ASCII letter, digit, space or symbol, to represent a `character` outside ASCII."""
    return "a" if character.isalpha() else "0" if character.isnumeric() else "\t" if character.isspace() else "."


def train_bpe(pre_tokens: Mapping[str, int], n_merges: int) -> list[Pair]:
    """The first `n_merges` merges, in order, from how often each pre-token occurs; fewer when no pair is left.

    Each merge joins the most frequent pair at that point; ties go to the lower first id, then to the lower second:
    {"abab": 1, "ab": 2} -> [(64, 65), (256, 256)], where 64 and 65 are a and b.
    """
    ids, freqs = [GAP], [0]  # all pre-tokens, one after another, with a gap between them
    for pre_token, freq in pre_tokens.items():
        ids += [*byte_ids(pre_token), GAP]
        freqs += [freq] * (len(ids) - len(freqs))
    previous, following = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    counts: Counter[Pair] = Counter()
    positions = defaultdict(list)  # where each pair begins, from left to right; some may be out of date
    for i, pair in enumerate(zip(ids, ids[1:])):
        counts[pair] += freqs[i]
        positions[pair].append(i)
    queue = sorted((-count, pair) for pair, count in counts.items() if GAP not in pair)  # a heap: most frequent first
    merges: list[Pair] = []
    while queue and queue[0][0] < 0 and len(merges) < n_merges:
        count, pair = heappop(queue)
        if -count != counts[pair]:  # earlier merges used up some of these pairs: put it back with its present count
            heappush(queue, (-counts[pair], pair))
            continue
        new, new_pairs = 256 + len(merges), set()
        merges.append(pair)
        for i in positions.pop(pair):
            j = following[i]
            if (ids[i], ids[j]) != pair:
                continue
            for start in previous[i], j:  # the neighbors' pairs with the two tokens
                counts[ids[start], ids[following[start]]] -= freqs[i]
            ids[i], ids[j] = new, GAP
            following[i], previous[following[j]] = following[j], i
            for start in previous[i], i:  # and with the new token
                neighbors = ids[start], ids[following[start]]
                counts[neighbors] += freqs[i]
                positions[neighbors].append(start)
                new_pairs.add(neighbors)
        for pair in new_pairs:
            if GAP not in pair:
                heappush(queue, (-counts[pair], pair))
    return merges


def apply_merges(ranks: Mapping[Pair, int], ids: list[int]) -> list[int]:
    """Merge pairs in `ids` (T,), the lowest rank first and from the left, until no pair has a rank; takes T log T time.

    Ranks {(1, 2): 0, (256, 3): 1} and ids [1, 2, 3, 1, 2] -> [257, 256].
    """
    queue = sorted((ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:]), start=1) if pair in ranks)
    ids = [GAP, *ids, GAP]
    previous, following = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    while queue:
        rank, i = heappop(queue)
        j = following[i]
        if ranks.get((ids[i], ids[j])) != rank:  # one of the two has been merged with another since
            continue
        ids[i], ids[j] = 256 + rank, GAP
        following[i], previous[following[j]] = following[j], i
        for start in previous[i], i:
            if (next_rank := ranks.get((ids[start], ids[following[start]]))) is not None:
                heappush(queue, (next_rank, start))
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
    """The ids of the UTF-8 bytes of `text`: "hé" -> [71, 127, 102]."""
    return [BYTE_TO_ID[byte] for byte in text.encode("utf-8")]


class BPETokenizer:
    """A tokenizer whose ids are the bytes, then the results of `merges` (pairs of tokens), then the special tokens.

    >>> BPETokenizer([(b"t", b"h"), (b"th", b"e")]).encode("the hat")
    [257, 220, 71, 64, 83]
    """

    def __init__(self, merges: Iterable[tuple[bytes, bytes]], special_tokens: Iterable[str] = (END_OF_TEXT,)):
        self.vocabulary = [bytes([byte]) for byte in BYTES]
        id_of, self._ranks = {token: i for i, token in enumerate(self.vocabulary)}, dict[Pair, int]()
        for rank, (left, right) in enumerate(merges):
            if left not in id_of or right not in id_of or left + right in id_of:
                raise ValueError(f"merge {rank} of {left!r} and {right!r} does not make a new token from earlier ones")
            self._ranks[id_of[left], id_of[right]] = rank
            id_of[left + right] = len(self.vocabulary)
            self.vocabulary.append(left + right)
        self.special_tokens = tuple(special_tokens)
        if isinstance(special_tokens, str) or len({"", *self.special_tokens}) <= len(self.special_tokens):
            raise ValueError(f"special_tokens is a list of different names, got {special_tokens!r}")
        check_encodable("".join(self.special_tokens))
        self._special = {name: len(self.vocabulary) + i for i, name in enumerate(self.special_tokens)}
        self.vocabulary += [name.encode("utf-8") for name in self.special_tokens]
        self.vocab_size = len(self.vocabulary)
        self._cache: dict[str, list[int]] = {}  # the same words occur again and again

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Iterable[str] = (END_OF_TEXT,)) -> "BPETokenizer":
        """Learn merges from `text` until there are `vocab_size` tokens, with the bytes and the special tokens."""
        check_encodable(text)
        untrained = cls([], special_tokens)
        n_merges = vocab_size - untrained.vocab_size
        if n_merges < 0:
            raise ValueError(f"vocab_size is {vocab_size}, but bytes and special tokens are {untrained.vocab_size}")
        pairs = train_bpe(Counter(pre_tokenize(text)), n_merges)
        if len(pairs) < n_merges:
            most = untrained.vocab_size + len(pairs)
            raise ValueError(f"this text has only {len(pairs)} merges: use a longer one, or a vocab_size of {most}")
        tokens = untrained.vocabulary[:256]
        for left, right in pairs:
            tokens.append(tokens[left] + tokens[right])
        return cls([(tokens[left], tokens[right]) for left, right in pairs], untrained.special_tokens)

    @classmethod
    def gpt2(cls) -> "BPETokenizer":
        """GPT-2's vocabulary of 50,257 tokens, from the data folder."""
        return cls(read_merges(read_verified(data_dir() / GPT2_MERGES[0], GPT2_MERGES[1])))

    @classmethod
    def load(cls, path: str | Path, special_tokens: Iterable[str] | None = None) -> "BPETokenizer":
        """Read what `save` wrote; merges without a `vocab.json` need `special_tokens`, unless they are GPT-2's own."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no file of merges at {path}: pass the path of one that `save` wrote")
        content = path.read_bytes()
        merges, vocab = read_merges(content), path.with_name("vocab.json")
        if special_tokens is None and hashlib.sha256(content).hexdigest() == GPT2_MERGES[1]:
            special_tokens = (END_OF_TEXT,)
        if special_tokens is not None:
            return cls(merges, special_tokens)
        if not vocab.is_file():
            raise ValueError(f"there is no vocab.json beside {path}: pass special_tokens=[…], in order of their ids")
        ids = json.loads(vocab.read_text(encoding="utf-8"))
        tokenizer = cls(merges, sorted(ids, key=ids.get)[256 + len(merges) :])
        for i, token in enumerate(tokenizer._written()):
            if ids.get(token) != i:
                raise ValueError(f"{vocab} gives {token!r} the id {ids.get(token)}, but {path.name} gives it {i}")
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write the merges to `path` in the format of GPT-2's `vocab.bpe`, and all ids to `vocab.json` beside it."""
        path, tokens = Path(path), self._written()
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) < len(tokens) or path.name == "vocab.json":
            raise ValueError("a special token is written like another token, or the merges would replace vocab.json")
        lines = [HEADER, *(f"{tokens[left]} {tokens[right]}" for left, right in self._ranks), ""]
        atomic_write(path, lambda new: new.write_bytes("\n".join(lines).encode("utf-8")))
        content = (json.dumps(ids, ensure_ascii=False, indent=1) + "\n").encode("utf-8")
        atomic_write(path.with_name("vocab.json"), lambda new: new.write_bytes(content))

    def _written(self) -> list[str]:
        """The tokens in order of id, as GPT-2's files write them: b" the" -> "Ġthe"."""
        plain = self.vocabulary[: self.vocab_size - len(self.special_tokens)]
        return ["".join(BYTE_TO_UNICODE[byte] for byte in token) for token in plain] + list(self.special_tokens)

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of any `text`; a special token is encoded like other text unless it is in `allowed_special`."""
        check_encodable(text)
        allowed = sorted(allowed_special, key=len, reverse=True)  # where two begin alike, the longer one matches
        if unknown := [name for name in allowed if name not in self._special]:
            raise ValueError(f"{unknown[0]!r} is no special token; allowed_special is a list of {self.special_tokens}")
        parts = re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]
        ids: list[int] = []
        for part in parts:
            if part in allowed:
                ids.append(self._special[part])
                continue
            for pre_token in pre_tokenize(part):
                if pre_token not in self._cache:
                    if len(self._cache) == CACHE_SIZE:
                        self._cache.clear()
                    self._cache[pre_token] = apply_merges(self._ranks, byte_ids(pre_token))
                ids += self._cache[pre_token]
        return ids

    def encode_iterable(self, chunks: Iterable[str]) -> Iterator[list[int]]:
        """The ids of a text that arrives in `chunks`, some at a time: joined, they are those of the whole text."""
        return map(self.encode, pieces(chunks))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (T,); bytes that are not UTF-8, such as a part of a character, become �."""
        return b"".join(tokens_of(ids, self.vocabulary)).decode("utf-8", errors="replace")


def read_merges(content: bytes) -> list[tuple[bytes, bytes]]:
    """The merges in a file; raises ValueError that names the first damaged line."""
    merges, lines = [], content.decode("utf-8", errors="replace").split("\n")
    if not lines[0].startswith(HEADER) or lines[-1]:
        raise ValueError(f"a file of merges begins with {HEADER!r} and ends with a newline: this file is damaged")
    for number, line in enumerate(lines[1:-1], start=2):
        try:
            left, right = (bytes(UNICODE_TO_BYTE[character] for character in token) for token in line.split(" "))
        except (KeyError, ValueError):
            raise ValueError(f"line {number} is {line!r}, but a merge is two tokens with one space between") from None
        merges.append((left, right))
    return merges
