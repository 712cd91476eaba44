"""The modern architecture against transformers' Llama and Qwen3 with the same weights, its parts against PyTorch."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import OneDevice, stir
from gptlib import pretrained, probe
from gptlib.attention import MultiHeadAttention
from gptlib.model import GPT, GPTConfig
from gptlib.modern import GroupedQueryAttention, ModernBlock, ModernConfig, ModernGPT, RMSNorm, SquaredReLU, SwiGLU
from gptlib.positions import rotate, rotation
from gptlib.sampling import generate, stream
from gptlib.tokenizers import CharTokenizer
from gptlib.training import evaluate, next_token_loss, train

V, T = 13, 8
TINY = {"vocab_size": V, "context_length": T, "n_layer": 2, "n_head": 6, "n_kv_head": 2, "n_embd": 24, "n_hidden": 20}


def build(**changes) -> ModernGPT:
    return stir(ModernGPT(ModernConfig(**{**TINY, **changes}))).eval()


@pytest.fixture
def model() -> ModernGPT:
    return build(rotary_base=500.0)


def copy_into_transformers(model: ModernGPT):
    """transformers' Llama with the weights of `model`, or its Qwen3, which is a Llama with QK-norm."""
    transformers = pytest.importorskip("transformers")
    c = model.config
    kind = "Qwen3" if c.qk_norm else "Llama"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.n_hidden, num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, head_dim=c.n_embd // c.n_head,
        max_position_embeddings=64, rms_norm_eps=c.norm_eps, rope_theta=c.rotary_base, tie_word_embeddings=c.tied,
        attn_implementation="eager", bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config)
    core = theirs.model
    pairs = [(core.embed_tokens, model.token_embedding.weight), (core.norm, model.final_norm.weight)]
    pairs += [] if c.tied else [(theirs.lm_head, model.lm_head.weight)]
    for layer, block in zip(core.layers, model.blocks, strict=True):
        attention, mlp, own = layer.self_attn, layer.mlp, block.attention
        rows = [c.n_embd, *[c.n_kv_head * c.n_embd // c.n_head] * 2]
        q, k, v = own.qkv_proj.weight.split(rows)
        pairs += [
            (attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v),
            (attention.o_proj, own.out_proj.weight), (layer.input_layernorm, block.norm1.weight),
            (layer.post_attention_layernorm, block.norm2.weight),
            (mlp.gate_proj, block.feed_forward.gate_proj.weight), (mlp.up_proj, block.feed_forward.up_proj.weight),
            (mlp.down_proj, block.feed_forward.down_proj.weight),
        ]  # fmt: skip
        pairs += [(attention.q_norm, own.q_norm.weight), (attention.k_norm, own.k_norm.weight)] if c.qk_norm else []
    with torch.no_grad():
        for target, weight in pairs:
            target.weight.copy_(weight)
    return theirs.to(model.token_embedding.weight.dtype).eval()


# --- the same function as Llama -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_head": 1}, {"n_kv_head": 6}, {"n_kv_head": 3, "n_layer": 1}, {"tied": False}, {"rotary_base": 100.0},
     {"qk_norm": True}, {"qk_norm": True, "n_kv_head": 6}, {"norm_eps": 0.1}, {"n_head": 12, "n_kv_head": 4}],
    ids=str,
)  # fmt: skip
def test_logits_and_hidden_states_are_llamas(changes, idx):
    model = build(**changes)
    theirs = copy_into_transformers(model)
    with probe.record(model, ModernBlock) as residual, probe.record(model, RMSNorm) as norms:
        logits = model(idx)
    found = theirs(idx, output_hidden_states=True)
    torch.testing.assert_close(logits, found.logits, rtol=1e-4, atol=1e-4)
    for ours, other in zip([*residual[:-1], norms[-1]], found.hidden_states[1:], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(idx[:, :1]), theirs(idx[:, :1]).logits, rtol=1e-4, atol=1e-4)


def test_gradients_are_llamas(model, idx):
    theirs = copy_into_transformers(model)
    for logits in (model(idx), theirs(idx).logits):
        F.cross_entropy(logits.flatten(0, 1), idx.roll(-1, 1).flatten()).backward()
    layer, block = theirs.model.layers[0], model.blocks[0]
    pairs = [
        (model.token_embedding, theirs.model.embed_tokens), (block.norm1, layer.input_layernorm),
        (block.feed_forward.gate_proj, layer.mlp.gate_proj), (block.attention.out_proj, layer.self_attn.o_proj),
    ]  # fmt: skip
    for ours, other in pairs:
        torch.testing.assert_close(ours.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_kv_head", [1, 2, 3, 6])
def test_attention_maps_are_llamas(n_kv_head, idx):
    """Which query heads share a key head: neighbors, not every n-th."""
    model = build(n_kv_head=n_kv_head)
    with probe.attention(model) as maps:
        model(idx)
    for ours, theirs in zip(maps, copy_into_transformers(model)(idx, output_attentions=True).attentions, strict=True):
        assert ours.shape == (4, 6, T, T)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", [[8], [3, 5], [1] * 8, [7, 1], [2, 1, 4, 1]], ids=str)
@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_cached_logits_are_llamas_with_its_cache(pieces, qk_norm, idx):
    model = build(qk_norm=qk_norm)
    theirs, cache, past = copy_into_transformers(model), model.make_cache(len(idx)), None
    whole = model(idx).split(pieces, dim=1)
    for part, expected in zip(idx.split(pieces, dim=1), whole):
        found, ours = theirs(part, past_key_values=past, use_cache=True), model(part, cache)
        past = found.past_key_values
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours, found.logits, rtol=1e-4, atol=1e-4)
    assert [layer.length for layer in cache] == [T, T]


