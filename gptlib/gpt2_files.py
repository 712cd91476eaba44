"""The files of GPT-2's layout: what a config.json says, which tensors a safetensors file holds, and a tokenizer's two.

`gpt2` says which of these tensors is which of our weights.
"""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptlib import bpe, hub
from gptlib.model import GPTConfig
from gptlib.tokenizers import END_OF_TEXT, BPETokenizer

MASKS = (".attn.bias", ".attn.masked_bias")  # no weights, but some files hold them
FLOATS = ("F64", "F32", "F16", "BF16")

# What a config.json may say where our model knows one way; what stands first holds when it says nothing.
ONLY = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # names of the one tanh form
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


class Stored(NamedTuple):
    """A tensor that still lies in its file."""

    file: Path
    name: str  # in the file, perhaps with a prefix
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Opens the file for this tensor alone: what is read of an open file counts as memory in use."""
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.name)


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{path} is damaged ({error}): save or download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no names in it): save or download it again")
    return content


def read_config(path: Path) -> GPTConfig:
    """Our sizes for their config.json; raises ValueError, naming it, for whatever our model cannot do."""
    said = read_json(path)
    for key, known in ONLY.items():
        if said.get(key, known[0]) not in known:
            raise ValueError(f"{path}: {key} is {said[key]!r}, but this model can only do {known[0]!r}")
    try:
        sizes = [said[key] for key in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")]
        if said.get("n_inner") not in (None, 4 * said["n_embd"]):
            raise ValueError(f"n_inner is {said['n_inner']}, but this model can only do 4 * n_embd")
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(f"{sizes} are not whole numbers")
        return GPTConfig(*sizes, dropout=said.get("resid_pdrop", 0.0))
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: it belongs to another kind of model") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def list_tensors(files: list[Path]) -> dict[str, Stored]:
    """What the files hold, by released names: without the prefix that some have, and without masks."""
    found = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    if name.endswith(MASKS):
                        continue
                    tensor = tensors.get_slice(name)
                    shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
                    if dtype not in FLOATS:
                        raise ValueError(f"{file}: {name} holds {dtype}, no floats: this model cannot be quantised")
                    found[name.removeprefix("transformer.")] = Stored(file, name, shape)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}): save or download it again") from error
    return found


def find(path: Path) -> tuple[list[Path], GPTConfig | None]:
    """The files that hold the weights of this folder or file, and the sizes, or None for a file that lies alone."""
    if path.is_file():
        config = path.parent / "config.json"
        return [path], read_config(config) if config.is_file() else None
    names, index = ["model.safetensors"], path / "model.safetensors.index.json"
    if index.is_file() and not (path / names[0]).is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{index} is damaged (no weight_map in it): save or download it again")
        names = sorted({str(name) for name in shards.values()})
    for name in ("config.json", *names):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {path}: give a folder in GPT-2's layout, a safetensors file, "
                f"or a size to download ({', '.join(hub.RELEASES)})"
            )
    return [path / name for name in names], read_config(path / "config.json")


def config_from_shapes(found: dict[str, Stored], file: Path) -> GPTConfig:
    """The sizes of the tensors, with 64 channels a head, which no shape tells."""
    shapes = [found[name].shape for name in ("wte.weight", "wpe.weight") if name in found]
    n_layer = sum(name.endswith(".ln_1.weight") for name in found)
    if [len(shape) for shape in shapes] != [2, 2] or n_layer == 0:
        raise ValueError(f"{file} holds no wte.weight, wpe.weight and h.0.ln_1.weight: it is not in GPT-2's layout")
    (vocab_size, n_embd), (context_length, _) = shapes
    if n_embd % 64:
        raise ValueError(f"{file}: {n_embd} channels are not heads of 64: put the model's config.json beside the file")
    return GPTConfig(vocab_size, context_length, n_layer, n_embd // 64, n_embd)


def end_of_text(vocab_size: int, tokenizer: BPETokenizer | None) -> int | None:
    """The id of <|endoftext|>; without a tokenizer it is known for GPT-2's own vocabulary alone."""
    if tokenizer is None:
        return 50256 if vocab_size == 50257 else None
    special = tokenizer.special_tokens
    return vocab_size - len(special) + special.index(END_OF_TEXT) if END_OF_TEXT in special else None


def released_config(c: GPTConfig, end: int | None) -> dict:
    """The config.json of our sizes; `end` is the id of the token that stands between two texts."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": c.vocab_size,
        "n_positions": c.context_length,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def remove_replaced(folder: Path, with_tokenizer: bool) -> None:
    """Remove the files that would be read in place of the new ones: an earlier model's shards, and its tokenizer."""
    patterns = ["model.safetensors.index.json", "model-*-of-*.safetensors"]
    if with_tokenizer:
        patterns += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")


def write_tokenizer(folder: Path, tokenizer: BPETokenizer, context_length: int) -> None:
    """merges.txt, vocab.json (each token as its bytes are written there, and its id), and which tokens are special."""
    tokenizer.save(folder / "merges.txt")
    plain = tokenizer.vocabulary[: tokenizer.vocab_size - len(tokenizer.special_tokens)]
    tokens = ["".join(bpe.WRITTEN[byte] for byte in token) for token in plain] + list(tokenizer.special_tokens)
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    end = END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else None
    special = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": context_length,
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "additional_special_tokens": [token for token in tokenizer.special_tokens if token != end],
    }
    write_json(folder / "tokenizer_config.json", special)
