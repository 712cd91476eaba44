"""stories15M, Andrej Karpathy's small model of children's stories, as a ModernGPT, and Llama's SentencePiece tokenizer.

The model has Llama's architecture and was trained on TinyStories (Eldan & Li 2023). Its GGUF file, in the data folder,
is read as SmolLM2's is. The tokenizer differs: `bpe` merges bytes by a list of pairs, SentencePiece (Kudo & Richardson
2018) merges characters by the scores of tokens: of all neighbors that make a token, those with the highest are merged.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from gptlib.bpe import CACHE_SIZE, apply_merges
from gptlib.files import data_dir, read_verified
from gptlib.modern import ModernGPT
from gptlib.smollm2 import read_model
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
        model, fields = read_model(path, {"general.architecture": "llama", "tokenizer.ggml.model": "llama"})
        return model, SentencePieceTokenizer(fields)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} cannot be loaded ({error!r:.200}): it is damaged, or of another kind") from error


class SentencePieceTokenizer:
    """Merges characters by the scores of a file's tokens; a character that is no token becomes its UTF-8 bytes.

    `encode` puts a space before a text and after each special token, so that a word is the same token there as between
    other words, and `decode` leaves it out. The character ▁ (U+2581) becomes a space.
    """

    def __init__(self, fields: dict[str, Any]):
        tokens, scores, kinds = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
        self.scores = {token: score for token, score, kind in zip(tokens, scores, kinds) if kind == NORMAL}
        self.vocabulary = [
            bytes([int(token[3:5], 16)]) if kind == BYTE else token.replace(SPACE, " ").encode("utf-8")
            for token, kind in zip(tokens, kinds)
        ]
        self.vocab_size, ids = len(tokens), {token: i for i, token in enumerate(tokens)}
        self._special = {token: i for (token, i), kind in zip(ids.items(), kinds) if kind == CONTROL}
        self.special_tokens = tuple(self._special)
        # The ids of `apply_merges`: the bytes, then 256 + rank, here by score. Only runs of spaces have equal scores;
        # SentencePiece merges them from the left, which comes to the longest first.
        order = sorted(self.scores, key=lambda token: (-self.scores[token], -len(token)))
        self._file_ids = [ids[f"<0x{byte:02X}>"] for byte in range(256)] + [ids[token] for token in order]
        self._merge_ids = merge_ids = {token: 256 + rank for rank, token in enumerate(order)}
        splits = ((token, token[:i], token[i:]) for token in order for i in range(1, len(token)))
        self._ranks = {
            (merge_ids[left], merge_ids[right]): merge_ids[token] - 256
            for token, left, right in splits
            if left in merge_ids and right in merge_ids
        }
        self._word_ids = lru_cache(CACHE_SIZE)(self._merge)  # the same words occur again and again

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of any `text`; a special token is encoded like other text unless it is in `allowed_special`."""
        check_encodable(text)
        allowed, ids = list(allowed_special), list[int]()
        if unknown := [name for name in allowed if name not in self._special]:
            raise ValueError(f"{unknown[0]!r} is no special token; allowed_special is a list of {self.special_tokens}")
        for part in re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]:
            if part in allowed:
                ids.append(self._special[part])
            elif part:  # no token has a space after another character, so no merge crosses these borders
                words = re.findall(f"{SPACE}*[^{SPACE}]+|{SPACE}+", SPACE + part.replace(" ", SPACE))
                ids += [i for word in words for i in self._word_ids(word)]
        return ids

    def _merge(self, word: str) -> list[int]:
        """The ids of a word, from those of its characters, or of the bytes of those that are no token."""
        merge_ids = [i for c in word for i in ([self._merge_ids[c]] if c in self._merge_ids else c.encode("utf-8"))]
        return [self._file_ids[i] for i in apply_merges(self._ranks, merge_ids)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (T,); bytes that are not UTF-8, such as a part of a character, become �."""
        text, start, special = b"", True, {name.encode("utf-8") for name in self._special}
        for token in tokens_of(ids, self.vocabulary):
            text += token.removeprefix(b" ") if start else token
            start = token in special
        return text.decode("utf-8", errors="replace")

    def save(self, path: str | Path) -> None:
        raise ValueError("GPT-2's file format cannot hold the scores of SentencePiece: save an adapter, or the weights")