def test_greedy_text_is_llamas(idx):
    model = build(context_length=40, tied=False)
    theirs = copy_into_transformers(model)
    expected = theirs.generate(idx, attention_mask=torch.ones_like(idx), max_new_tokens=30, do_sample=False)
    assert torch.equal(generate(model, idx, 30, temperature=0), expected)
    assert len(expected[:, T:].unique()) > 4


# --- the parts, by themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_rms_norm_is_pytorchs(eps):
    ours, theirs = stir(RMSNorm(7, eps)), nn.RMSNorm(7, eps)
    theirs.load_state_dict(ours.state_dict())
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 7, dtype=dtype, requires_grad=True)
        found, expected = ours.to(dtype)(x), theirs.to(dtype)(x)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_rms_norm_squares_in_float32():
    x = torch.tensor([[300.0, -400.0, 1000.0]])
    found = RMSNorm(3).half()(x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), nn.RMSNorm(3)(x), rtol=2e-3, atol=0)


@pytest.mark.parametrize("n_kv_head", [1, 2, 3, 6])
def test_grouped_query_attention_is_that_of_pytorchs_kernel(n_kv_head):
    layer, x, D = stir(GroupedQueryAttention(24, 6, n_kv_head)), torch.randn(2, 5, 24), 4
    turn = rotation(torch.arange(5), D)
    rows = layer.qkv_proj.weight.unflatten(0, (-1, D))  # one matrix (D, C) per head
    q, k, v = (torch.einsum("btc,hdc->bhtd", x, part) for part in rows.split([6, n_kv_head, n_kv_head]))
    try:
        y = F.scaled_dot_product_attention(rotate(q, *turn), rotate(k, *turn), v, is_causal=True, enable_gqa=True)
    except TypeError:
        pytest.skip("this PyTorch has no enable_gqa")
    expected = y.transpose(1, 2).flatten(2) @ layer.out_proj.weight.mT
    torch.testing.assert_close(layer(x, rotation=turn), expected, rtol=1e-4, atol=1e-5)


def test_with_as_many_key_heads_as_query_heads_it_is_multi_head_attention():
    grouped, usual, x = stir(GroupedQueryAttention(12, 3, 3)), MultiHeadAttention(12, 3), torch.randn(2, 5, 12)
    usual.load_state_dict(grouped.state_dict(), strict=False)
    for part in (usual.qkv_proj, usual.out_proj):
        nn.init.zeros_(part.bias)
    torch.testing.assert_close(grouped(x), usual(x))


def test_the_feed_forward_layers_are_their_formulas():
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    part = stir(SwiGLU(5, 7)).double()
    gate, up = x @ part.gate_proj.weight.T, x @ part.up_proj.weight.T
    torch.testing.assert_close(part(x), (gate / (1 + (-gate).exp()) * up) @ part.down_proj.weight.T)
    part = stir(SquaredReLU(5, 7)).double()
    up = x @ part.up_proj.weight.T
    torch.testing.assert_close(part(x), torch.where(up > 0, up**2, 0.0) @ part.down_proj.weight.T)
    kinds = [type(build(activation=name).blocks[1].feed_forward) for name in ("swiglu", "relu2")]
    assert kinds == [SwiGLU, SquaredReLU]


def test_the_soft_cap_is_a_tanh_of_the_same_logits(idx):
    plain, capped = build(), build(soft_cap=2.5)
    capped.load_state_dict(plain.state_dict())
    logits = plain(idx)
    assert logits.abs().max() > 2.5 > capped(idx).abs().max()
    torch.testing.assert_close(capped(idx), 2.5 * torch.tanh(logits / 2.5))


def test_no_layer_has_a_bias(model):
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    assert {name.rpartition(".")[2] for name, _ in model.named_buffers()} == set()


# --- the same interface as GPT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"activation": "relu2", "qk_norm": True, "soft_cap": 15.0, "tied": False}])
def test_it_trains_and_generates_like_a_gpt(changes):
    model = ModernGPT(ModernConfig(**{**TINY, **changes}))
    ids = torch.arange(V).repeat(20)
    before = evaluate(model, ids)
    assert before == pytest.approx(math.log(V), abs=0.1)
    history = train(model, ids, steps=60, batch_size=8, learning_rate=1e-2)
    assert len(history.train) == 60 and evaluate(model, ids) < 0.2
    text = generate(model, [3], 30, temperature=0)[0]  # longer than the context: the window slides
    assert text.tolist() == [(3 + i) % V for i in range(31)]
    columns = list(stream(model, [[3], [5]], 4, generator=0, temperature=0.5, top_p=0.9, stop=7))
    assert len(columns) <= 4 and columns[0].shape == (2, 1)


