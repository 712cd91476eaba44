"""LoRA against peft, an independent implementation, and by hand."""

import copy
import json
from contextlib import suppress

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import SMALL, full_disk, stir
from gptlib.lora import LoRALinear, add_lora, load_adapter, lora_layers, merge_lora, save_adapter
from gptlib.model import GPT, GPTConfig
from gptlib.modern import ModernConfig, ModernGPT
from gptlib.training import evaluate, train

MODERN = ModernConfig(13, 8, 2, 4, 2, 16, 24)
UNTIED = ModernConfig(13, 8, 2, 4, 2, 16, 24, tied=False)
ALL = {"qkv_proj", "out_proj", "up_proj", "down_proj"}
TEXT = torch.randint(SMALL.vocab_size, (200,), generator=torch.Generator().manual_seed(1))


def make(config):
    return stir({GPTConfig: GPT, ModernConfig: ModernGPT}[type(config)](config)).eval()


def with_adapter(config=SMALL, rank=2, **options):
    """A model whose adapter changes its output."""
    model = make(config)
    for layer in add_lora(model, rank, **options):
        nn.init.normal_(layer.B, std=0.1)
    return model


def state(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- one layer ----------------------------------------------------------------------------------------------------


def test_a_change_of_rank_1_by_hand():
    """W = identity, A = [1 2], B = [3 4]ᵀ, alpha / r = 10: x = [1 1] gives x + 10 · 3 · [3 4]."""
    layer = LoRALinear(nn.Linear(2, 2, bias=False), rank=1, alpha=10.0)
    with torch.no_grad():
        for parameter, values in ((layer.base.weight, [[1, 0], [0, 1]]), (layer.A, [[1, 2]]), (layer.B, [[3], [4]])):
            parameter.copy_(torch.tensor(values))
    assert layer(torch.tensor([[1.0, 1.0]])).tolist() == [[91.0, 121.0]]
    assert layer.change().tolist() == [[30.0, 60.0], [40.0, 80.0]]


def test_the_rank_divides_alpha():
    layers = [LoRALinear(nn.Linear(6, 5), rank, 12.0) for rank in (1, 4)]
    for layer in layers:
        nn.init.ones_(layer.A), nn.init.ones_(layer.B)
    for layer in layers:
        torch.testing.assert_close(layer.change(), torch.full((5, 6), 12.0))  # 12 / r, and r products of ones


def test_a_begins_between_plus_and_minus_one_over_the_root_of_the_inputs():
    layer = LoRALinear(nn.Linear(400, 60), 50, generator=torch.Generator().manual_seed(0))
    assert layer.A.abs().max() <= 0.05 and layer.A.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)
    assert abs(layer.A.mean()) < 0.001 and not layer.B.any()


@pytest.mark.parametrize("rank", [0, -1, 6, 100])
def test_a_rank_that_no_matrix_of_this_shape_has(rank):
    with pytest.raises(ValueError, match=rf"rank={rank}: a matrix \(5, 7\) has a rank from 1 to 5"):
        LoRALinear(nn.Linear(7, 5), rank)


# --- a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, MODERN, UNTIED])
def test_at_first_the_output_is_the_same_bit_for_bit(config, idx):
    model = make(config)
    before = model(idx)
    layers = add_lora(model, 3)
    assert torch.equal(model(idx), before)
    nn.init.normal_(layers[-1].B)
    assert not torch.allclose(model(idx), before)


@pytest.mark.parametrize("config", [SMALL, MODERN, UNTIED])
def test_only_the_factors_are_trained(config):
    model, unchanged = make(config), make(config).state_dict().keys()
    names = ALL | ({"gate_proj"} if config is not SMALL else set())
    layers = add_lora(model, 3)
    assert {name.split(".")[-1] for name in lora_layers(model)} == names
    assert len(layers) == len(names) * config.n_layer and layers == [*lora_layers(model).values()]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[-1] for name in trained} == {"A", "B"}
    shapes = [layer.base.weight.shape for layer in layers]
    assert sum(p.numel() for p in trained.values()) == sum(3 * (n_in + n_out) for n_out, n_in in shapes)
    before = state(model)
    train(model, TEXT, steps=3, batch_size=2, learning_rate=0.01)
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained.keys()
    merge_lora(model)
    assert model.state_dict().keys() == unchanged and all(p.requires_grad for p in model.parameters())


