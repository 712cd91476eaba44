"""The block and the GPT against transformers' GPT-2 with the same weights, and the start that GPT-2 makes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import SMALL, copy_into_gpt2, stir
from gptlib.model import GPT, Block, FeedForward, GPTConfig
from gptlib.training import next_token_loss, train


def config(**changes):
    return GPTConfig(**{**{"vocab_size": 13, "context_length": 8, "n_layer": 2, "n_head": 3, "n_embd": 12}, **changes})


# --- the same function as GPT-2 -----------------------------------------------------------------------------------


def test_logits_are_gpt2s(model, idx):
    theirs = copy_into_gpt2(model)
    for T in (1, 5, 8):
        torch.testing.assert_close(model(idx[:, :T]), theirs(idx[:, :T]).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [{}, {"n_head": 1, "n_layer": 1}, {"n_head": 12, "n_layer": 3}])
def test_logits_are_gpt2s_to_the_last_digits(size, idx):
    """In double precision the epsilon of a norm, or the other GELU, is far above what may differ."""
    model = stir(GPT(config(**size))).double().eval()
    torch.testing.assert_close(model(idx), copy_into_gpt2(model)(idx).logits, rtol=1e-10, atol=1e-10)


def test_gradients_are_gpt2s(model, idx):
    """Above all the gradient of the one matrix that both embeds and scores."""
    theirs = copy_into_gpt2(model)
    for logits in (model(idx), theirs(idx).logits):
        F.cross_entropy(logits.flatten(0, 1), idx.roll(-1, 1).flatten()).backward()
    core = theirs.transformer
    for ours, other in (
        (model.token_embedding.weight.grad, core.wte.weight.grad),
        (model.position_embedding.weight.grad, core.wpe.weight.grad),
        (model.blocks[0].attention.qkv_proj.weight.grad, core.h[0].attn.c_attn.weight.grad.mT),
        (model.blocks[1].norm2.weight.grad, core.h[1].ln_2.weight.grad),
    ):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)


def test_a_block_is_gpt2s(model):
    x = torch.randn(2, 7, 12)
    layer = copy_into_gpt2(model).transformer.h[0]
    blocked = torch.full((7, 7), -math.inf).triu(1)[None, None]
    expected = layer(x, attention_mask=blocked)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(model.blocks[0](x), expected, rtol=1e-5, atol=1e-5)


def test_the_feed_forward_is_its_formula():
    part, x = stir(FeedForward(5)).double(), torch.randn(2, 3, 5, dtype=torch.float64)
    wide = x @ part.up_proj.weight.T + part.up_proj.bias
    bent = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    torch.testing.assert_close(part(x), bent @ part.down_proj.weight.T + part.down_proj.bias)
    assert part.up_proj.out_features == 20


def test_a_block_whose_sublayers_add_nothing_is_the_identity():
    block, x = Block(12, 3), torch.randn(2, 5, 12)
    for part in (block.attention.out_proj, block.feed_forward.down_proj):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("t", range(8))
def test_nothing_depends_on_the_future_and_everything_on_the_past(t, model, idx):
    changed = idx.clone()
    changed[:, t] = (idx[:, t] + 1) % SMALL.vocab_size
    moved = (model(changed) - model(idx)).abs().amax(dim=(0, 2))
    assert (moved[:t] == 0).all() and (moved[t:] > 0).all()


def test_a_block_does_not_look_ahead():
    block, x = Block(12, 3), torch.randn(1, 6, 12)
    assert torch.equal(block(x)[:, :4], block(torch.cat([x[:, :4], torch.randn(1, 2, 12)], dim=1))[:, :4])


def test_sequences_of_a_batch_are_independent(model, idx):
    together = model(idx)
    for row in range(len(idx)):
        torch.testing.assert_close(together[row : row + 1], model(idx[row : row + 1]))


def test_the_same_token_at_another_position_has_other_logits(model):
    logits = model(torch.zeros(1, 8, dtype=torch.long))[0]
    assert all((logits[t] - logits[0]).abs().max() > 1e-3 for t in range(1, 8))


@pytest.mark.parametrize("part", ["embedding", "attention weights", "attention", "feed-forward"])
def test_dropout_acts_everywhere_in_training_and_nowhere_after(part, model, idx):
    silent = GPT(config(dropout=0.5))
    silent.load_state_dict(model.state_dict())
    assert torch.equal(silent.eval()(idx), model(idx))
    places = {
        "embedding": [silent.dropout],
        "attention weights": [block.attention.attend for block in silent.blocks],
        "attention": [block.attention.dropout for block in silent.blocks],
        "feed-forward": [block.feed_forward.dropout for block in silent.blocks],
    }
    for place in places[part]:
        place.train()
    assert not torch.equal(silent(idx), silent(idx))
    assert not torch.equal(silent(idx), model(idx))


# --- initialization --------------------------------------------------------------------------------------------------


def test_initialization_is_gpt2s():
    L, C = 4, 256
    model = GPT(GPTConfig(vocab_size=500, context_length=128, n_layer=L, n_head=4, n_embd=C))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            residual = name.endswith(("attention.out_proj.weight", "feed_forward.down_proj.weight"))
            std = 0.02 / math.sqrt(2 * L) if residual else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
            assert parameter.mean().abs() < 5 * std / parameter.numel() ** 0.5, name


def test_an_untrained_model_is_nearly_uniform():
    V = 65
    model = GPT(GPTConfig(vocab_size=V, context_length=64, n_layer=4, n_head=4, n_embd=64))
    idx = torch.randint(V, (16, 65))
    assert next_token_loss(model(idx[:, :-1]), idx[:, 1:]).item() == pytest.approx(math.log(V), abs=0.05)


@pytest.mark.parametrize(
    "sizes", [(13, 8, 2, 3, 12), (65, 64, 4, 4, 128), (100, 1, 1, 1, 1)], ids=["small", "usual", "least"]
)
def test_the_number_of_parameters(sizes):
    V, T, L, H, C = sizes
    model = GPT(GPTConfig(V, T, L, H, C))
    block = (3 * C * C + 3 * C) + (C * C + C) + (4 * C * C + 4 * C) + (4 * C * C + C) + 2 * 2 * C
    assert sum(parameter.numel() for parameter in model.parameters()) == V * C + T * C + L * block + 2 * C


def test_gpt2_has_124_million():
    with torch.device("meta"):
        model = GPT(GPTConfig(50257, 1024, 12, 12, 768))
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


# --- one matrix embeds and scores ---------------------------------------------------------------------------------


def tied(model):
    same = model.lm_head.weight is model.token_embedding.weight
    names = {name for name, _ in model.named_parameters()}
    return same and "lm_head.weight" not in names and "token_embedding.weight" in names


def test_the_output_layer_stays_tied_through_training_and_loading():
    model = GPT(config())
    assert tied(model)
    train(model, torch.randint(13, (50,)), steps=2, batch_size=2)
    assert tied(model)
    assert torch.equal(model.lm_head.weight, model.token_embedding.weight)
    other = GPT(config())
    other.load_state_dict(model.state_dict())
    assert tied(other)
    assert torch.equal(other.lm_head.weight, model.token_embedding.weight)


# --- what cannot be a model, or a text for it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_head": 5}, "n_embd=12 is not a multiple of n_head=5"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"context_length": 0}, "context_length=0"),
        ({"n_layer": -1}, "n_layer=-1"),
        ({"n_head": 0}, "n_head=0"),
        ({"n_embd": 0}, "n_embd=0"),
        ({"dropout": 1.1}, "dropout probability has to be between 0 and 1, but got 1.1"),
        ({"dropout": -0.1}, "dropout probability has to be between 0 and 1, but got -0.1"),
    ],
)
def test_sizes_that_make_no_model(changes, message):
    with pytest.raises(ValueError, match=message):
        GPT(config(**changes))


@pytest.mark.parametrize("wrong", [13, -1, 50257])
def test_an_id_outside_the_vocabulary(wrong, model, idx):
    idx[2, 3] = wrong
    with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary 0…12"):
        model(idx)


def test_a_text_longer_than_the_context(model):
    with pytest.raises(ValueError, match=r"9 tokens do not fit the model's context of 8: pass the last ones"):
        model(torch.zeros(1, 9, dtype=torch.long))
