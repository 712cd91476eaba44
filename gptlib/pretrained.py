"""Pretrained models: a model and its tokenizer in one folder, with no code in any file.

`save` writes `config.json` (the fields of the configuration), `model.safetensors` (the parameters) and `tokenizer.json`
(the vocabulary; a BPETokenizer has files of its own). `load` reads such a folder, a GPT-2 in the layout of `gpt2`, and
two GGUF files: that of `stories`, and SmolLM2's, from an installed package (`smollm2`).
"""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from gptlib import gpt2, smollm2, stories, tokenizers
from gptlib.bpe import BPETokenizer
from gptlib.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gptlib.files import atomic_write, check_writable, data_dir
from gptlib.model import GPT, GPTConfig
from gptlib.modern import ModernConfig, ModernGPT
from gptlib.stories import SentencePieceTokenizer
from gptlib.tokenizers import CharTokenizer, WordTokenizer

Model = GPT | EncoderDecoder | ModernGPT
MODELS: dict[type, Any] = {GPTConfig: GPT, EncoderDecoderConfig: EncoderDecoder, ModernConfig: ModernGPT}
Tokenizer = CharTokenizer | WordTokenizer | BPETokenizer | SentencePieceTokenizer
SHIPPED = ("shakespeare-gpt", "shakespeare-gpt2", "translator", "stories15M")
GGUF: dict[Any, Any] = {"stories15M": stories.load, "smollm2": smollm2.load}
FILES = ("config.json", "model.safetensors", "tokenizer.json", "merges.txt", "vocab.json")
FIRST_EDITION = {"positions", "qkv", "project", "widen", "narrow", "norm", "head"}  # names in its files


