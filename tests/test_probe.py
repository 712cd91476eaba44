"""The probe against transformers' maps and hidden states, against edited weights, and its promise to leave no trace."""

import copy

import pytest
import torch
from torch import nn

from conftest import SMALL, copy_into_gpt2, stir
from gptlib import probe
from gptlib.attention import Attend, Head, MultiHeadAttention
from gptlib.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gptlib.model import GPT, Block, GPTConfig
from gptlib.modern import ModernConfig, ModernGPT


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_maps_are_gpt2s(model, idx):
    expected = copy_into_gpt2(model)(idx, output_attentions=True).attentions
    with probe.attention(model) as maps:
        model(idx)
    assert len(maps) == SMALL.n_layer
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.shape == (4, SMALL.n_head, 8, 8)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_rows_are_distributions_over_the_past(model, idx):
    with probe.attention(model) as maps:
        model(idx[:, :5])
    for weights in maps:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 3, 5))
        assert (weights.triu(1) == 0).all() and (weights >= 0).all()


def test_watching_changes_nothing_and_leaves_nothing(model, idx):
    before, state = model(idx), list(model.state_dict())
    with probe.attention(model) as maps:
        watched = model(idx)
        assert hooks(model) == SMALL.n_layer
    assert torch.equal(watched, before)
    assert hooks(model) == 0 and list(model.state_dict()) == state
    assert all(not weights.requires_grad for weights in maps)
    model(idx)
    assert len(maps) == SMALL.n_layer, "nothing is recorded afterwards"


def test_an_error_leaves_no_hook_either(model, idx):
    with pytest.raises(ZeroDivisionError), probe.attention(model):
        model(idx)
        raise ZeroDivisionError
    assert hooks(model) == 0


def test_a_second_pass_starts_anew(model, idx):
    with probe.attention(model) as maps:
        model(idx)
        first = list(maps)
        model(idx[:1, :3])
        assert [weights.shape for weights in maps] == [(1, 3, 3, 3)] * SMALL.n_layer
        model(idx)
    for again, once in zip(maps, first, strict=True):
        assert torch.equal(again, once)


def test_two_probes_at_once(model, idx):
    with probe.attention(model) as outer, probe.attention(model.blocks[1]) as inner:
        model(idx)
    assert torch.equal(inner[0], outer[1]) and len(inner) == 1


@pytest.mark.parametrize("causal", [True, False])
def test_a_single_layer(causal):
    x = torch.randn(2, 5, 12)
    head, many = Head(12, 4, causal), MultiHeadAttention(12, 3, causal=causal)
    with probe.attention(head) as maps:
        head(x)
    scores = head.query(x) @ head.key(x).mT / 2
    expected = (scores + torch.full((5, 5), -torch.inf).triu(1) if causal else scores).softmax(-1)
    torch.testing.assert_close(maps[0], expected.detach())
    with probe.attention(many) as maps:
        many(x)
    assert maps[0].shape == (2, 3, 5, 5) and bool((maps[0].triu(1) == 0).all()) is causal


def test_dropout_is_not_part_of_the_weights():
    core, x = Attend(dropout=0.5), torch.randn(1, 5, 4)
    with probe.attention(core) as maps:
        core(x, x, x)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(1, 5))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_mask_of_the_caller_is_part_of_the_weights(by_name):
    core, x = Attend(causal=False), torch.randn(1, 5, 4)
    mask = torch.tensor([True, False, True, True, False])
    with probe.attention(core) as maps:
        out = core(x, x, x, mask=mask) if by_name else core(x, x, x, mask)
    torch.testing.assert_close(maps[0] @ x, out)
    assert (maps[0][..., ~mask] == 0).all()


