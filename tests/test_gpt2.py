"""GPT-2 in and out: transformers' GPT-2 with random weights, saved by it and loaded here, and the other way round."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import full_disk, stir
from gptlib import gpt2, pretrained, probe
from gptlib.bpe import BPETokenizer
from gptlib.files import data_dir
from gptlib.gpt2 import NAMES, SIZES, hf_names, transposed
from gptlib.model import GPT, GPTConfig
from gptlib.sampling import generate
from gptlib.training import train

transformers = pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")

TINY = GPTConfig(vocab_size=31, context_length=128, n_layer=3, n_head=3, n_embd=24)
HEADS_OF_64 = GPTConfig(vocab_size=31, context_length=16, n_layer=2, n_head=2, n_embd=128)
MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]


def make_theirs(c: GPTConfig, **changes):
    """transformers' GPT-2, in which every bias, every gain and every row counts."""
    config = transformers.GPT2Config(
        **{"vocab_size": c.vocab_size, "n_positions": c.context_length, "n_layer": c.n_layer, "n_head": c.n_head}
        | {"n_embd": c.n_embd, "resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": c.dropout}
        | {"bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}
        | changes
    )
    return stir(transformers.GPT2LMHeadModel(config)).eval()


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(1)
    return make_theirs(TINY)


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def text():
    return torch.randint(TINY.vocab_size, (2, 40))


def load(source) -> GPT:
    return pretrained.load(source)[0]


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- the map ----------------------------------------------------------------------------------------------------------


def test_every_name_is_theirs_and_ours(theirs):
    names = hf_names(TINY.n_layer)
    assert set(names.values()) == set(theirs.transformer.state_dict())
    assert set(names) == set(dict(GPT(TINY).named_parameters()))
    assert len(names) == 12 * TINY.n_layer + 4 and len(NAMES) == 9


def test_only_the_matrices_of_conv1d_are_transposed(theirs):
    conv = {name for name, part in theirs.transformer.named_modules() if type(part).__name__ == "Conv1D"}
    for name in hf_names(TINY.n_layer).values():
        assert transposed(name) == (name.removesuffix(".weight") in conv)


@pytest.mark.parametrize("size, count", [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080)])
def test_sizes_have_as_many_parameters_as_their_names_say(size, count):
    c = SIZES[size].config
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd)
        )
        ours = GPT(c)
    for model in (ours, theirs):
        assert sum(parameter.numel() for parameter in model.parameters()) == count


# --- the same function ------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_same_function(ours, theirs, text, tolerance):
    """Logits, the residual path after each block, attention weights, and 100 tokens drawn greedily."""
    path = []

    def keep(module, inputs, output=None):
        path.append(inputs[0] if output is None else output)

    hooks = [block.register_forward_pre_hook(keep) for block in ours.blocks] + [
        ours.final_norm.register_forward_hook(keep)
    ]
    with probe.attention(ours) as maps:
        logits = ours(text)
    for hook in hooks:
        hook.remove()
    expected = theirs(text, output_hidden_states=True, output_attentions=True)
    for found, wanted in [
        ([logits], [expected.logits]),
        (path, expected.hidden_states),
        (maps, expected.attentions),
    ]:
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    prompt = text[:1, :8]
    drawn = generate(ours, prompt, 100, temperature=0)
    assert drawn.shape == (1, 108) and len(drawn.unique()) > 2
    assert torch.equal(theirs(drawn).logits[0, 7:-1].argmax(dim=-1), drawn[0, 8:]), "each token is their likeliest too"
    return drawn


def test_it_computes_what_theirs_does(theirs, folder, text):
    drawn = check_same_function(load(folder), theirs, text, 1e-4)
    prompt = text[:1, :8]
    options = {"attention_mask": torch.ones_like(prompt), "pad_token_id": 0, "do_sample": False}
    assert torch.equal(theirs.generate(prompt, max_new_tokens=100, min_new_tokens=100, **options), drawn)


def test_it_computes_the_same_to_the_last_digits(theirs, folder, text):
    """In double precision the other GELU, or another epsilon, is far above what may differ."""
    ours = load(folder).double()
    torch.testing.assert_close(ours(text), make_double(theirs)(text).logits, rtol=1e-9, atol=1e-9)


