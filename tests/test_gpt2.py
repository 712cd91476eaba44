"""GPT-2 in and out: transformers' GPT-2 with random weights, saved by it and loaded here, and the other way round."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import full_disk, stir
from gptlib import hub, pretrained, probe
from gptlib.gpt2 import NAMES, SIZES, released_names, turned
from gptlib.model import GPT, GPTConfig
from gptlib.pretrained import load_gpt2, save_gpt2
from gptlib.sampling import generate
from gptlib.tokenizers import BPETokenizer
from gptlib.training import train

transformers = pytest.importorskip("transformers")

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


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- the map ----------------------------------------------------------------------------------------------------------


def test_every_name_is_theirs_and_ours(theirs):
    names = released_names(TINY.n_layer)
    assert set(names) == set(theirs.transformer.state_dict())
    assert set(names.values()) == set(dict(GPT(TINY).named_parameters()))
    assert len(names) == 12 * TINY.n_layer + 4 and len(NAMES) == 9


def test_only_the_matrices_of_conv1d_are_turned(theirs):
    conv = {name for name, part in theirs.transformer.named_modules() if type(part).__name__ == "Conv1D"}
    for name in released_names(TINY.n_layer):
        tensor = torch.arange(6.0).view(2, 3)
        is_turned = name.removesuffix(".weight") in conv
        assert torch.equal(turned(name, tensor), tensor.T if is_turned else tensor)


@pytest.mark.parametrize("size, count", [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080)])
def test_sizes_have_as_many_parameters_as_their_names_say(size, count):
    c = SIZES[size]
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

    hooks = [block.register_forward_pre_hook(keep) for block in ours.blocks] + [ours.norm.register_forward_hook(keep)]
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
    drawn = check_same_function(load_gpt2(folder), theirs, text, 1e-4)
    prompt = text[:1, :8]
    options = {"attention_mask": torch.ones_like(prompt), "pad_token_id": 0, "do_sample": False}
    assert torch.equal(theirs.generate(prompt, max_new_tokens=100, min_new_tokens=100, **options), drawn)


def test_it_computes_the_same_to_the_last_digits(theirs, folder, text):
    """In double precision the other GELU, or another epsilon, is far above what may differ."""
    ours = load_gpt2(folder).double()
    torch.testing.assert_close(ours(text), make_double(theirs)(text).logits, rtol=1e-9, atol=1e-9)


def make_double(theirs):
    copy = transformers.GPT2LMHeadModel(theirs.config).double().eval()
    copy.load_state_dict(theirs.state_dict())
    return copy


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """GPT-2's 124M, with random weights near those that training starts with."""
    torch.manual_seed(2)
    c = SIZES["124M"]
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
    check_same_function(load_gpt2(folder), theirs, torch.randint(50257, (1, 64)), 1e-4)