def test_self_attention_and_cross_attention_are_told_apart():
    model = EncoderDecoder(EncoderDecoderConfig(11, 9, n_layer=2, n_head=3, n_embd=12))
    source, target = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 0, 0, 0]]), torch.tensor([[1, 3, 4], [1, 5, 6]])
    shapes = {"": [7, 7] * 2 + [3, 3, 3, 7] * 2, "encoder": [7, 7] * 2, "decoder": [3, 3, 3, 7] * 2}
    shapes |= {
        "cross_attention": [3, 7] * 2,
        "decoder.blocks.0": [3, 3, 3, 7],
        "self_attention": [7, 7] * 2 + [3, 3] * 2,
    }
    for name, sizes in shapes.items():
        with probe.attention(model, name) as maps:
            model(source, target)
        assert [size for weights in maps for size in weights.shape[2:]] == sizes, name
        assert all(weights.shape[:2] == (2, 3) for weights in maps)
        for weights in maps:
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
            assert weights.shape[-1] == 3 or (weights[1, ..., 4:] == 0).all() and (weights[0] > 0).all(), "padding"
    with pytest.raises(ValueError, match="EncoderDecoder contains no Attend .*'cross-attention'"):
        with probe.attention(model, "cross-attention"):
            pass


def test_a_model_without_attention():
    with pytest.raises(ValueError, match="Linear contains no Attend"):
        with probe.attention(nn.Linear(2, 2)):
            pass


# --- activations, patching, compiled models -----------------------------------------------------------------------


def test_recorded_outputs_are_gpt2s_hidden_states(model, idx):
    expected = copy_into_gpt2(model)(idx, output_hidden_states=True).hidden_states
    with probe.record(model, Block) as residual:
        model(idx)
    assert len(residual) == SMALL.n_layer
    torch.testing.assert_close(residual[0], expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.final_norm(residual[1]), expected[2], rtol=1e-5, atol=1e-5)
    assert hooks(model) == 0 and not residual[0].requires_grad


def test_a_patched_module_is_replaced_and_only_inside(model, idx):
    before = model(idx)
    with probe.record(model, Block) as residual, probe.patch(model.blocks[0].attention, torch.zeros_like):
        patched = model(idx)
    x = model.token_embedding(idx) + model.position_embedding.weight
    x = x + model.blocks[0].feed_forward(model.blocks[0].norm2(x))
    torch.testing.assert_close(residual[0], x.detach())
    assert not torch.allclose(patched, before)
    assert torch.equal(model(idx), before) and hooks(model) == 0
    with pytest.raises(ZeroDivisionError), probe.patch(model.blocks[0], torch.zeros_like):
        raise ZeroDivisionError
    assert hooks(model) == 0


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6")
def test_a_compiled_model_is_seen_like_a_plain_one(model, idx):
    compiled = torch.compile(model, backend="eager")
    compiled(idx)
    with probe.attention(model) as expected:
        model(idx)
    with probe.attention(compiled) as maps:
        compiled(idx)
    assert len(maps) == SMALL.n_layer and all(torch.equal(a, b) for a, b in zip(maps, expected))
    with probe.activations(compiled, "blocks.1") as found, probe.patch(compiled.blocks[0].attention, torch.zeros_like):
        patched = compiled(idx)
    torch.testing.assert_close(model.lm_head(model.final_norm(found["blocks.1"])), patched)
    with probe.patch(model.blocks[0].attention, torch.zeros_like):
        torch.testing.assert_close(patched, model(idx))


# --- ablation, patching from another run, the sum that the residual stream is ---------------------------------------


def build(kind: str):
    """One model of each kind that the probe is for, in which every parameter counts."""
    sizes = {"vocab_size": 13, "context_length": 8, "n_layer": 2, "n_embd": 24}
    if kind == "modern":
        config = ModernConfig(**sizes, n_head=6, n_kv_head=2, n_hidden=20, tied=False, rotary_base=50.0, norm_eps=0.1)
        return stir(ModernGPT(config)).eval()
    return stir(GPT(GPTConfig(**sizes, n_head=3, position_encoding=kind))).eval()


@pytest.fixture(params=["learned", "sinusoidal", "rotary", "none", "modern"])
def any_model(request):
    return build(request.param)