def make_double(theirs):
    copy = transformers.GPT2LMHeadModel(theirs.config).double().eval()
    copy.load_state_dict(theirs.state_dict())
    return copy


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """GPT-2's 124M, with random weights near those that training starts with."""
    torch.manual_seed(2)
    c = SIZES["124M"].config
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(bos_token_id=None, eos_token_id=None, attn_implementation="eager")
    )
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=parameter[0].item(), std=0.1)
    assert theirs.config.n_layer == c.n_layer and theirs.config.vocab_size == c.vocab_size
    folder = tmp_path_factory.mktemp("large")
    theirs.eval().save_pretrained(folder)
    return theirs, folder


def test_the_released_size(large):
    theirs, folder = large
    check_same_function(load(folder), theirs, torch.randint(50257, (1, 64)), 1e-4)


PEAK = """
import sys
from gptlib import pretrained
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
model, _ = pretrained.load(sys.argv[1])
print((peak() - before) / 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_loading_takes_little_more_memory_than_the_weights(large):
    done = subprocess.run([sys.executable, "-c", PEAK, large[1]], capture_output=True, text=True, check=True)
    weights = 4 * 124.439808  # MB
    assert 0.95 * weights < float(done.stdout) < 1.2 * weights + 100  # the first model made on "meta" loads modules


# --- from their layout ------------------------------------------------------------------------------------------------


def test_the_model_comes_ready(theirs, folder):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    model = load(str(folder))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers moved on"
    assert model.config == TINY and type(model) is GPT and not any(part.training for part in model.modules())
    assert model.lm_head.weight is model.token_embedding.weight
    for parameter in model.parameters():
        assert parameter.requires_grad and parameter.dtype == torch.float32 and parameter.device.type == "cpu"
        assert parameter.is_contiguous()


def test_it_learns(folder):
    model = load(folder)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, torch.randint(TINY.vocab_size, (500,)), steps=2, batch_size=2)
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert model.lm_head.weight is model.token_embedding.weight


def test_a_file_that_changes_later_does_not_change_the_model(folder, text):
    model = load(folder)
    before = model(text)
    file = folder / "model.safetensors"
    with open(file, "r+b") as content:
        content.write(bytes(file.stat().st_size))
    assert torch.equal(model(text), before)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_each_way_in_which_the_tensors_are_named(prefix, head, masks, theirs, folder, text):
    weights = {prefix + name: tensor.contiguous() for name, tensor in theirs.transformer.state_dict().items()}
    if head:
        weights["lm_head.weight"] = theirs.lm_head.weight.detach().clone()
    if masks:
        for i in range(TINY.n_layer):
            weights[f"{prefix}h.{i}.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril()
            weights[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(load(folder)(text), theirs(text).logits, rtol=0, atol=1e-4)


def test_their_model_without_a_head(theirs, tmp_path, text):
    theirs.transformer.save_pretrained(tmp_path / "core")
    assert "wte.weight" in load_file(tmp_path / "core" / "model.safetensors")
    torch.testing.assert_close(load(tmp_path / "core")(text), theirs(text).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_as_float32(dtype, theirs, tmp_path):
    transformers.GPT2LMHeadModel(theirs.config).to(dtype).save_pretrained(tmp_path / "other")
    stored = load_file(tmp_path / "other" / "model.safetensors")
    assert stored["transformer.h.0.attn.c_attn.weight"].dtype == dtype
    model = load(tmp_path / "other")
    assert torch.equal(model.token_embedding.weight, stored["transformer.wte.weight"].float())
    found, wanted = model.blocks[2].feed_forward.up_proj, stored["transformer.h.2.mlp.c_fc.weight"]
    assert torch.equal(found.weight, wanted.float().T) and {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_path_of_a_file_in_the_folder_stands_for_the_folder(name, theirs, folder, text):
    model = load(folder / name)
    assert model.config == TINY
    torch.testing.assert_close(model(text), theirs(text).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_each_name_of_their_gelu_is_ours(name, tmp_path, text):
    theirs = make_theirs(TINY, activation_function=name, n_inner=4 * TINY.n_embd)
    theirs.save_pretrained(tmp_path / "gpt2")
    ours, wanted = load(tmp_path / "gpt2").double(), make_double(theirs)(text).logits
    torch.testing.assert_close(ours(text), wanted, rtol=1e-7, atol=1e-7)


def test_dropout_is_theirs(tmp_path):
    make_theirs(TINY, resid_pdrop=0.25).save_pretrained(tmp_path / "gpt2")
    assert load(tmp_path / "gpt2").config.dropout == 0.25
    content = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    del content["resid_pdrop"]
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(content))
    assert load(tmp_path / "gpt2").config.dropout == 0.0


def test_a_size_is_downloaded(tmp_path, monkeypatch):
    c = GPTConfig(50257, 8, 1, 1, 4)
    make_theirs(c).save_pretrained(tmp_path / "gpt2")
    asked = []

    def download(size):
        asked.append(size)
        return tmp_path / "gpt2" / "model.safetensors"

    monkeypatch.setattr(gpt2, "download", download)
    monkeypatch.setitem(SIZES, "355M", SIZES["355M"]._replace(config=c))
    model, tokenizer = pretrained.load("gpt2-355M")
    assert model.config == c and asked == ["355M"] and not model.training
    assert tokenizer.vocabulary == BPETokenizer.gpt2().vocabulary


# --- what is no GPT-2 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(name, folder):
    (folder / name).unlink()
    other = folder / ("config.json" if name == "model.safetensors" else "model.safetensors")
    for source in (folder, other):
        with pytest.raises(FileNotFoundError, match=f"^no {name} in .*/gpt2: pass shakespeare-gpt, .* or one with"):
            load(source)


@pytest.mark.parametrize("name", ["124M", "gpt2-124m", "gpt2", "gpt2-small", "/nowhere/at/all", "gpt2-1558M", ""])
def test_an_unknown_size_or_path(name):
    with pytest.raises(FileNotFoundError, match=r"^no config.json in .*: pass .*gpt2-124M \(355M, 774M, 1.5B\)"):
        load(name)


def test_weights_in_several_files(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    shards = list((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(shards) > 2
    with pytest.raises(
        FileNotFoundError, match=r"no model.safetensors in .*parts: .* single .* \(not in several files\)"
    ):
        load(tmp_path / "parts")
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*model-0.*: .* \(not in several files\)"):
        load(shards[0])


def test_a_training_checkpoint_beside_a_model_is_not_taken_for_it(folder):
    (folder / "run.checkpoint").write_bytes(b"of another model")
    with pytest.raises(FileNotFoundError, match="no config.json in .*run.checkpoint"):
        load(folder / "run.checkpoint")


def test_a_file_cut_short(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for length in [0, 1, 7, 8, 9, 200, len(whole) // 2, len(whole) - 2]:
        (folder / "model.safetensors").write_bytes(whole[:length])
        for source in (folder, folder / "model.safetensors"):
            with pytest.raises(
                ValueError, match=r"gpt2 cannot be loaded \(SafetensorError: .+\): .* download it again"
            ):
                load(source)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe\x00", b"null"], ids=str)
def test_a_damaged_config(content, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="gpt2 cannot be loaded .*: if a file is damaged"):
        load(folder)


class Hostile:
    """Unpickled carelessly, this calls `fail`."""

    def __reduce__(self):
        return pytest.fail, ("code in the file was run",)


def test_a_pickle_in_disguise_runs_no_code(folder):
    torch.save({"wte.weight": Hostile()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="gpt2 cannot be loaded .SafetensorError"):
        load(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "bert"}, "model_type is 'bert', but this model can only do 'gpt2'"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu', but this model can only do 'gelu_new'"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, but this model can only do 1e-05"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, but this model can only do True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"n_inner": 95}, "n_inner is 95, but this model can only do 96"),
        ({"n_head": 5}, "n_embd=24 is not a multiple of n_head=5"),
        ({"n_layer": "3"}, "gpt2 cannot be loaded .TypeError"),
        ({"n_positions": 128.5}, "gpt2 cannot be loaded .TypeError"),
        ({"resid_pdrop": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"n_layer": 2}, r"h.2.attn.c_attn.bias is \(72,\), but the configuration asks for no such parameter"),
        ({"n_layer": 4}, r"h.3.attn.c_attn.bias is missing, but the configuration asks for \(72,\)"),
        ({"n_positions": 64}, r"wpe.weight is \(128, 24\), but the configuration asks for \(64, 24\)"),
        ({"n_embd": 48, "n_head": 6}, r"is \(.*\), but the configuration asks for \(.*\)"),
        ({"vocab_size": 30}, r"wte.weight is \(31, 24\), but the configuration asks for \(30, 24\)"),
    ],
    ids=str,
)
def test_a_config_of_another_model(changes, message, folder):
    change(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_what_a_config_does_not_say_is_as_in_gpt2(folder, text):
    before = load(folder)(text)
    sizes = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "model_type")
    content = json.loads((folder / "config.json").read_text())
    for left_out in sizes[:-1]:
        (folder / "config.json").write_text(json.dumps({key: content[key] for key in sizes if key != left_out}))
        with pytest.raises(ValueError, match=f"gpt2 cannot be loaded .KeyError: '{left_out}'"):
            load(folder)
    for last in (5, 6):  # old files have no model_type
        (folder / "config.json").write_text(json.dumps({key: content[key] for key in sizes[:last]}))
        assert torch.equal(load(folder)(text), before)


@pytest.mark.parametrize(
    "alter, message",
    [
        (lambda w: w.pop("ln_f.bias"), "ln_f.bias is missing, but"),
        (
            lambda w: w.update({"h.0.attn.rotary": torch.ones(3)}),
            r"h.0.attn.rotary is \(3,\), but the configuration asks for no such",
        ),
        (
            lambda w: w.update({"h.1.mlp.c_fc.weight": torch.ones(96, 24)}),
            r"h.1.mlp.c_fc.weight is \(96, 24\), but .* \(24, 96\)",
        ),
        (
            lambda w: w.update({"wte.weight": torch.ones(31, 24, dtype=torch.int8)}),
            "wte.weight holds torch.int8, no floating-point numbers",
        ),
        (
            lambda w: w.update({"lm_head.weight": torch.ones(31, 24)}),
            "lm_head.weight is not the token embedding, but this model has one",
        ),
    ],
    ids=["missing", "extra", "the other way round", "integers", "a head of its own"],
)
def test_tensors_of_another_model(alter, message, theirs, folder):
    weights = {name: tensor.contiguous() for name, tensor in theirs.transformer.state_dict().items()}
    alter(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load(folder)


# --- to their layout --------------------------------------------------------------------------------------------------


@pytest.fixture
def ours():
    return stir(GPT(TINY)).eval()


def test_it_comes_back(ours, tmp_path):
    pretrained.save_gpt2(ours, tmp_path / "gpt2")
    found = load(tmp_path / "gpt2")
    assert found.config == TINY
    for name, tensor in ours.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert {path.name for path in (tmp_path / "gpt2").iterdir()} == {"config.json", "model.safetensors"}


def test_transformers_opens_it(ours, tmp_path, text):
    pretrained.save_gpt2(ours, tmp_path / "gpt2")
    names = set(load_file(tmp_path / "gpt2" / "model.safetensors"))
    assert names == set(hf_names(TINY.n_layer).values())
    with safe_open(tmp_path / "gpt2" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    opened, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "gpt2", output_loading_info=True, attn_implementation="eager"
    )
    assert isinstance(opened, transformers.GPT2LMHeadModel) and not any(info.values())
    assert opened.config.eos_token_id is None and not opened.training
    check_same_function(ours, opened, text, 1e-4)


def test_their_model_through_ours_is_theirs_again(theirs, folder, tmp_path, text):
    pretrained.save_gpt2(load(folder), tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", attn_implementation="eager")
    assert torch.equal(again.eval()(text).logits, theirs(text).logits)
    kept = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "resid_pdrop", "activation_function")
    for key in (*kept, "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "tie_word_embeddings", "n_inner"):
        assert getattr(again.config, key) == getattr(theirs.config, key), key


def test_dropout_is_written(tmp_path):
    pretrained.save_gpt2(GPT(GPTConfig(**{**vars(TINY), "dropout": 0.3})), tmp_path / "gpt2")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "gpt2")
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.3
    assert load(tmp_path / "gpt2").config.dropout == 0.3


def test_a_model_in_double_precision_is_written_in_float32(ours, tmp_path):
    pretrained.save_gpt2(ours.double(), tmp_path / "gpt2")
    stored = load_file(tmp_path / "gpt2" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert ours.lm_head.weight.dtype == torch.float64, "the model itself stays"


def test_gpt2s_own_vocabulary_has_its_end(tmp_path):
    pretrained.save_gpt2(GPT(GPTConfig(50257, 8, 1, 1, 2)), tmp_path / "gpt2")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "gpt2")
    assert config.bos_token_id == config.eos_token_id == 50256


@pytest.mark.parametrize("special", [(), ("<|endoftext|>",), ("<|a b|>", "<|endoftext|>", "<|user|>")], ids=len)
def test_transformers_opens_the_tokenizer(special, tmp_path):
    tokenizer = BPETokenizer(MERGES, special)
    pretrained.save_gpt2(GPT(GPTConfig(tokenizer.vocab_size, 128, 1, 1, 8)), tmp_path / "gpt2", tokenizer)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "gpt2")
    text = "the hat — é\n\n the  \ttheme\x00" + "".join(f"the{name} the" for name in special)
    ids = tokenizer.encode(text, allowed_special=special)
    assert opened.encode(text) == ids and opened.decode(ids) == text == tokenizer.decode(ids)
    assert len(opened) == tokenizer.vocab_size == config.vocab_size and opened.model_max_length == 128
    end = 259 + special.index("<|endoftext|>") if "<|endoftext|>" in special else None
    assert config.bos_token_id == config.eos_token_id == opened.eos_token_id == end
    again = BPETokenizer.load(tmp_path / "gpt2" / "merges.txt")
    assert again.vocabulary == tokenizer.vocabulary and again.encode(text) == tokenizer.encode(text)


def test_gpt2s_own_tokenizer_comes_along(tmp_path):
    tokenizer = BPETokenizer.gpt2()
    pretrained.save_gpt2(GPT(GPTConfig(50257, 8, 1, 1, 2)), tmp_path / "gpt2", tokenizer)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    text = "Hello, I'm a language model, naïve — 東京 1603.\n\n  x"
    assert opened.encode(text) == tokenizer.encode(text) and opened.eos_token_id == 50256


def test_other_files_stay_and_those_of_an_earlier_tokenizer_do_not(theirs, tmp_path):
    folder, tokenizer = tmp_path / "gpt2", BPETokenizer(MERGES)
    theirs.save_pretrained(folder, max_shard_size="20KB")
    (folder / "README.md").write_text("its card")
    (folder / "old").mkdir()
    (folder / "old" / "model.safetensors").write_text("kept")
    (folder / "tokenizer.json").write_text("{}")
    model = stir(GPT(GPTConfig(tokenizer.vocab_size, 16, 1, 1, 8)))
    pretrained.save_gpt2(model, folder)
    assert (folder / "tokenizer.json").is_file()
    pretrained.save_gpt2(model, folder, tokenizer)
    left = {path.name for path in folder.iterdir() if not path.name.startswith("model-")}
    assert left - {"generation_config.json", "model.safetensors.index.json"} == set(
        "README.md config.json merges.txt model.safetensors old tokenizer_config.json vocab.json".split()
    )
    assert (folder / "README.md").read_text() == "its card" and (folder / "old" / "model.safetensors").is_file()
    found, found_tokenizer = pretrained.load(folder)
    assert (
        torch.equal(found.lm_head.weight, model.lm_head.weight) and found_tokenizer.vocabulary == tokenizer.vocabulary
    )
    opened = transformers.AutoModelForCausalLM.from_pretrained(folder)  # although an index of shards is there
    assert torch.equal(opened.lm_head.weight, model.lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"], "nothing temporary is left"


def test_a_folder_without_merges_has_no_tokenizer(folder):
    assert pretrained.load(folder)[1] is None


def test_merges_of_another_model(folder):
    BPETokenizer(MERGES).save(folder / "merges.txt")
    with pytest.raises(ValueError, match="the tokenizer has 260 tokens, the model 31"):
        load(folder)


def test_the_model_of_the_course_comes_out_of_save_as_it_is_shipped(tmp_path):
    """Byte for byte: the shipped folder is what `save` writes, and nothing is lost in between."""
    model, tokenizer = pretrained.load("shakespeare-gpt2")
    pretrained.save_gpt2(model, tmp_path / "again", tokenizer)
    for path in (tmp_path / "again").iterdir():
        shipped = data_dir() / "shakespeare-gpt2" / path.name
        if path.name == "vocab.json":  # written by the tokenizer: the same ids, perhaps with other white space
            assert json.loads(path.read_text("utf-8")) == json.loads(shipped.read_text("utf-8"))
        else:
            assert path.read_bytes() == shipped.read_bytes(), path.name


def test_a_compiled_model_is_saved_as_a_plain_one(ours, tmp_path, text):
    pretrained.save_gpt2(ours, tmp_path / "plain")
    pretrained.save_gpt2(torch.compile(ours, backend="eager"), tmp_path / "whole")
    ours.blocks[1] = torch.compile(ours.blocks[1], backend="eager")
    pretrained.save_gpt2(ours, tmp_path / "part")
    for name in ("whole", "part"):
        for path in (tmp_path / "plain").iterdir():
            assert (tmp_path / name / path.name).read_bytes() == path.read_bytes()


def test_a_full_disk_leaves_the_old_model(ours, tmp_path):
    pretrained.save_gpt2(ours, tmp_path / "gpt2")
    before = {path.name: path.read_bytes() for path in (tmp_path / "gpt2").iterdir()}
    with pytest.raises(OSError, match="model.safetensors could not be written and is unchanged"), full_disk():
        pretrained.save_gpt2(stir(GPT(TINY)), tmp_path / "gpt2")
    assert {path.name: path.read_bytes() for path in (tmp_path / "gpt2").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]


def test_a_full_disk_leaves_no_file_where_none_was(ours, tmp_path):
    with pytest.raises(OSError, match="model.safetensors could not be written"), full_disk():
        pretrained.save_gpt2(ours, tmp_path / "gpt2")
    assert list((tmp_path / "gpt2").iterdir()) == []


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "none"])
def test_positions_that_gpt2_does_not_have(positions, tmp_path):
    model = GPT(GPTConfig(31, 8, 1, 1, 8, position_encoding=positions))
    with pytest.raises(ValueError, match=f"GPT-2's layout has learned positions, this model {positions}: use"):
        pretrained.save_gpt2(model, tmp_path / "gpt2")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model(ours, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has 260 tokens, the model 31: use its own"):
        pretrained.save_gpt2(ours, tmp_path / "gpt2", BPETokenizer(MERGES))
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_other_parameters_than_its_configuration_says(ours, tmp_path):
    ours.final_norm = nn.RMSNorm(TINY.n_embd)
    with pytest.raises(ValueError, match=r"ln_f.bias is missing, but the configuration asks for \(24,\)"):
        pretrained.save_gpt2(ours, tmp_path / "gpt2")
    assert list(tmp_path.iterdir()) == []


def test_paths_where_no_folder_can_be(ours, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write gpt2 into: create it first"):
        pretrained.save_gpt2(ours, tmp_path / "nowhere" / "gpt2")
    (tmp_path / "gpt2").write_text("precious")
    with pytest.raises(FileExistsError, match="gpt2"):
        pretrained.save_gpt2(ours, tmp_path / "gpt2")
    assert (tmp_path / "gpt2").read_text() == "precious"


# --- downloads: the right file is asked for, a wrong one refused, and without a network one sentence says what to do --

CONTENT = b"weights" * 500_000  # some megabytes, so that more than one piece is read
ADDRESS = (
    "https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e/model.safetensors"
)
SENTENCE = re.escape(
    f"connect to the internet, or get {ADDRESS} (548 MB) and the config.json beside it, and pass their folder"
)


class FakeHub:
    """In place of huggingface_hub: a server, its cache, and a record of what was asked."""

    def __init__(self, folder, content=CONTENT, error=None):
        self.file, self.content, self.error, self.asked = folder / "cached", content, error, []

    def hf_hub_download(self, *, local_files_only=False, **place):
        self.asked.append(("cache" if local_files_only else "download", place))
        if local_files_only and not self.file.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            self.fail()
            self.file.write_bytes(self.content)
        return str(self.file)

    def get_hf_file_metadata(self, address, timeout):
        self.asked.append(("look", address))
        assert timeout <= 10
        if not isinstance(self.error, OSError) or self.error.errno != errno.ENOSPC:
            self.fail()

    def fail(self):
        if self.error:
            raise self.error


@pytest.fixture
def fake(tmp_path, monkeypatch):
    def make(**options):
        server = FakeHub(tmp_path, **options)
        for name in ("hf_hub_download", "get_hf_file_metadata"):
            monkeypatch.setattr(huggingface_hub, name, getattr(server, name))
        return server

    monkeypatch.setitem(SIZES, "124M", SIZES["124M"]._replace(sha256=hashlib.sha256(CONTENT).hexdigest()))
    return make


def test_the_released_files_are_pinned():
    for release in SIZES.values():
        assert re.fullmatch("openai-community/gpt2(-medium|-large|-xl)?", release.repository)
        assert re.fullmatch("[0-9a-f]{40}", release.revision) and re.fullmatch("[0-9a-f]{64}", release.sha256)
    for column in zip(*SIZES.values()):
        assert len(set(column)) == 4


@pytest.mark.parametrize("size", SIZES)
def test_the_files_are_as_large_as_their_weights_and_masks(size):
    """Each block's file holds a causal mask of context x context numbers beside its weights."""
    c = SIZES[size].config
    C, T = c.n_embd, c.context_length
    numbers = (c.vocab_size + T + 2) * C + c.n_layer * (12 * C * C + 13 * C + T * T)
    assert SIZES[size].megabytes == round(4 * numbers / 1e6)