def test_a_patched_sublayer_adds_nothing(model, idx):
    with probe.record(model, ModernBlock) as residual, probe.patch(model.blocks[1].attention, torch.zeros_like):
        with probe.patch(model.blocks[1].feed_forward, torch.zeros_like):
            model(idx)
    assert torch.equal(residual[0], residual[1])


def test_the_cache_shrinks_with_the_key_heads():
    def nbytes(n_kv_head):
        cache = build(n_kv_head=n_kv_head).make_cache(3, 7)
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)

    assert nbytes(2) == 2 * 2 * 3 * 7 * 2 * 4 * 4  # layers, keys and values, B, S, G, D, bytes
    assert nbytes(6) == 3 * nbytes(2) == 6 * nbytes(1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_comes_back(tied, idx, tmp_path):
    model, letters = build(tied=tied, soft_cap=9.0), CharTokenizer("a b\nc'défgh…i")
    pretrained.save(model, letters, tmp_path)
    found, tokenizer = pretrained.load(tmp_path)
    assert found.config == model.config and tokenizer.vocabulary == letters.vocabulary and not found.training
    assert torch.equal(found(idx), model(idx))
    assert (found.lm_head.weight is found.token_embedding.weight) == tied
    with pytest.raises(ValueError, match="GPT-2's layout has learned positions, this model rotary"):
        pretrained.save_gpt2(model, tmp_path)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision(dtype, tolerance, model, idx):
    expected = model(idx)
    found = model.to(dtype)(idx)
    assert found.dtype == dtype and (found - expected).abs().max() < tolerance * expected.abs().max()
    cache = model.make_cache(len(idx))
    assert cache[0].keys.dtype == dtype
    with torch.no_grad():
        assert (model(idx, cache) - expected).abs().max() < tolerance * expected.abs().max()


def test_it_runs_on_the_device_of_its_input():
    with torch.device("meta"):
        model = ModernGPT(ModernConfig(**TINY, qk_norm=True, soft_cap=15.0))
    with OneDevice():
        assert model(torch.zeros(2, T, dtype=torch.long, device="meta")).device.type == "meta"


def test_initialization_is_gpt2s():
    L = 4
    model = ModernGPT(ModernConfig(500, 128, L, 4, 2, 256, 300, tied=False, qk_norm=True))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / math.sqrt(2 * L) if name.endswith(("out_proj.weight", "down_proj.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
    idx = torch.randint(500, (4, 65))
    assert next_token_loss(model(idx[:, :-1]), idx[:, 1:]).item() == pytest.approx(math.log(500), abs=0.1)


@pytest.mark.parametrize("wrong", [13, -1, 50257])
def test_bad_ids_are_refused_as_by_gpt(wrong, model, idx):
    idx[2, 3] = wrong
    usual = GPT(GPTConfig(V, T, 1, 2, 8, position_encoding="rotary"))
    messages = []
    for one in (usual, model):
        with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary 0…12") as error:
            one(idx)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("size", [(0, 4), (2, 9), (2, 0)])
def test_a_cache_that_cannot_be(size, model):
    with pytest.raises(ValueError, match="no cache can hold"):
        model.make_cache(*size)


@pytest.mark.parametrize(
    "changes, message",
    [
        *[({name: 0}, f"{name}=0.*every size must be at least 1") for name in TINY],
        ({"n_head": 5, "n_kv_head": 5}, "n_embd=24 is no even number of channels for each of n_head=5"),
        ({"n_head": 8, "n_kv_head": 8}, "n_embd=24 is no even number of channels for each of n_head=8"),
        ({"n_kv_head": 4}, "n_head=6 is not a multiple of n_kv_head=4"),
        ({"n_kv_head": 12}, "n_head=6 is not a multiple of n_kv_head=12"),
        ({"activation": "gelu"}, r"activation='gelu': choose from \('swiglu', 'relu2'\)"),
        ({"rotary_base": -1.0}, "must be positive"),
        ({"norm_eps": 0.0}, "must be positive"),
        ({"soft_cap": 0.0}, "must be positive"),
    ],
)
def test_sizes_that_make_no_model(changes, message):
    with pytest.raises(ValueError, match=message):
        ModernConfig(**{**TINY, **changes})


@pytest.mark.parametrize("n_head, n_kv_head", [(5, 5), (6, 4)])
def test_heads_that_cannot_be_grouped(n_head, n_kv_head):
    with pytest.raises(ValueError, match="each is a multiple of the next"):
        GroupedQueryAttention(24, n_head, n_kv_head)