PEAK = """
import sys
from gptlib.pretrained import load_gpt2
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
model = load_gpt2(sys.argv[1])
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
    model = load_gpt2(str(folder))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers moved on"
    assert model.config == TINY and type(model) is GPT and not any(part.training for part in model.modules())
    assert model.head.weight is model.token_embedding.weight
    for parameter in model.parameters():
        assert parameter.requires_grad and parameter.dtype == torch.float32 and parameter.device.type == "cpu"
        assert parameter.is_contiguous()


def test_it_learns(folder):
    model = load_gpt2(folder)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, torch.randint(TINY.vocab_size, (500,)), steps=2, batch_size=2, progress=None)
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert model.head.weight is model.token_embedding.weight


def test_a_file_that_changes_later_does_not_change_the_model(folder, text):
    model = load_gpt2(folder)
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
    torch.testing.assert_close(load_gpt2(folder)(text), theirs(text).logits, rtol=0, atol=1e-4)


def test_their_model_without_a_head(theirs, tmp_path, text):
    theirs.transformer.save_pretrained(tmp_path / "core")
    assert "wte.weight" in load_file(tmp_path / "core" / "model.safetensors")
    torch.testing.assert_close(load_gpt2(tmp_path / "core")(text), theirs(text).logits, rtol=0, atol=1e-4)


def test_shards(theirs, tmp_path, text):
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(load_gpt2(tmp_path / "parts")(text), theirs(text).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_as_float32(dtype, theirs, tmp_path):
    transformers.GPT2LMHeadModel(theirs.config).to(dtype).save_pretrained(tmp_path / "other")
    stored = load_file(tmp_path / "other" / "model.safetensors")
    assert stored["transformer.h.0.attn.c_attn.weight"].dtype == dtype
    model = load_gpt2(tmp_path / "other")
    assert torch.equal(model.token_embedding.weight, stored["transformer.wte.weight"].float())
    found, wanted = model.blocks[2].feed_forward.widen, stored["transformer.h.2.mlp.c_fc.weight"]
    assert torch.equal(found.weight, wanted.float().T) and {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_file_alone_has_heads_of_64_channels(tmp_path):
    theirs, idx = make_theirs(HEADS_OF_64), torch.randint(31, (2, 16))
    theirs.save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "config.json").unlink()
    model = load_gpt2(tmp_path / "gpt2" / "model.safetensors")
    assert model.config == HEADS_OF_64
    torch.testing.assert_close(model(idx), theirs(idx).logits, rtol=1e-4, atol=1e-4)


def test_a_config_beside_the_file_says_how_many_heads(theirs, folder, text):
    model = load_gpt2(folder / "model.safetensors")
    assert model.config == TINY
    torch.testing.assert_close(model(text), theirs(text).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_each_name_of_their_gelu_is_ours(name, tmp_path, text):
    theirs = make_theirs(TINY, activation_function=name, n_inner=4 * TINY.n_embd)
    theirs.save_pretrained(tmp_path / "gpt2")
    ours, wanted = load_gpt2(tmp_path / "gpt2").double(), make_double(theirs)(text).logits
    torch.testing.assert_close(ours(text), wanted, rtol=1e-7, atol=1e-7)


def test_dropout_is_theirs(tmp_path):
    make_theirs(TINY, resid_pdrop=0.25).save_pretrained(tmp_path / "gpt2")
    assert load_gpt2(tmp_path / "gpt2").config.dropout == 0.25
    content = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    del content["resid_pdrop"]
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(content))
    assert load_gpt2(tmp_path / "gpt2").config.dropout == 0.0


def test_a_size_is_downloaded(tmp_path, monkeypatch):
    make_theirs(HEADS_OF_64).save_pretrained(tmp_path / "gpt2")
    asked = []

    def download(size):
        asked.append(size)
        return tmp_path / "gpt2" / "model.safetensors"

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setitem(SIZES, "355M", HEADS_OF_64)
    assert load_gpt2("355M").config == HEADS_OF_64 and asked == ["355M"]
    assert set(SIZES) == set(hub.RELEASES)


# --- what is no GPT-2 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(name, folder):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in .*gpt2: give a folder in GPT-2's layout, a safetensors"):
        load_gpt2(folder)


@pytest.mark.parametrize("name", ["124m", "gpt2-small", "/nowhere/at/all", "1558M"])
def test_an_unknown_size_or_place(name):
    with pytest.raises(FileNotFoundError, match=r"a size to download \(124M, 355M, 774M, 1.5B\)"):
        load_gpt2(name)


def test_a_missing_shard(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    first = min((tmp_path / "parts").glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(FileNotFoundError, match=f"no {first.name} in"):
        load_gpt2(tmp_path / "parts")
    for content in ("{}", '{"weight_map": []}', "[]", "{"):
        (tmp_path / "parts" / "model.safetensors.index.json").write_text(content)
        with pytest.raises(ValueError, match="model.safetensors.index.json is damaged"):
            load_gpt2(tmp_path / "parts")


def test_a_file_cut_short(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for length in [0, 1, 7, 8, 9, 200, len(whole) // 2, len(whole) - 2]:
        (folder / "model.safetensors").write_bytes(whole[:length])
        for source in (folder, folder / "model.safetensors"):
            with pytest.raises(ValueError, match=r"is not a whole safetensors file \(.+\): save or download it again"):
                load_gpt2(source)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe\x00", b"null"], ids=str)
def test_a_damaged_config(content, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is damaged"):
        load_gpt2(folder)


class Hostile:
    """Unpickled carelessly, this calls `fail`."""

    def __reduce__(self):
        return pytest.fail, ("code in the file was run",)


def test_a_pickle_in_disguise_runs_no_code(folder):
    torch.save({"wte.weight": Hostile()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_gpt2(folder)


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
        ({"n_inner": 95}, r"n_inner is 95, but this model can only do 4 \* n_embd"),
        ({"n_head": 5}, "config.json: n_embd=24 cannot be shared equally by n_head=5"),
        ({"n_layer": "3"}, "config.json: .* whole numbers|config.json: "),
        ({"n_positions": 128.5}, "are not whole numbers"),
        ({"resid_pdrop": 1.5}, "config.json: dropout must be"),
        ({"n_layer": 2}, r"h.2.attn.c_attn.bias has no place in GPT-2 with 2 blocks"),
        ({"n_layer": 4}, "h.3.attn.c_attn.bias is missing: save or download"),
        ({"n_positions": 64}, r"wpe.weight has shape \(128, 24\) where the sizes ask for \(64, 24\): do config.json"),
        ({"n_embd": 48, "n_head": 6}, "has shape .* where the sizes ask for"),
        ({"vocab_size": 30}, r"wte.weight has shape \(31, 24\) where the sizes ask for \(30, 24\)"),
    ],
    ids=str,
)
def test_a_config_of_another_model(changes, message, folder):
    change(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_gpt2(folder)


def test_what_a_config_does_not_say_is_as_in_gpt2(folder, text):
    before = load_gpt2(folder)(text)
    sizes = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
    content = json.loads((folder / "config.json").read_text())
    for left_out in sizes:
        (folder / "config.json").write_text(json.dumps({key: content[key] for key in sizes if key != left_out}))
        with pytest.raises(ValueError, match=f"config.json has no '{left_out}': it belongs to another kind of model"):
            load_gpt2(folder)
    (folder / "config.json").write_text(json.dumps({key: content[key] for key in sizes}))
    assert torch.equal(load_gpt2(folder)(text), before)


def test_a_folder_of_the_courses_own(tmp_path):
    model = GPT(GPTConfig(3, 8, 1, 1, 64))
    pretrained.save(model, pretrained.CharTokenizer("abc"), tmp_path / "mine")
    with pytest.raises(ValueError, match="config.json has no 'n_positions': it belongs to another kind of model"):
        load_gpt2(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no wte.weight, wpe.weight .*: it is not in GPT-2's layout"):
        load_gpt2(tmp_path / "mine" / "model.safetensors")


def test_a_file_alone_whose_heads_cannot_be_known(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="24 channels are not heads of 64: put the model's config.json beside"):
        load_gpt2(folder / "model.safetensors")


@pytest.mark.parametrize(
    "alter, message",
    [
        (lambda w: w.pop("ln_f.bias"), "ln_f.bias is missing"),
        (lambda w: w.update({"h.0.attn.rotary": torch.ones(3)}), "h.0.attn.rotary has no place in GPT-2"),
        (lambda w: w.update({"h.1.mlp.c_fc.weight": torch.ones(96, 24)}), r"h.1.mlp.c_fc.weight has shape \(96, 24\) "),
        (lambda w: w.update({"wte.weight": torch.ones(31, 24, dtype=torch.int8)}), "wte.weight holds I8, no floats"),
        (lambda w: w.update({"lm_head.weight": torch.ones(31, 24)}), "lm_head.weight differs from wte.weight, but"),
    ],
    ids=["missing", "extra", "the other way round", "whole numbers", "a head of its own"],
)
def test_tensors_of_another_model(alter, message, theirs, folder):
    weights = {name: tensor.contiguous() for name, tensor in theirs.transformer.state_dict().items()}
    alter(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_gpt2(folder)


# --- to their layout --------------------------------------------------------------------------------------------------


@pytest.fixture
def ours():
    return stir(GPT(TINY)).eval()


def test_it_comes_back(ours, tmp_path):
    save_gpt2(ours, tmp_path / "gpt2")
    found = load_gpt2(tmp_path / "gpt2")
    assert found.config == TINY
    for name, tensor in ours.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert {path.name for path in (tmp_path / "gpt2").iterdir()} == {"config.json", "model.safetensors"}


def test_transformers_opens_it(ours, tmp_path, text):
    save_gpt2(ours, tmp_path / "gpt2")
    names = set(load_file(tmp_path / "gpt2" / "model.safetensors"))
    assert names == set(released_names(TINY.n_layer))
    with safe_open(tmp_path / "gpt2" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    opened, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "gpt2", output_loading_info=True, attn_implementation="eager"
    )
    assert isinstance(opened, transformers.GPT2LMHeadModel) and not any(info.values())
    assert opened.config.eos_token_id is None and not opened.training
    check_same_function(ours, opened, text, 1e-4)


def test_their_model_through_ours_is_theirs_again(theirs, folder, tmp_path, text):
    save_gpt2(load_gpt2(folder), tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", attn_implementation="eager")
    assert torch.equal(again.eval()(text).logits, theirs(text).logits)
    kept = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "resid_pdrop", "activation_function")
    for key in (*kept, "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "tie_word_embeddings", "n_inner"):
        assert getattr(again.config, key) == getattr(theirs.config, key), key


def test_dropout_is_written(tmp_path):
    save_gpt2(GPT(GPTConfig(**{**vars(TINY), "dropout": 0.3})), tmp_path / "gpt2")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "gpt2")
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.3
    assert load_gpt2(tmp_path / "gpt2").config.dropout == 0.3


def test_a_model_in_double_precision_is_written_in_float32(ours, tmp_path):
    save_gpt2(ours.double(), tmp_path / "gpt2")
    stored = load_file(tmp_path / "gpt2" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert ours.head.weight.dtype == torch.float64, "the model itself stays"


def test_gpt2s_own_vocabulary_has_its_end(tmp_path):
    save_gpt2(GPT(GPTConfig(50257, 8, 1, 1, 2)), tmp_path / "gpt2")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "gpt2")
    assert config.bos_token_id == config.eos_token_id == 50256


@pytest.mark.parametrize("special", [(), ("<|endoftext|>",), ("<|a b|>", "<|endoftext|>", "<|user|>")], ids=len)
def test_transformers_opens_the_tokenizer(special, tmp_path):
    tokenizer = BPETokenizer(MERGES, special)
    save_gpt2(GPT(GPTConfig(tokenizer.vocab_size, 128, 1, 1, 8)), tmp_path / "gpt2", tokenizer)
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
    save_gpt2(GPT(GPTConfig(50257, 8, 1, 1, 2)), tmp_path / "gpt2", tokenizer)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    text = "Hello, I'm a language model, naïve — 東京 1603.\n\n  x"
    assert opened.encode(text) == tokenizer.encode(text) and opened.eos_token_id == 50256


def test_what_lies_beside_is_kept_and_what_would_be_read_in_its_place_is_not(theirs, tmp_path):
    folder, tokenizer = tmp_path / "gpt2", BPETokenizer(MERGES)
    theirs.save_pretrained(folder, max_shard_size="20KB")
    (folder / "README.md").write_text("its card")
    (folder / "old").mkdir()
    (folder / "old" / "model.safetensors").write_text("kept")
    (folder / "tokenizer.json").write_text("{}")
    model = stir(GPT(GPTConfig(tokenizer.vocab_size, 16, 1, 1, 8)))
    save_gpt2(model, folder)
    assert (folder / "tokenizer.json").is_file()
    save_gpt2(model, folder, tokenizer)
    left = {path.name for path in folder.iterdir()}
    assert left - {"generation_config.json"} == set(
        "README.md config.json merges.txt model.safetensors old tokenizer_config.json vocab.json".split()
    )
    assert (folder / "README.md").read_text() == "its card" and (folder / "old" / "model.safetensors").is_file()
    assert torch.equal(load_gpt2(folder).head.weight, model.head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"], "nothing temporary is left"


def test_a_full_disk_leaves_the_old_model(ours, tmp_path):
    save_gpt2(ours, tmp_path / "gpt2")
    before = {path.name: path.read_bytes() for path in (tmp_path / "gpt2").iterdir()}
    with pytest.raises(OSError, match="gpt2 could not be written .*: nothing at that place was changed"), full_disk():
        save_gpt2(stir(GPT(TINY)), tmp_path / "gpt2")
    assert {path.name: path.read_bytes() for path in (tmp_path / "gpt2").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]


def test_a_full_disk_leaves_nothing_where_nothing_was(ours, tmp_path):
    with pytest.raises(OSError, match="gpt2 could not be written .*: nothing at that place was changed"), full_disk():
        save_gpt2(ours, tmp_path / "gpt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "none"])
def test_positions_that_gpt2_does_not_have(positions, tmp_path):
    model = GPT(GPTConfig(31, 8, 1, 1, 8, positions=positions))
    with pytest.raises(ValueError, match=f"GPT-2's layout has no {positions} positions, only learned ones: use"):
        save_gpt2(model, tmp_path / "gpt2")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model(ours, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has 260 tokens, the model 31: save the tokenizer that"):
        save_gpt2(ours, tmp_path / "gpt2", BPETokenizer(MERGES))
    assert list(tmp_path.iterdir()) == []


def test_places_where_no_folder_can_be(ours, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write gpt2 into: create it first"):
        save_gpt2(ours, tmp_path / "nowhere" / "gpt2")
    (tmp_path / "gpt2").write_text("precious")
    with pytest.raises(FileExistsError, match="gpt2 is a file: choose another name"):
        save_gpt2(ours, tmp_path / "gpt2")
    assert (tmp_path / "gpt2").read_text() == "precious"