def test_the_pinned_file_is_downloaded_once(fake):
    server = fake()
    place = {
        "repo_id": "openai-community/gpt2",
        "filename": "model.safetensors",
        "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    }
    assert gpt2.download("124M").read_bytes() == CONTENT
    assert server.asked == [("cache", place), ("look", ADDRESS), ("download", place)]
    server.asked.clear()
    server.error = ConnectionError("no network any more")
    assert gpt2.download("124M").read_bytes() == CONTENT
    assert server.asked == [("cache", place)], "what is in the cache needs no network"


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"s", b"", b"v" + CONTENT[1:]], ids=len)
def test_another_file_is_refused(content, fake, monkeypatch):
    server = fake(content=content)
    monkeypatch.setattr(pretrained, "read_model", lambda *_: pytest.fail("the file was opened"))
    for _ in range(2):  # also when it comes from the cache
        with pytest.raises(ValueError, match="cached is not the released file .*: delete it, load again"):
            load("gpt2-124M")
    server.file.unlink()
    server.content = CONTENT
    assert gpt2.download("124M") == server.file


class NoNetwork(Exception):
    """Such as the library below huggingface_hub has: neither OSError nor ValueError."""


@pytest.mark.parametrize(
    "error", [NoNetwork("x\ny"), ConnectionRefusedError(111, "refused"), TimeoutError(), OSError()]
)
def test_without_a_network(error, fake):
    server = fake(error=error)
    with pytest.raises(
        ConnectionError, match=rf"gpt2-124M is not in the cache .*\({type(error).__name__}\): {SENTENCE}"
    ):
        load("gpt2-124M")
    assert [name for name, _ in server.asked] == ["cache", "look"]