@torch.no_grad()
def test_activations_by_name_are_gpt2s(model, idx):
    theirs = copy_into_gpt2(model)
    states = theirs(idx, output_hidden_states=True).hidden_states
    with probe.activations(model, "blocks.0", "blocks.1.norm1", "dropout", "blocks.0.attention.attend") as found:
        model(idx[:1])
        model(idx)
    assert list(found) == ["dropout", "blocks.0.attention.attend", "blocks.0", "blocks.1.norm1"], "in their order"
    for name, expected in [("dropout", states[0]), ("blocks.0", states[1])]:
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5)
    expected = theirs.transformer.h[1].ln_1(states[1])
    torch.testing.assert_close(found["blocks.1.norm1"], expected, rtol=1e-5, atol=1e-5)
    assert found["blocks.0.attention.attend"].shape == (4, 3, 8, 4)
    assert hooks(model) == 0
    with torch.enable_grad(), probe.activations(model, "blocks.0") as found:
        model(idx)
    assert not found["blocks.0"].requires_grad


def test_a_name_that_is_no_modules(model, idx):
    for watch in (probe.activations, lambda *args: probe.patch_from(*args, torch.zeros(1))):
        with (
            pytest.raises(ValueError, match=r"'blocks.2'.*blocks.N.attention.attend.*lm_head"),
            watch(model, "blocks.2"),
        ):
            pass
    with pytest.raises(ValueError), probe.activations(model, "blocks.0", "blocks.2"):
        pass
    assert hooks(model) == 0


@torch.no_grad()
def test_an_ablated_head_is_one_without_its_columns(any_model, idx):
    """The oracle edits the weights: zeros in the columns of `out_proj` that belong to the head."""
    heads, edited = [(0, 1), (1, 0), (1, 2)], copy.deepcopy(any_model)
    D = 24 // any_model.config.n_head
    for layer, head in heads:
        edited.blocks[layer].attention.out_proj.weight[:, head * D : (head + 1) * D] = 0
    before = any_model(idx)
    with probe.ablate(any_model, *heads):
        torch.testing.assert_close(any_model(idx), edited(idx))
    assert torch.equal(any_model(idx), before) and hooks(any_model) == 0
    with probe.ablate(any_model):
        assert torch.equal(any_model(idx), before)


@torch.no_grad()
def test_mean_ablation_is_a_constant_in_the_bias(model, idx):
    """The oracle: the head's mean output, times its columns of `out_proj`, moves into the bias."""
    mean, edited = probe.mean_heads(model, idx), copy.deepcopy(model)
    with probe.activations(model, "blocks.1.attention.attend") as found:
        model(idx)
    expected = torch.stack([found["blocks.1.attention.attend"][:, h].flatten(0, 1).mean(0) for h in range(3)])
    assert mean.shape == (2, 3, 4)
    torch.testing.assert_close(mean[1], expected)
    projection = edited.blocks[1].attention.out_proj
    projection.bias += projection.weight[:, 8:] @ expected[2]
    projection.weight[:, 8:] = 0
    with probe.ablate(model, (1, 2), mean=mean):
        torch.testing.assert_close(model(idx), edited(idx))


