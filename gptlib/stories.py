"""stories15M, Andrej Karpathy's small model of children's stories, as a ModernGPT, and Llama's SentencePiece tokenizer.

The model has Llama's architecture and was trained on TinyStories (Eldan & Li 2023). Its GGUF file is in the data folder
and is read by the functions of `smollm2`; the tokenizer differs. `bpe` merges bytes, in the order in which the merges
were learned. SentencePiece (Kudo & Richardson 2018) merges characters, and each token has a score instead: of the
neighbors that are a token together, those with the highest score are merged first.
"""

import re
from collections.abc import Iterable
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from gptlib.bpe import CACHE_SIZE
from gptlib.files import data_dir, read_verified
from gptlib.modern import ModernGPT
from gptlib.smollm2 import check_fields, read_gguf, read_model
from gptlib.tokenizers import check_encodable, tokens_of

FILE = ("stories15M/stories15M.gguf", "584a72955c88cae4dc9103ad5af59f81d957a46fcb8972b7488572826375b388")
SPACE = "▁"  # how SentencePiece writes a space
NORMAL, CONTROL, BYTE = 1, 3, 6  # kinds of tokens


def load(path: str | Path | None = None) -> tuple[ModernGPT, "SentencePieceTokenizer"]:
    """The model (float32, on the CPU, in evaluation mode) and the tokenizer, from the data folder or another file.

    Raises FileNotFoundError, and ValueError for a file that is damaged or of another kind.
    """
    if path is None:
        path = data_dir() / FILE[0]
        read_verified(path, FILE[1])
    try:
        fields, tensors = read_gguf(path)
        check_fields(fields, {"general.architecture": "llama", "tokenizer.ggml.model": "llama"})
        return read_model(path, fields, tensors), SentencePieceTokenizer(fields)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} cannot be loaded ({error!r:.200}): it is damaged, or of another kind") from error


def merge_by_score(scores: dict[str, float], text: str) -> list[str]:
    """Merge neighbors that are a token together, the highest score first and from the left; takes T log T time.

    Scores {"ab": -2, "bc": -1, "abc": -3} and "abcab" -> ["abc", "ab"]: first a, bc, a, b.
    """
    parts = [*text, ""]  # a part that was merged into the one before it becomes ""
    previous, following = list(range(-1, len(text))), list(range(1, len(text) + 2))
    queue = sorted(
        (-scores[pair], i, pair) for i, pair in enumerate(map(str.__add__, text, text[1:])) if pair in scores
    )
    while queue:
        _, i, token = heappop(queue)
        j = following[i]
        if not (parts[i] and parts[j]) or parts[i] + parts[j] != token:  # one of the two was merged with another since
            continue
        parts[i], parts[j] = token, ""
        following[i], previous[following[j]] = following[j], i
        for start in previous[i], i:
            if start >= 0 and (pair := parts[start] + parts[following[start]]) in scores:
                heappush(queue, (-scores[pair], start, pair))
    return [part for part in parts if part]


class SentencePieceTokenizer:
    """Merges characters by the scores of a file's tokens; a character that is no token becomes its UTF-8 bytes.

    `encode` puts a space before a text and after each special token, so that a word is the same token there as between
    other words, and `decode` leaves it out. The character ▁ (U+2581) becomes a space.
    """

    def __init__(self, fields: dict[str, Any]):
        tokens, scores, kinds = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
        self.scores = {token: score for token, score, kind in zip(tokens, scores, kinds) if kind == NORMAL}
        self._ids = {token: i for i, token in enumerate(tokens)}
        self.special_tokens = tuple(token for token, kind in zip(tokens, kinds) if kind == CONTROL)
        self.vocabulary = [
            bytes([int(token[3:5], 16)]) if kind == BYTE else token.replace(SPACE, " ").encode("utf-8")
            for token, kind in zip(tokens, kinds)
        ]
        self.vocab_size = len(tokens)
        self._cache: dict[str, list[int]] = {}  # the same words occur again and again

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of any `text`; a special token is encoded like other text unless it is in `allowed_special`."""
        check_encodable(text)
        allowed = sorted(allowed_special, key=len, reverse=True)
        if unknown := [name for name in allowed if name not in self.special_tokens]:
            raise ValueError(f"{unknown[0]!r} is no special token; allowed_special is a list of {self.special_tokens}")
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]:
            if part in allowed:
                ids.append(self._ids[part])
            elif part:  # no token has a space after another character, so no merge crosses these borders
                for word in re.findall(f"{SPACE}*[^{SPACE}]+|{SPACE}+", SPACE + part.replace(" ", SPACE)):
                    ids += self._word_ids(word)
        return ids

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._cache:
            if len(self._cache) == CACHE_SIZE:
                self._cache.clear()
            parts = merge_by_score(self.scores, word)
            names = [
                [part] if part in self.scores else [f"<0x{b:02X}>" for b in part.encode("utf-8")] for part in parts
            ]
            self._cache[word] = [self._ids[name] for found in names for name in found]
        return self._cache[word]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (T,); bytes that are not UTF-8, such as a part of a character, become �."""
        text, special = b"", {name.encode("utf-8") for name in self.special_tokens}
        tokens = tokens_of(ids, self.vocabulary)
        for before, token in zip([*special][:1] + tokens, tokens):
            text += token.removeprefix(b" ") if before in special else token
        return text.decode("utf-8", errors="replace")

    def save(self, path: str | Path) -> None:
        raise ValueError("GPT-2's file format cannot hold the scores of SentencePiece: save an adapter, or the weights")