def test_a_full_disk_is_said_as_it_is(fake):
    fake(error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left on device") as caught:
        gpt2.download("124M")
    assert not isinstance(caught.value, ConnectionError)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        load("gpt2-124M")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_the_real_library_with_an_empty_cache(empty_cache, capfd):
    assert huggingface_hub.constants.HF_HUB_OFFLINE, "set by conftest.py at the top"
    with pytest.raises(
        ConnectionError, match=rf"^gpt2-124M is not in the cache .* \(OfflineModeIsEnabled\): {SENTENCE}$"
    ):
        load("gpt2-124M")
    assert capfd.readouterr() == ("", "")


def test_the_real_librarys_cache_is_used_offline(empty_cache):
    revision = SIZES["124M"].revision
    place = empty_cache / "models--openai-community--gpt2" / "snapshots" / revision
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"not GPT-2")
    with pytest.raises(ValueError, match=f"{revision}/model.safetensors is not the released file"):
        load("gpt2-124M")


UNREACHABLE = """
import sys, time
from gptlib import pretrained
print("huggingface_hub" in sys.modules)
from huggingface_hub import hf_hub_download, get_hf_file_metadata
began = time.perf_counter()
try:
    pretrained.load("gpt2-124M")
except ConnectionError as error:
    print(error)
print(time.perf_counter() - began)
"""


def test_a_network_that_is_not_there_is_said_at_once(tmp_path):
    """Left to itself, the real library would try again for half a minute. Here every address is a closed port."""
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", UNREACHABLE], capture_output=True, text=True, env=environment)
    imported, sentence, seconds = done.stdout.splitlines()
    assert done.stderr == "" and float(seconds) < 15
    assert re.fullmatch(rf"gpt2-124M is not in the cache and could not be downloaded \(\w+\): {SENTENCE}", sentence)
    assert imported == "False", "the library is imported for a download alone"