@pytest.mark.parametrize("head", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_head_that_is_not_there(model, head):
    for use in (lambda: probe.ablate(model, (0, 0), head).__enter__(), lambda: probe.ov_circuit(model, *head)):
        with pytest.raises(ValueError, match=f"no head {head[1]} in layer {head[0]}"):
            use()
    assert hooks(model) == 0


@torch.no_grad()
def test_a_patched_stream_gives_the_other_runs_logits(any_model, idx):
    """Everything after the patch follows from the stream: patched whole, the other run's logits; at one position, its
    own past alone counts."""
    other, name = (idx + 1) % 13, "blocks.0"
    with probe.activations(any_model, name) as found:
        expected = any_model(other)
    before = any_model(idx)
    with probe.patch_from(any_model, name, found[name]):
        torch.testing.assert_close(any_model(idx), expected)
    with probe.patch_from(any_model, name, found[name], positions=range(8)):
        torch.testing.assert_close(any_model(idx), expected)
    with probe.patch_from(any_model, name, found[name], positions=[0, 1, 2]):
        patched = any_model(idx)
    torch.testing.assert_close(patched[:, :3], expected[:, :3])
    assert not torch.allclose(patched[:, 3], expected[:, 3]) and not torch.allclose(patched[:, 3], before[:, 3])
    with probe.patch_from(any_model, name, found[name], positions=-1):
        patched = any_model(idx)
    assert torch.equal(patched[:, :-1], before[:, :-1]) and not torch.equal(patched[:, -1], before[:, -1])
    assert torch.equal(any_model(idx), before) and hooks(any_model) == 0


@torch.no_grad()
def test_a_mask_for_each_sequence_and_one_head(model, idx):
    name = "blocks.1.attention.attend"
    with probe.activations(model, name) as found:
        model((idx + 1) % 13)
        source = found[name]
        model(idx)
        own = found[name]
    mask, ends = torch.rand(4, 8) < 0.5, torch.tensor([True] + 6 * [False] + [True]).expand(4, 8)
    cases = [
        (mask, 1, mask), (mask, None, mask), (ends[0], 2, ends), ([0, 7], 0, ends), (ends, 1, ends),
        (None, 2, mask >= 0),
    ]  # fmt: skip
    for positions, head, where in cases:
        this = torch.tensor([head in (None, h) for h in range(3)])[:, None, None]
        expected = torch.where(where[:, None, :, None] & this, source, own)
        with probe.activations(model, name) as before, probe.patch_from(model, name, source, positions, head):
            with probe.activations(model, name) as after:
                model(idx)
        assert torch.equal(before[name], own), "what was recorded before the patch stays as it was"
        assert torch.equal(after[name], expected) and not torch.equal(expected, own)


def test_a_source_of_another_shape(model, idx):
    with probe.activations(model, "blocks.0", "blocks.0.attention.attend") as found:
        model(idx[:, :7])
    for name, x, head in [("blocks.0", idx, None), ("blocks.0", idx[:1, :7], None), ("blocks.0", idx[:, :7], 1)]:
        with probe.patch_from(model, name, found[name], head=head):
            with pytest.raises(ValueError, match="blocks.0 is .*the source "):
                model(x)
    assert hooks(model) == 0


@torch.no_grad()
def test_the_parts_of_the_stream_add_up_to_gpt2s_hidden_states(model, idx):
    states = copy_into_gpt2(model)(idx, output_hidden_states=True).hidden_states
    names, parts = probe.residual_parts(model, idx)
    layer = ["H0", "H1", "H2", " bias", " feed-forward"]
    expected = ["token embedding", "position embedding", *(f"L{n}{part}" for n in range(2) for part in layer)]
    assert names == expected and parts.shape == (12, 4, 8, 12)
    torch.testing.assert_close(parts[:2].sum(0), states[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts[:7].sum(0), states[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.final_norm(parts.sum(0)), states[2], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_part_is_what_its_module_adds(any_model, idx):
    names, parts = probe.residual_parts(any_model, idx)
    found = dict(zip(names, parts, strict=True))
    watched = ["blocks.0", "blocks.1", "blocks.0.attention", "blocks.1.feed_forward"]
    with probe.activations(any_model, *watched) as outputs:
        any_model(idx)
    torch.testing.assert_close(found["L1 feed-forward"], outputs["blocks.1.feed_forward"])
    torch.testing.assert_close(parts.sum(0), outputs["blocks.1"], rtol=1e-4, atol=1e-4)
    attention = [part for name, part in found.items() if name.startswith("L0") and "feed" not in name]
    torch.testing.assert_close(sum(attention), outputs["blocks.0.attention"], rtol=1e-4, atol=1e-4)
    with probe.ablate(any_model, (0, 1)), probe.activations(any_model, "blocks.0.attention") as without:
        any_model(idx)
    difference = outputs["blocks.0.attention"] - without["blocks.0.attention"]
    torch.testing.assert_close(found["L0H1"], difference, rtol=1e-4, atol=1e-4)
    has_table = any_model.config.position_encoding in ("learned", "sinusoidal")
    assert ("position embedding" in found) is has_table and hooks(any_model) == 0


@torch.no_grad()
def test_what_the_parts_add_to_a_logit_sums_to_it(any_model, idx):
    logits, tokens = any_model(idx), torch.randint(13, (4, 8))
    names, added = probe.logit_attribution(any_model, idx, tokens)
    assert added.shape == (len(names), 4, 8) and ("final norm bias" in names) is isinstance(any_model, GPT)
    torch.testing.assert_close(added.sum(0), logits.gather(-1, tokens[..., None])[..., 0], rtol=1e-4, atol=1e-4)
    before, parts = probe.residual_parts(any_model, idx)
    norm, stream = any_model.final_norm, parts.sum(0)
    centered = stream - stream.mean(-1, keepdim=True) if isinstance(any_model, GPT) else stream
    own = parts[3] - (parts[3].mean(-1, keepdim=True) if isinstance(any_model, GPT) else 0)
    scale = (centered.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    expected = (own / scale * norm.weight * any_model.lm_head.weight[tokens]).sum(-1)
    torch.testing.assert_close(added[3], expected, rtol=1e-4, atol=1e-4)


def test_a_capped_logit_is_no_sum(idx):
    model = ModernGPT(ModernConfig(13, 8, 1, 2, 1, 12, 20, soft_cap=5.0))
    with pytest.raises(ValueError, match="soft_cap"):
        probe.logit_attribution(model, idx, idx)


@torch.no_grad()
def test_a_head_writes_what_its_ov_circuit_says(any_model, idx):
    """The first position attends to itself alone: there, a head writes x @ ov, if the value has no bias."""
    names, _ = probe.residual_parts(any_model, idx)
    for block in any_model.blocks:
        if block.attention.qkv_proj.bias is not None:
            block.attention.qkv_proj.bias.zero_()
    with probe.activations(any_model, "blocks.1.norm1") as found:
        _, parts = probe.residual_parts(any_model, idx)
        any_model(idx)
    for head in range(any_model.config.n_head):
        ov = probe.ov_circuit(any_model, 1, head)
        written = parts[names.index(f"L1H{head}")][:, 0]
        torch.testing.assert_close(found["blocks.1.norm1"][:, 0] @ ov, written, rtol=1e-4, atol=1e-4)
        assert ov.shape == (24, 24) and torch.linalg.matrix_rank(ov) == 24 // any_model.config.n_head


@torch.no_grad()
def test_a_heads_weights_are_the_softmax_of_its_qk_circuit(any_model, idx):
    for block in any_model.blocks:
        if block.attention.qkv_proj.bias is not None:
            block.attention.qkv_proj.bias.zero_()
    with probe.activations(any_model, "blocks.1.norm1") as found, probe.attention(any_model) as maps:
        any_model(idx)
    x, last = found["blocks.1.norm1"], 7
    for head in range(any_model.config.n_head):
        circuits = [probe.qk_circuit(any_model, 1, head, distance=last - t) for t in range(8)]
        scores = torch.stack([(x[:, last] @ qk * x[:, t]).sum(-1) for t, qk in enumerate(circuits)], dim=-1)
        torch.testing.assert_close(scores.softmax(-1), maps[1][:, head, last], rtol=1e-4, atol=1e-5)
        moved = not torch.allclose(circuits[0], circuits[7])
        assert moved is (any_model.config.position_encoding == "rotary")


def test_scores_of_normalized_queries_have_no_matrix():
    model = ModernGPT(ModernConfig(13, 8, 1, 2, 1, 12, 20, qk_norm=True))
    with pytest.raises(ValueError, match="qk_norm"):
        probe.qk_circuit(model, 0, 0)


@torch.no_grad()
def test_a_model_of_attention_alone_needs_no_configuration():
    layers = nn.Sequential(MultiHeadAttention(12, 3), MultiHeadAttention(12, 3))
    x = torch.randn(2, 5, 12)
    with probe.ablate(layers, (1, 0), (1, 1), (1, 2)):
        torch.testing.assert_close(layers(x), layers[1].out_proj.bias.expand(2, 5, 12))
    assert probe.mean_heads(layers, x).shape == (2, 3, 4)
    assert probe.ov_circuit(layers, 1, 2).shape == probe.qk_circuit(layers, 1, 2).shape == (12, 12)
