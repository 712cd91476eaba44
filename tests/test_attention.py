"""Attention against PyTorch's own kernels, and against the formula written out one number at a time."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gptlib.attention import (
    Attend,
    Head,
    Linear,
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    merge_heads,
    split_heads,
)  # fmt: skip

SHAPES = [(1, 1), (5, 3), (2, 7, 5), (2, 3, 6, 4), (1, 4, 9, 1)]


def by_hand(q, k, causal):
    """softmax(q·k / √D), one query and one key at a time, in plain Python: q, k (T, D)."""
    q, k = q.tolist(), k.tolist()
    rows = []
    for t, query in enumerate(q):
        seen = k[: t + 1] if causal else k
        powers = [math.exp(sum(a * b for a, b in zip(query, key)) / len(query) ** 0.5) for key in seen]
        rows.append([power / sum(powers) for power in powers] + [0.0] * (len(k) - len(seen)))
    return torch.tensor(rows, dtype=torch.float64)


def draw(shape, dtype=torch.float64, parts=3):
    return [torch.randn(shape, dtype=dtype) * 2 for _ in range(parts)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_the_formula(shape, causal):
    q, k = draw(shape, parts=2)
    weights = attention_weights(q, k, causal).reshape(-1, shape[-2], shape[-2])
    for found, *pair in zip(weights, q.reshape(-1, *shape[-2:]), k.reshape(-1, *shape[-2:])):
        torch.testing.assert_close(found, by_hand(*pair, causal))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_those_of_the_fused_kernel(shape, causal, dtype):
    q, k, v = draw(shape, dtype)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(attention_weights(q, k, causal) @ v, expected)
    torch.testing.assert_close(Attend(causal)(q, k, v), expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_core_is_the_formula(shape, causal):
    q, k, v = draw(shape)
    rows = [by_hand(*pair, causal) for pair in zip(q.reshape(-1, *shape[-2:]), k.reshape(-1, *shape[-2:]))]
    expected = torch.stack(rows) @ v.reshape(-1, *shape[-2:])
    torch.testing.assert_close(Attend(causal)(q, k, v).reshape(expected.shape), expected)


def test_weights_are_a_distribution_over_the_past():
    weights = attention_weights(*draw((2, 3, 6, 4), parts=2))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 6, dtype=torch.float64))
    assert (weights >= 0).all() and (weights.triu(1) == 0).all()
    assert (weights.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert (weights[..., 0, 0] == 1).all()


def test_causal_is_the_default():
    q, k, v = draw((5, 4))
    torch.testing.assert_close(attention_weights(q, k), attention_weights(q, k, causal=True))
    for layer in (Attend(), Head(4, 2).attend, MultiHeadAttention(4, 2).attend):
        assert layer.causal
    assert not Head(4, 2, causal=False).attend.causal and not MultiHeadAttention(4, 2, causal=False).attend.causal


def test_dropout_on_the_weights_only_while_training():
    core, (q, k, v) = Attend(dropout=0.5), draw((2, 3, 6, 4))
    assert not torch.equal(core(q, k, v), core(q, k, v))
    core.eval()
    torch.testing.assert_close(core(q, k, v), Attend()(q, k, v), rtol=0, atol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_head_is_three_projections_and_the_formula(causal):
    head, x = Head(6, 5, causal).double(), torch.randn(2, 7, 6, dtype=torch.float64)
    q, k, v = (F.linear(x, part.weight, part.bias) for part in (head.query, head.key, head.value))
    expected = torch.stack([by_hand(q[b], k[b], causal) @ v[b] for b in range(2)])
    torch.testing.assert_close(head(x), expected)


def test_split_gives_each_head_its_share_and_merge_takes_it_back():
    x = torch.randn(2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    for h in range(3):
        assert torch.equal(heads[:, h], x[:, :, 4 * h : 4 * (h + 1)])
    assert torch.equal(merge_heads(heads), x)
    assert torch.equal(merge_heads(torch.stack([x[..., 4 * h : 4 * (h + 1)] for h in range(3)], dim=1)), x)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_head", [1, 2, 5])
def test_many_heads_are_pytorchs(n_head, causal):
    B, T, C = 3, 7, 10
    ours, theirs = MultiHeadAttention(C, n_head, causal=causal), nn.MultiheadAttention(C, n_head, batch_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv_proj.weight, "in_proj_bias": ours.qkv_proj.bias,
            "out_proj.weight": ours.out_proj.weight, "out_proj.bias": ours.out_proj.bias,
        }
    )  # fmt: skip
    x = torch.randn(B, T, C)
    blocked = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=blocked, need_weights=False)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_many_heads_are_single_heads_side_by_side():
    many, x = MultiHeadAttention(12, 3), torch.randn(2, 6, 12)
    heads = []
    for h in range(3):
        head = Head(12, 4)
        for part, weight, bias in zip(
            (head.query, head.key, head.value), many.qkv_proj.weight.split(12), many.qkv_proj.bias.split(12)
        ):
            part.load_state_dict({"weight": weight[4 * h : 4 * h + 4], "bias": bias[4 * h : 4 * h + 4]})
        heads.append(head(x))
    torch.testing.assert_close(many(x), many.out_proj(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("layer", [Head(12, 4), MultiHeadAttention(12, 3)], ids=["head", "many"])
def test_nothing_depends_on_the_future_and_everything_on_the_past(layer):
    x = torch.randn(2, 6, 12)
    before = layer(x)
    for t in range(6):
        changed = x.clone()
        changed[:, t] += 1
        moved = (layer(changed) - before).abs().amax(dim=(0, 2))
        assert (moved[:t] == 0).all() and (moved[t:] > 0).all()


def test_without_the_mask_everything_depends_on_everything():
    layer, x = MultiHeadAttention(12, 3, causal=False), torch.randn(1, 6, 12)
    changed = x.clone()
    changed[:, 5] += 1
    assert ((layer(changed) - layer(x)).abs().amax(dim=(0, 2)) > 0).all()


def test_channels_that_do_not_divide_among_the_heads():
    with pytest.raises(ValueError, match="n_embd=10 .*n_head=3"):
        MultiHeadAttention(10, 3)


# --- cross-attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("S", [1, 5, 9])
def test_cross_attention_is_pytorchs(S):
    """Queries from x, keys and values from the context."""
    C, x, context = 12, torch.randn(2, 6, 12), torch.randn(2, S, 12)
    ours, theirs = MultiHeadAttention(C, 3, causal=False), nn.MultiheadAttention(C, 3, batch_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv_proj.weight, "in_proj_bias": ours.qkv_proj.bias,
            "out_proj.weight": ours.out_proj.weight, "out_proj.bias": ours.out_proj.bias,
        }
    )  # fmt: skip
    expected, _ = theirs(x, context, context, need_weights=False)
    torch.testing.assert_close(ours(x, context), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x, x), ours(x))


# --- a mask of the caller -----------------------------------------------------------------------------------------


def padded(*lengths):
    """A padding mask (B, 1, 1, S) of sources with these lengths."""
    return torch.tensor([[s < length for s in range(max(lengths))] for length in lengths])[:, None, None]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_a_padding_mask_is_pytorchs(causal, cross):
    if causal and cross:
        return
    ours, theirs = MultiHeadAttention(12, 3, causal=causal), nn.MultiheadAttention(12, 3, batch_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv_proj.weight, "in_proj_bias": ours.qkv_proj.bias,
            "out_proj.weight": ours.out_proj.weight, "out_proj.bias": ours.out_proj.bias,
        }
    )  # fmt: skip
    x, mask = torch.randn(3, 5, 12), padded(5, 2, 4) if not cross else padded(7, 1, 4)
    context = torch.randn(3, 7, 12) if cross else x
    blocked = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, context, context, key_padding_mask=~mask[:, 0, 0], attn_mask=blocked, need_weights=False)
    found = ours(x, context if cross else None, mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T, S", [(1, 1), (1, 4), (4, 4), (2, 5), (3, 2)])
def test_the_core_and_the_weights_keep_to_the_same_mask(T, S, causal):
    if causal and T > S:
        return
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (T, S, S))
    mask = torch.rand(2, 1, T, S) < 0.5
    mask[..., 0] = True
    weights = attention_weights(q, k, causal, mask)
    for b, h, t in [(b, h, t) for b in range(2) for h in range(3) for t in range(T)]:
        seen = [s for s in range(S) if mask[b, 0, t, s] and (s <= S - T + t or not causal)]
        powers = {s: math.exp(q[b, h, t] @ k[b, h, s] / 2) for s in seen}
        expected = [powers.get(s, 0) / sum(powers.values()) for s in range(S)]
        torch.testing.assert_close(weights[b, h, t], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(Attend(causal)(q, k, v, mask), weights @ v)


def test_what_is_masked_changes_nothing():
    layer, x, mask = MultiHeadAttention(12, 3, causal=False), torch.randn(2, 6, 12), padded(6, 4)
    before, changed = layer(x, mask=mask), x.clone()
    changed[1, 4:] = 100.0
    after = layer(changed, mask=mask)
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1, :4], before[1, :4], rtol=0, atol=1e-6)
    assert not torch.allclose(layer(changed)[1, :4], layer(x)[1, :4], atol=1e-3)


def test_a_causal_layer_refuses_a_context():
    with pytest.raises(ValueError, match="causal=False"):
        MultiHeadAttention(12, 3)(torch.randn(1, 4, 12), torch.randn(1, 5, 12))


# --- the mask, and products with few rows -------------------------------------------------------------------------


@pytest.mark.parametrize("T, S", [(1, 1), (4, 4), (1, 5), (3, 7)])
def test_the_mask_is_the_last_rows_of_the_triangle(T, S):
    assert causal_mask(T, S).tolist() == [[key <= query for key in range(S)] for query in range(S - T, S)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (2, 2), (5, 1), (2, 7), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_give_what_a_linear_layer_gives(shape, bias):
    ours, usual = Linear(600, 1000, bias=bias), nn.Linear(600, 1000, bias=bias)
    usual.load_state_dict(ours.state_dict())
    x, again = (torch.randn(*shape, 600, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    for layer, given in ((usual, x), (ours, again)):
        y = layer(given)
        assert y.shape == (*shape, 1000)
        y.pow(2).sum().backward()
    torch.testing.assert_close(ours(x), usual(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.grad, x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.weight.grad, usual.weight.grad, rtol=1e-4, atol=1e-3)
