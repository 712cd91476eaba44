"""Pretrained models: a finished model and its tokenizer in one folder, and back; GPT-2's weights too.

`save` and `load` know the course's own folders. Such a folder holds `model.safetensors` (the weights: numbers and
names, no code), `config.json` and `tokenizer.json`; the merges of a byte-pair tokenizer have a file of their own,
`merges.txt`. `save_gpt2` and `load_gpt2` know the layout in which GPT-2 was released.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from gptlib import data
from gptlib.files import write_whole
from gptlib.gpt2 import check_saving, load_gpt2, save_gpt2
from gptlib.model import GPT, GPTConfig
from gptlib.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer

__all__ = ["save", "load", "save_gpt2", "load_gpt2"]

Tokenizer = CharTokenizer | WordTokenizer | BPETokenizer
TOKENIZERS = {kind.__name__: kind for kind in (CharTokenizer, WordTokenizer)}  # those whose vocabulary is all of them
MERGES = "merges.txt"
NAMES = ("shakespeare-gpt",)  # the checkpoints that come with the course, in its data folder


def save(model: GPT, tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `model` and `tokenizer` to `folder`, whole or not at all; an earlier model is replaced, all else kept.

    Raises ValueError when the two do not belong together or the head is untied, FileNotFoundError when the folder above
    does not exist, FileExistsError when `folder` is a file, and OSError when there is no room.
    """
    folder = Path(folder)
    check_saving(model, tokenizer, folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    del weights["head.weight"]  # the same matrix as the token embedding
    kind = {"type": type(tokenizer).__name__}
    if not isinstance(tokenizer, BPETokenizer):
        kind["vocabulary"] = tokenizer.vocabulary

    def write(new: Path) -> None:
        if folder.is_dir():  # keep what lies beside the model: its card, say
            shutil.copytree(folder, new)
        else:
            new.mkdir()
        (new / "model.safetensors").write_bytes(to_bytes(weights))
        for name, content in {"config.json": asdict(model.config), "tokenizer.json": kind}.items():
            (new / name).write_bytes((json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
        if isinstance(tokenizer, BPETokenizer):
            tokenizer.save(new / MERGES)

    write_whole(folder, write)


def load(name_or_path: str | Path) -> tuple[GPT, Tokenizer]:
    """The model and tokenizer called `name_or_path` ('shakespeare-gpt'), or saved in that folder; ready to use.

    The model comes in evaluation mode, on the CPU. Raises FileNotFoundError when there is no such folder or a file
    is missing from it, and ValueError when a file is damaged or the files do not belong together.
    """
    folder = data.folder() / name_or_path if name_or_path in NAMES else Path(name_or_path)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}: give a folder that `save` wrote, or {' or '.join(NAMES)}")
    try:
        config = GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        with torch.random.fork_rng(devices=[]):  # the start drawn here is replaced: leave the caller's draws alone
            model = GPT(config)
        tokenizer = load_tokenizer(folder)
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{folder} does not hold a whole saved model ({type(error).__name__}: {error}): save or download it again"
        ) from error
    check_fit(folder, model, tokenizer, weights)
    weights["head.weight"] = weights["token_embedding.weight"]
    model.load_state_dict(weights)
    return model.eval(), tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `tokenizer.json` names, from its vocabulary or its merges."""
    kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if kind["type"] == BPETokenizer.__name__:
        return BPETokenizer.load(folder / MERGES)
    return TOKENIZERS[kind["type"]].from_vocabulary(kind["vocabulary"])


def check_fit(folder: Path, model: GPT, tokenizer: Tokenizer, weights: dict) -> None:
    """Raises ValueError when configuration, vocabulary and weights are not of one model, naming the difference."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "head.weight"}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{folder}: {name} has shape {found.get(name)} in model.safetensors, but config.json asks for "
                f"{wanted.get(name)}: the two files belong to different models"
            )
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, config.json {model.config.vocab_size}: "
            "the two files belong to different models"
        )