def test_some_layers_only():
    model = make(SMALL)
    layers = add_lora(model, 2, targets=["qkv_proj"])
    assert lora_layers(model) == {f"blocks.{i}.attention.qkv_proj": layer for i, layer in enumerate(layers)}
    model = make(UNTIED)
    (layer,) = add_lora(model, 2, targets={"lm_head"})
    assert model.lm_head is layer


def test_the_seed_decides_a():
    first, again, other = (state(with_adapter(seed=seed)) for seed in (1, 1, 2))
    a = [name for name in first if name.endswith(".A")]
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in a)
    assert not torch.equal(first[a[0]], first[a[-4]])  # the layers do not share their random numbers


@pytest.mark.parametrize("config", [SMALL, MODERN, UNTIED])
def test_merged_and_unmerged_agree(config, idx):
    model = with_adapter(config)
    plain, before = {name: m.base.weight + m.change() for name, m in lora_layers(model).items()}, model(idx)
    kinds = {name: type(m) for name, m in make(config).named_modules()}
    merge_lora(model)
    torch.testing.assert_close(model(idx), before, rtol=1e-4, atol=1e-4)
    assert {name: type(m) for name, m in model.named_modules()} == kinds
    assert all(torch.equal(model.get_submodule(name).weight, weight) for name, weight in plain.items())
    add_lora(model, 1)  # a second adapter, on what the first one has changed


def test_training_learns_and_the_change_has_the_rank():
    model, text = make(SMALL), torch.arange(400) % SMALL.vocab_size
    layers, before = add_lora(model, 2), evaluate(model, text)
    train(model, text, steps=60, batch_size=8, learning_rate=0.02, weight_decay=0.0)
    assert evaluate(model, text) < before / 1.5
    for layer in layers:
        assert torch.linalg.matrix_rank(layer.change().double(), rtol=1e-6) == 2


@pytest.mark.parametrize("rank", [0, 13])
def test_a_rank_above_a_matrix_leaves_the_model_as_it_was(rank):
    model = make(SMALL)
    before = state(model)
    with pytest.raises(ValueError, match=rf"rank={rank}: a matrix \(\d+, \d+\) has a rank from 1 to 12"):
        add_lora(model, rank)
    assert same(state(model), before) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("targets", [["query"], ["qkv_proj", "gate_proj"], ["lm_head"], [], ["norm1"], ["blocks"]])
def test_targets_that_are_no_linear_layers_of_their_own(targets):
    model = make(SMALL)
    with pytest.raises(ValueError, match="the linear layers with weights of their own are .*'down_proj', 'out_proj'"):
        add_lora(model, 2, targets=targets)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_a_second_adapter():
    model = with_adapter()
    before = state(model)
    with pytest.raises(ValueError, match=r"has an adapter already: merge_lora\(model\) first"):
        add_lora(model, 1, targets=["qkv_proj"])
    assert same(state(model), before)


def test_another_dtype():
    model = with_adapter(MODERN).double()
    merge_lora(model)
    model = make(MODERN).bfloat16()
    assert {p.dtype for layer in add_lora(model, 2) for p in layer.parameters()} == {torch.bfloat16}


# --- peft ---------------------------------------------------------------------------------------------------------


