"""GPT-2: its four sizes, its names for our parameters, and its files in the Hugging Face layout.

It computes what our GPT computes. In its files the parameters have other names, and four matrices per layer are
transposed: GPT-2 computes `x @ weight + bias`, where PyTorch's Linear computes `x @ weight.mT + bias`.
"""

import errno
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from gptlib.bpe import END_OF_TEXT, BPETokenizer
from gptlib.model import GPTConfig


class Release(NamedTuple):
    """A released model, and its model.safetensors on the Hugging Face Hub."""

    config: GPTConfig
    repository: str
    megabytes: int
    revision: str
    sha256: str


SIZES = {  # Radford et al. 2019
    "124M": Release(GPTConfig(50257, 1024, n_layer=12, n_head=12, n_embd=768), "openai-community/gpt2", 548,
        "607a30d783dfa663caf39e06633721c8d4cfcd7e", "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "355M": Release(GPTConfig(50257, 1024, n_layer=24, n_head=16, n_embd=1024), "openai-community/gpt2-medium", 1520,
        "6dcaa7a952f72f9298047fd5137cd6e4f05f41da", "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd"),
    "774M": Release(GPTConfig(50257, 1024, n_layer=36, n_head=20, n_embd=1280), "openai-community/gpt2-large", 3247,
        "32b71b12589c2f8d625668d2335a01cac3249519", "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"),
    "1.5B": Release(GPTConfig(50257, 1024, n_layer=48, n_head=25, n_embd=1600), "openai-community/gpt2-xl", 6432,
        "15ea56dee5df4983c59b2538573817e1667135e2", "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"),
}  # fmt: skip

NAMES = {  # ours: GPT-2's; {} is the layer
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "blocks.{}.norm1": "h.{}.ln_1",
    "blocks.{}.attention.qkv_proj": "h.{}.attn.c_attn",
    "blocks.{}.attention.out_proj": "h.{}.attn.c_proj",
    "blocks.{}.norm2": "h.{}.ln_2",
    "blocks.{}.feed_forward.up_proj": "h.{}.mlp.c_fc",
    "blocks.{}.feed_forward.down_proj": "h.{}.mlp.c_proj",
    "final_norm": "ln_f",
}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # (in, out) in the files; (out, in) in our Linear
MASKS = (".attn.bias", ".attn.masked_bias")  # no parameters, but in the released files
FIELDS = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "resid_pdrop")  # as in GPTConfig, in order
FIXED = {  # what config.json may say of things that our model does in one way
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "layer_norm_epsilon": (1e-5,), "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,), "tie_word_embeddings": (True,),
}  # fmt: skip


def hf_names(n_layer: int) -> dict[str, str]:
    """Every parameter of a GPT with `n_layer` layers: our name to GPT-2's name."""
    names = {}
    for ours, theirs in NAMES.items():
        for kind in ("weight",) if ours.endswith("embedding") else ("weight", "bias"):
            for i in range(n_layer if "{}" in ours else 1):
                names[f"{ours.format(i)}.{kind}"] = f"{theirs.format(i)}.{kind}"
    return names


def transposed(name: str) -> bool:
    """Whether the tensor of this name in GPT-2's files is the transpose of ours."""
    return name.endswith(TRANSPOSED)


def read_config(content: dict) -> GPTConfig:
    """Our configuration for a `config.json`; raises ValueError, naming it, for what our model cannot do."""
    content = {"resid_pdrop": 0.0} | content
    for key, known in (FIXED | {"n_inner": (4 * content["n_embd"], None)}).items():
        if content.get(key, known[0]) not in known:
            raise ValueError(f"{key} is {content[key]!r}, but this model can only do {known[0]!r}")
    return GPTConfig(*(content[field] for field in FIELDS))


def download(size: str) -> Path:
    """The weights of this size, in huggingface_hub's cache, downloaded if need be; their SHA-256 is always verified.

    Raises ImportError without huggingface_hub, ConnectionError when the download fails, ValueError for another file.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("downloading GPT-2 takes huggingface_hub: pip install huggingface_hub") from error
    _, repository, megabytes, revision, sha256 = SIZES[size]
    place: dict[str, Any] = {"repo_id": repository, "filename": "model.safetensors", "revision": revision}
    address = huggingface_hub.hf_hub_url(**place)
    try:
        try:
            file = huggingface_hub.hf_hub_download(**place, local_files_only=True)
        except FileNotFoundError:
            huggingface_hub.get_hf_file_metadata(address, timeout=10)  # offline this fails at once, a download in 30 s
            file = huggingface_hub.hf_hub_download(**place)
    except Exception as error:  # the exceptions for a missing network differ between versions
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # the disk, not the network
        raise ConnectionError(
            f"gpt2-{size} is not in the cache and could not be downloaded ({type(error).__name__}): connect to the "
            f"internet, or get {address} ({megabytes} MB) and the config.json beside it, and pass their folder"
        ) from error
    if hashlib.sha256(Path(file).read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{Path(file).resolve()} is not the released file (another SHA-256): delete it, load again")
    return Path(file)


def hf_files(c: GPTConfig, tokenizer: BPETokenizer | None) -> dict[str, dict]:
    """The JSON files beside the parameters; raises ValueError for position encodings that GPT-2 does not have."""
    if c.position_encoding != "learned":
        raise ValueError(f"GPT-2's layout has learned positions, this model {c.position_encoding}: use pretrained.save")
    special = tokenizer.special_tokens if tokenizer else (END_OF_TEXT,) if c.vocab_size == 50257 else ()
    token = END_OF_TEXT if END_OF_TEXT in special else None
    end = c.vocab_size - len(special) + special.index(token) if token else None
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **dict(zip(FIELDS, vars(c).values())),
        "embd_pdrop": c.dropout, "attn_pdrop": c.dropout, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "bos_token_id": end, "eos_token_id": end,
    }  # fmt: skip
    tokens = {
        "tokenizer_class": "GPT2Tokenizer", "model_max_length": c.context_length,
        "bos_token": token, "eos_token": token, "unk_token": token,
        "additional_special_tokens": [name for name in special if name != END_OF_TEXT],
    }  # fmt: skip
    return {"config.json": config} | ({"tokenizer_config.json": tokens} if tokenizer else {})