def load(source: str | Path) -> tuple[Any, Any]:
    """The model (float32, on the CPU, in evaluation mode) and the tokenizer of `source`.

    `source` is "shakespeare-gpt", "shakespeare-gpt2", "translator" (an EncoderDecoder), "stories15M" (a ModernGPT), a
    folder that `save` wrote, one with a GPT-2 in the Hugging Face layout (without merges.txt the tokenizer is None), or
    "gpt2-124M", "gpt2-355M", "gpt2-774M", "gpt2-1.5B", which are downloaded once, or "smollm2" (a ModernGPT), whose
    package is installed by pip.
    Raises FileNotFoundError, ConnectionError if a download fails, and ValueError when files are damaged, do not belong
    together, or describe a model that the course does not have.
    """
    if source in GGUF:
        return GGUF[source]()
    size = source.removeprefix("gpt2-") if isinstance(source, str) else ""
    tokenizer: Tokenizer | None
    if size in gpt2.SIZES and size != source:
        config, tokenizer = gpt2.SIZES[size].config, BPETokenizer.gpt2()
        return read_model(gpt2.download(size), config, tokenizer, gpt2.hf_names(config.n_layer)), tokenizer
    folder = data_dir() / source if source in SHIPPED else Path(source)
    folder = folder.parent if folder.name in FILES and folder.is_file() else folder
    for name in FILES[:2]:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: pass {', '.join(SHIPPED)}, smollm2, gpt2-124M (355M, 774M, 1.5B), a folder "
                "that `save` wrote, or one with GPT-2's config.json and single model.safetensors (not in several files)"
            )
    weights, merges = folder / "model.safetensors", folder / "merges.txt"
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if content.keys() & {"model_type", "n_positions"}:
            config, tokenizer = gpt2.read_config(content), BPETokenizer.load(merges) if merges.is_file() else None
            return read_model(weights, config, tokenizer, gpt2.hf_names(config.n_layer)), tokenizer
        with safe_open(weights, framework="pt") as stored:
            old = FIRST_EDITION & {part for name in [*content, *stored.keys()] for part in name.split(".")}
        if old:
            raise ValueError(f"it is of the first edition of gptlib, with the names {sorted(old)}: train it again")
        tokenizer = load_tokenizer(folder)
        kind = ModernConfig if "n_kv_head" in content else EncoderDecoderConfig if "pad" in content else GPTConfig
        return read_model(weights, kind(**content), tokenizer, {}), tokenizer
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        advice = "if a file is damaged, save or download it again"
        raise ValueError(f"{folder} cannot be loaded ({type(error).__name__}: {error}): {advice}") from error


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer in a folder with a model or shards, of a model that the course ships, or GPT-2's ("gpt2")."""
    if source == "gpt2":
        return BPETokenizer.gpt2()
    if source in GGUF:
        return load(source)[1]
    folder = data_dir() / source if source in SHIPPED else Path(source)
    file, merges = folder / "tokenizer.json", folder / "merges.txt"
    if not file.is_file() and not merges.is_file():
        raise FileNotFoundError(f"there is no tokenizer.json or merges.txt in {folder}: name another folder, or gpt2")
    kind = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if kind.get("type", "BPETokenizer") == "BPETokenizer":  # the file of transformers has no type
        return BPETokenizer.load(merges)
    try:
        return getattr(tokenizers, kind["type"]).from_vocabulary(kind["vocabulary"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no tokenizer of the course ({type(error).__name__}: {error})") from error


def read_model(file: Path, config: Any, tokenizer: Tokenizer | None, names: dict[str, str]) -> Model:
    """A model with the parameters in `file`, where a parameter `name` of ours is called `names.get(name, name)`."""
    with safe_open(file, framework="pt") as stored:
        found = {name.removeprefix("transformer."): name for name in stored.keys() if not name.endswith(gpt2.MASKS)}
        shapes = {name: tuple(stored.get_slice(found[name]).get_shape()) for name in found}

    def read(name: str) -> torch.Tensor:
        with safe_open(file, framework="pt") as stored:  # opened for each: what is read of an open file stays in memory
            tensor = stored.get_tensor(found[name])
        if not tensor.is_floating_point():
            raise ValueError(f"{name} holds {tensor.dtype}, no floating-point numbers")
        return tensor.mT if gpt2.transposed(name) else tensor

    tied = is_tied(config)
    head = shapes.pop("lm_head.weight", None) if tied else None  # some files hold the tied matrix twice
    model = check_shapes(shapes, config, tokenizer, names).to_empty(device="cpu")
    if tied:
        model.lm_head.weight = model.token_embedding.weight  # to_empty separated the two
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(read(names.get(name, name)))
    if head and not torch.equal(read("lm_head.weight").float(), model.lm_head.weight):
        raise ValueError("lm_head.weight is not the token embedding, but this model has one matrix for both")
    return model.eval()


def is_tied(config: Any) -> bool:
    """Whether the model has an output layer `lm_head` whose matrix is the token embedding."""
    return getattr(config, "tied", not isinstance(config, EncoderDecoderConfig))


def check_shapes(shapes: dict, config: Any, tokenizer: Tokenizer | None, names: dict[str, str]) -> Any:
    """A model without values; raises ValueError unless `shapes` (by name) and the size of `tokenizer` are its own."""
    with torch.device("meta"):
        model = MODELS[type(config)](config)
    stored = {names.get(name, name): parameter for name, parameter in model.named_parameters()}
    wanted = {name: tuple((like.mT if gpt2.transposed(name) else like).shape) for name, like in stored.items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if shapes.get(name) != wanted.get(name):
            shape, expected = shapes.get(name, "missing"), wanted.get(name, "no such parameter")
            raise ValueError(f"{name} is {shape}, but the configuration asks for {expected}")
    if tokenizer and tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}: use its own")
    return model


def save(model: Model, tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `model`, compiled or not, and `tokenizer` into `folder`; each file is replaced atomically, others stay.

    Raises ValueError when the two could not be loaded again, and OSError when the folder cannot be written.
    """
    files = {"config.json": to_json(vars(model.config)), **tokenizer_files(tokenizer)}
    write(model, tokenizer, Path(folder), files, {})


def save_gpt2(model: GPT, folder: str | Path, tokenizer: BPETokenizer | None = None) -> None:
    """Like `save`, in the Hugging Face layout of GPT-2, which `transformers` reads too."""
    files = {name: to_json(content) for name, content in gpt2.hf_files(model.config, tokenizer).items()}
    files |= tokenizer_files(tokenizer) if tokenizer else {}
    files.pop("tokenizer.json", None)
    write(model, tokenizer, Path(folder), files, gpt2.hf_names(model.config.n_layer))
    for name in ("tokenizer.json", "special_tokens_map.json", "added_tokens.json") if tokenizer else ():
        (Path(folder) / name).unlink(missing_ok=True)  # transformers would read these of an earlier tokenizer


def to_json(content: dict) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The names and contents of the files that `load_tokenizer` reads; raises ValueError when it would refuse them."""
    kind = {"type": type(tokenizer).__name__}
    if isinstance(tokenizer, CharTokenizer | WordTokenizer):
        return {"tokenizer.json": to_json({**kind, "vocabulary": tokenizer.vocabulary})}
    with TemporaryDirectory() as scratch:
        tokenizer.save(Path(scratch, "merges.txt"))
        merges = {file.name: file.read_bytes() for file in sorted(Path(scratch).iterdir())}
    return {"tokenizer.json": to_json(kind), **merges}


def write(model: Model, tokenizer: Tokenizer | None, folder: Path, files: dict[str, bytes], names: dict) -> None:
    """Check all, then write the parameters under `names`, and the other `files`."""
    weights = {}
    for name, tensor in model.named_parameters():
        ours = name.replace("_orig_mod.", "")  # torch.compile adds it
        name = names.get(ours, ours)
        weights[name] = (tensor.mT if gpt2.transposed(name) else tensor).detach().float().cpu().contiguous()
    if is_tied(model.config) and "lm_head.weight" in weights:
        raise ValueError("lm_head is not tied: set model.lm_head.weight = model.token_embedding.weight, or it is lost")
    check_shapes({name: tuple(weight.shape) for name, weight in weights.items()}, model.config, tokenizer, names)
    if not folder.is_dir():
        check_writable(folder)
        folder.mkdir()
    for name in [*FILES, *files]:
        check_writable(folder / name)
    content = to_bytes(weights, metadata={"format": "pt"})
    for name, data in {"model.safetensors": content, **files}.items():  # the one that needs the most room comes first
        atomic_write(folder / name, partial(Path.write_bytes, data=data))