def peft_twin(model, rank, alpha, targets):
    """A copy of a model without an adapter, to which peft has added one."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(targets), lora_dropout=0.0)
    return peft.inject_adapter_in_model(config, copy.deepcopy(model))


def factors(twin):
    """peft's A and B by the name of the layer."""
    found = {name: m for name, m in twin.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    return {name: (m.lora_A["default"].weight, m.lora_B["default"].weight) for name, m in found.items()}


@pytest.mark.parametrize("config", [SMALL, MODERN])
@pytest.mark.parametrize("rank, alpha, targets", [(1, 32.0, ALL), (4, 6.0, ALL), (3, 3.0, {"qkv_proj"})])
def test_outputs_gradients_and_merged_weights_are_those_of_peft(config, rank, alpha, targets, idx):
    model = make(config)
    twin = peft_twin(model, rank, alpha, targets)
    add_lora(model, rank, alpha, targets)
    theirs = factors(twin)
    assert theirs.keys() == lora_layers(model).keys()
    with torch.no_grad():
        for name, layer in lora_layers(model).items():
            assert not theirs[name][1].any() and layer.A.shape == theirs[name][0].shape
            theirs[name][1].normal_(std=0.1)
            layer.A.copy_(theirs[name][0]), layer.B.copy_(theirs[name][1])
    outputs = model(idx), twin(idx)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    for output in outputs:
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    for name, layer in lora_layers(model).items():
        for ours, other in zip((layer.A, layer.B), theirs[name]):
            torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-2 * ours.grad.abs().max().item())
    merged = {name: m.get_base_layer().weight + m.get_delta_weight("default") for name, m in twin.named_modules()
              if name in theirs}  # fmt: skip
    merge_lora(model)
    for name, weight in merged.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight, rtol=1e-5, atol=1e-6)


def test_a_begins_as_spread_as_in_peft():
    """Kaiming's uniform distribution with a = √5, whose bound is 1 over the root of the inputs."""
    model = make(GPTConfig(13, 8, 1, 1, 96))
    theirs = factors(peft_twin(model, 32, 32.0, {"up_proj"}))["blocks.0.feed_forward.up_proj"][0]
    (layer,) = add_lora(model, 32, targets=["up_proj"])
    assert layer.A.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
    assert layer.A.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, MODERN, UNTIED])
def test_an_adapter_comes_back(config, idx, tmp_path):
    torch.manual_seed(5)
    model = with_adapter(config, rank=3, alpha=7.0, targets=["out_proj", "up_proj"], seed=4)
    save_adapter(model, tmp_path / "a.safetensors", made_by="a test", steps=3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    torch.manual_seed(5)
    fresh = make(config)
    facts = load_adapter(fresh, str(tmp_path / "a.safetensors"))
    assert torch.equal(fresh(idx), model(idx)) and same(state(fresh), state(model))
    base = facts.pop("base")
    assert facts == {"made_by": "a test", "steps": 3, "rank": 3, "alpha": 7.0, "targets": ["out_proj", "up_proj"]}
    assert base["config"] == vars(config)
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(5)
    save_adapter(with_adapter(), tmp_path / "a.safetensors")
    torch.manual_seed(5)
    return make(SMALL), tmp_path / "a.safetensors"  # its base


def refused(model, path, match):
    before = state(model)
    with pytest.raises(ValueError, match=match):
        load_adapter(model, path)
    assert same(state(model), before)


def test_an_adapter_of_another_model(saved):
    _, path = saved
    larger = GPTConfig(**{**vars(SMALL), "context_length": 9})
    for other in (make(SMALL), make(larger), make(MODERN)):
        refused(other, path, "belongs to another base model")


def test_an_adapter_of_what_a_model_was_before(saved):
    """Once it is merged, or one weight has changed, the adapter does not fit any more."""
    model, path = saved
    load_adapter(model, path)
    refused(model, path, "has an adapter already")
    merge_lora(model)
    refused(model, path, "belongs to another base model")


def test_a_damaged_file_or_another_one(saved, tmp_path):
    model, path = saved
    content = path.read_bytes()
    for damaged in (content[:-1], content[:100], b"", b"\xff" * 200):
        path.write_bytes(damaged)
        refused(model, path, "is damaged or holds no adapter")
    save_file({"x": torch.ones(2)}, path)
    refused(model, path, "is damaged or holds no adapter")
    with pytest.raises(FileNotFoundError):
        load_adapter(model, tmp_path / "missing.safetensors")


def test_a_model_without_an_adapter_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="no adapter: call add_lora first, and save before merge_lora"):
        save_adapter(make(SMALL), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_file_as_it_was(saved):
    _, path = saved
    before = path.read_bytes()
    with full_disk(), suppress(OSError):
        save_adapter(with_adapter(rank=4), path)
    assert path.read_bytes() == before and [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_file_that_the_format_can_read(saved):
    model, path = saved
    tensors = load_file(path)
    load_adapter(model, path)
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert same(tensors, {name: p.detach() for name, p in expected.items()})
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert json.loads(header["__metadata__"]["adapter"])["rank"] == 2
