"""GPT-2: the released weights read into our model, and our model written in the released layout.

That layout is two files: `model.safetensors`, tensors with their names, and `config.json`, the sizes. `transformers`
reads and writes the same. The function is ours; only the names differ, and the matrices lie the other way round:
GPT-2 computes `x @ weight + bias`, where PyTorch's Linear computes `x @ weight.mT + bias`.
"""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gptlib import hub
from gptlib.files import write_whole
from gptlib.gpt2_files import (
    Stored,
    config_from_shapes,
    end_of_text,
    find,
    list_tensors,
    released_config,
    remove_replaced,
    write_json,
    write_tokenizer,
)
from gptlib.model import GPT, GPTConfig
from gptlib.tokenizers import BPETokenizer

# The four models of Radford et al. 2019.
SIZES = {
    "124M": GPTConfig(vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768),
    "355M": GPTConfig(vocab_size=50257, context_length=1024, n_layer=24, n_head=16, n_embd=1024),
    "774M": GPTConfig(vocab_size=50257, context_length=1024, n_layer=36, n_head=20, n_embd=1280),
    "1.5B": GPTConfig(vocab_size=50257, context_length=1024, n_layer=48, n_head=25, n_embd=1600),
}

# The released name of each part, and ours; {} is the number of the block, from 0.
NAMES = {
    "wte": "token_embedding",
    "wpe": "position_embedding",
    "h.{}.ln_1": "blocks.{}.norm1",
    "h.{}.attn.c_attn": "blocks.{}.attention.qkv",
    "h.{}.attn.c_proj": "blocks.{}.attention.project",
    "h.{}.ln_2": "blocks.{}.norm2",
    "h.{}.mlp.c_fc": "blocks.{}.feed_forward.widen",
    "h.{}.mlp.c_proj": "blocks.{}.feed_forward.narrow",
    "ln_f": "norm",
}
TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # released as (in, out); ours are (out, in)


def released_names(n_layer: int) -> dict[str, str]:
    """The released name of every weight of a GPT of `n_layer` blocks, and ours.

    >>> released_names(2)["h.1.attn.c_proj.bias"]
    'blocks.1.attention.project.bias'
    """
    names = {}
    for theirs, ours in NAMES.items():
        parts = ("weight",) if ours.endswith("embedding") else ("weight", "bias")
        for i in range(n_layer if "{}" in theirs else 1):
            names |= {f"{theirs.format(i)}.{part}": f"{ours.format(i)}.{part}" for part in parts}
    return names


def turned(name: str, tensor: Tensor) -> Tensor:
    """The tensor of this released name in the other layout: theirs in ours, or ours in theirs."""
    return tensor.mT if name.endswith(TURNED) else tensor


def load_gpt2(source: str | Path) -> GPT:
    """The GPT-2 at `source`: a size to download ('124M', '355M', '774M', '1.5B'), a folder, or a safetensors file.

    A folder holds config.json and model.safetensors, or the shards that model.safetensors.index.json names. Where no
    config.json lies beside a file, the sizes are those of its tensors, with 64 channels a head, as in every GPT-2.
    The model comes in evaluation mode, in float32, on the CPU. Its dropout is config.json's resid_pdrop, else 0.

    Raises FileNotFoundError when a file is missing, ConnectionError when a size is neither in the cache nor can be
    downloaded, and ValueError when a file is damaged or holds a model that is not GPT-2 as ours is.
    """
    size = str(source)
    files, config = ([hub.download(size)], SIZES[size]) if size in SIZES else find(Path(source))
    found = list_tensors(files)
    config = config or config_from_shapes(found, files[0])
    with torch.device("meta"):  # shapes without numbers: no random start is drawn that would be replaced
        model = GPT(config)
    check_fit(found, model, source)
    model.to_empty(device="cpu")  # room, which is in use once it is written to
    model.head.weight = model.token_embedding.weight  # tied again: to_empty made room for both
    with torch.no_grad():
        for theirs, ours in released_names(config.n_layer).items():  # the largest comes first, when little is in use
            model.get_parameter(ours).copy_(turned(theirs, found[theirs].read()))
    return model.eval()


def check_fit(found: dict[str, Stored], model: GPT, source: str | Path) -> None:
    """Raises ValueError when the tensors are not those of the model, naming the first that differs."""
    wanted = {
        theirs: tuple(turned(theirs, model.get_parameter(ours)).shape)
        for theirs, ours in released_names(model.config.n_layer).items()
    }
    head = found.pop("lm_head.weight", None)  # some files hold the tied matrix twice
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"{source}: {name} is missing: save or download the model again")
        if name not in wanted:
            raise ValueError(f"{source}: {name} has no place in GPT-2 with {model.config.n_layer} blocks")
        if found[name].shape != wanted[name]:
            raise ValueError(
                f"{source}: {name} has shape {found[name].shape} where the sizes ask for {wanted[name]}: "
                "do config.json and the weights belong together?"
            )
    if head and not torch.equal(head.read(), found["wte.weight"].read()):
        raise ValueError(f"{source}: lm_head.weight differs from wte.weight, but this model has one matrix for both")


# --- writing ------------------------------------------------------------------------------------------------------


def check_saving(model: GPT, tokenizer, folder: Path) -> None:
    """Raises ValueError when something would be lost or does not fit, FileExistsError when `folder` is a file."""
    if model.head.weight is not model.token_embedding.weight:
        raise ValueError(
            "the model's head is no longer the token embedding, and only one of the two would be saved: tie it again "
            "(model.head.weight = model.token_embedding.weight), or keep model.state_dict() yourself"
        )
    if tokenizer is not None and tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}: "
            "save the tokenizer that the model was trained with"
        )
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file: choose another name for the model's folder")


def save_gpt2(model: GPT, folder: str | Path, tokenizer: BPETokenizer | None = None) -> None:
    """Write `model` to `folder` in GPT-2's layout, for `load_gpt2` and for `transformers`, whole or not at all.

    With a tokenizer, its merges.txt and vocab.json come along, so that `AutoTokenizer` opens the folder too. Whatever
    else lies in the folder stays. Raises ValueError when the model has other positions than learned ones, an untied
    head, or another vocabulary than the tokenizer, and as `pretrained.save` does when the folder cannot be written.
    """
    folder, c = Path(folder), model.config
    if c.positions != "learned":
        raise ValueError(f"GPT-2's layout has no {c.positions} positions, only learned ones: use pretrained.save")
    check_saving(model, tokenizer, folder)
    weights = {
        theirs: turned(theirs, model.get_parameter(ours)).detach().float().cpu().contiguous()
        for theirs, ours in released_names(c.n_layer).items()
    }

    def write(new: Path) -> None:
        if folder.is_dir():
            shutil.copytree(folder, new)
            remove_replaced(new, with_tokenizer=tokenizer is not None)
        else:
            new.mkdir()
        try:
            save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        write_json(new / "config.json", released_config(c, end_of_text(c.vocab_size, tokenizer)))
        shutil.copymode(new / "config.json", new / "model.safetensors")  # save_file lets its owner alone read it
        if tokenizer is not None:
            write_tokenizer(new, tokenizer, c.context_length)

    write_whole(folder, write)
