"""The probe against transformers' own attention maps, and against its promise to leave no trace."""

import pytest
import torch
from torch import nn

from conftest import SMALL, copy_into_gpt2
from gptlib import probe
from gptlib.attention import Attend, Head, MultiHeadAttention
from gptlib.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gptlib.model import Block


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
    with probe.patch(compiled.blocks[0].attention, torch.zeros_like):
        patched = compiled(idx)
    with probe.patch(model.blocks[0].attention, torch.zeros_like):
        torch.testing.assert_close(patched, model(idx))
