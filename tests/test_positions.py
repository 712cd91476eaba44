"""Positions against the papers' formulas in double precision and transformers' rotary; then inside a GPT."""

import math

import pytest
import torch
from torch import nn

from conftest import SMALL, stir
from gptlib import pretrained, probe
from gptlib.attention import Attend, MultiHeadAttention, attention_weights
from gptlib.model import GPT, POSITION_ENCODINGS, GPTConfig
from gptlib.positions import BASE, angles, rotation, sinusoid
from gptlib.positions import rotate as rotate_by
from gptlib.sampling import generate
from gptlib.tokenizers import CharTokenizer
from gptlib.training import evaluate, train

UNLIMITED = [name for name in POSITION_ENCODINGS if name != "learned"]


def made(encoding, **changes):
    """A small model with that encoding, in double precision, every weight stirred; heads of 4 channels."""
    sizes = {"vocab_size": 13, "context_length": 8, "n_layer": 2, "n_head": 3, "n_embd": 12}
    return stir(GPT(GPTConfig(**{**sizes, **changes}, position_encoding=encoding))).double().eval()


def rotate(x, positions=None, base=BASE):
    """x (..., T, D) rotated to its positions, 0 … T - 1 unless given, with exact angles."""
    positions = torch.arange(x.shape[-2]) if positions is None else positions
    return rotate_by(x, *rotation(positions, x.shape[-1], base, torch.promote_types(x.dtype, torch.float32)))


def ids(*shape):
    return torch.randint(13, shape)


# --- sinusoidal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_embd", [2, 6, 64])
def test_the_sinusoid_is_the_papers(n_embd):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) = cos of the same, one number at a time."""
    places = [0, 1, 2, 7, 100, 4095]
    expected = [
        [(math.cos if c % 2 else math.sin)(t / 10000 ** ((c - c % 2) / n_embd)) for c in range(n_embd)] for t in places
    ]
    found = sinusoid(torch.tensor(places), n_embd, torch.float64)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    single = sinusoid(torch.tensor(places), n_embd)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=0, atol=1e-3)


def test_a_step_turns_every_row_alike():
    """For each distance one matrix, the same at every place, takes a row to the row so far ahead."""
    table = sinusoid(torch.arange(40), 8, torch.float64)
    for distance in (1, 5):
        step = torch.linalg.lstsq(table[:20], table[distance : 20 + distance]).solution
        torch.testing.assert_close(table[:-distance] @ step, table[distance:])


def test_rows_are_alike_by_distance():
    table = sinusoid(torch.arange(30), 16, torch.float64)
    alike = table @ table.T
    torch.testing.assert_close(alike[:-1, :-1], alike[1:, 1:])
    torch.testing.assert_close(alike.diagonal(), torch.full((30,), 8.0, dtype=torch.float64))
    assert (alike[0, 1:] < 8).all()


def test_in_a_model_the_sinusoid_has_the_scale_of_its_tokens(idx):
    model = GPT(GPTConfig(13, 64, 1, 4, 64, position_encoding="sinusoidal"))
    nn.init.zeros_(model.token_embedding.weight)
    with probe.record(model, nn.Dropout) as outputs:
        model(torch.zeros(1, 64, dtype=torch.long))
    torch.testing.assert_close(outputs[0][0], 0.02 * sinusoid(torch.arange(64), 64))


# --- rotary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
@pytest.mark.parametrize("start", [0, 5, 1000])
def test_rotary_is_transformers(start, base):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(
        hidden_size=32, num_attention_heads=4, rope_theta=base,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )  # fmt: skip
    q, k = torch.randn(2, 2, 4, 6, 8)  # each (B, H, T, D)
    positions = torch.arange(start, start + 6)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions[None])
    for found, expected in zip((rotate(q, positions, base), rotate(k, positions, base)),
                               llama.apply_rotary_pos_emb(q, k, cos, sin)):  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rotary_is_the_papers_up_to_the_order_of_the_channels():
    """The paper pairs neighbours, and multiplies each pair, read as a complex number, by e^(i · position · θ)."""
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    theta = torch.tensor([10000 ** (-2 * i / 10) for i in range(5)], dtype=torch.float64)
    turn = torch.polar(torch.ones(7, 5, dtype=torch.float64), torch.arange(7)[:, None] * theta)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (5, 2))) * turn).flatten(-2)
    halves = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]  # where the neighbours stand when they are paired across the halves
    torch.testing.assert_close(rotate(x[..., halves]), expected[..., halves])


def test_a_quarter_turn_by_hand():
    """One pair turns one radian a position: at position π/2 its first axis becomes its second."""
    quarter = rotate(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([math.pi / 2, math.pi / 2]))
    torch.testing.assert_close(quarter, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))


def test_rotation_changes_no_length_and_position_0_nothing():
    x = torch.randn(2, 3, 50, 8, dtype=torch.float64)
    turned = rotate(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[..., 0, :], x[..., 0, :])
    assert ((turned - x).abs().amax(dim=(0, 1, 3))[1:] > 0.1).all()


def test_rotated_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 8, dtype=torch.float64)
    scores = rotate(q.expand(30, 8)) @ rotate(k.expand(30, 8)).T  # one query and one key, at every place
    for distance in range(-29, 30):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert scores[0].std() > 0.1, "and they do depend on it"


def test_the_same_everywhere_whatever_the_start():
    q, k = torch.randn(2, 2, 3, 7, 8, dtype=torch.float64)
    moved = torch.arange(7) + 1234
    torch.testing.assert_close(
        attention_weights(rotate(q, moved), rotate(k, moved)), attention_weights(rotate(q), rotate(k))
    )


def test_each_text_of_a_batch_can_begin_elsewhere():
    x = torch.randn(2, 3, 5, 8)
    positions = torch.stack([torch.arange(5), torch.arange(5) + 9])[:, None]  # (B, 1, T)
    together = rotate(x, positions)
    for row, start in enumerate((0, 9)):
        torch.testing.assert_close(together[row], rotate(x[row], torch.arange(5) + start))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_angles_are_exact_in_every_type_of_number(dtype):
    x = torch.randn(1, 8, dtype=torch.float64).expand(1, 8).to(dtype)
    turned = rotate(x, torch.tensor([2047]))
    assert turned.dtype == dtype
    exact = rotate(x.double(), torch.tensor([2047]))
    torch.testing.assert_close(turned.double(), exact, rtol=0, atol=max(1e-3, 8 * torch.finfo(dtype).eps))


# --- bad sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [rotate, lambda x: sinusoid(x[:, 0], 5), lambda x: angles(x[:, 0], 5)])
def test_channels_that_cannot_be_paired(use):
    with pytest.raises(ValueError, match="5 channels"):
        use(torch.zeros(4, 5))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"position_encoding": "alibi"}, "position_encoding='alibi'"),
        ({"position_encoding": None}, "position_encoding=None"),
        ({"position_encoding": "sinusoidal", "n_embd": 15}, "sinusoidal positions .* 15 is odd"),
        ({"position_encoding": "rotary", "n_embd": 15}, "rotary positions .* 5 is odd"),
        ({"position_encoding": "rotary", "n_embd": 18, "n_head": 6}, "rotary positions .* 3 is odd"),
    ],
)
def test_configurations_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**vars(SMALL), **changes})


def test_odd_sizes_that_other_encodings_do_not_mind():
    for encoding in ("learned", "none"):
        assert made(encoding, n_embd=15)(ids(1, 8)).shape == (1, 8, 13)
    assert made("sinusoidal", n_embd=18, n_head=6)(ids(1, 8)).shape == (1, 8, 13)


# --- in a GPT -----------------------------------------------------------------------------------------------------


def test_learned_is_the_default_and_gpt2s():
    assert SMALL.position_encoding == "learned"
    model = GPT(SMALL)
    assert type(model.position_embedding) is nn.Embedding
    assert model.position_embedding.weight.shape == (8, 12)


def test_only_a_learned_table_is_among_the_parameters():
    learned = made("learned").state_dict().keys()
    for encoding in UNLIMITED:
        assert made(encoding).state_dict().keys() == learned - {"position_embedding.weight"}


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_a_model_is_its_formula(encoding):
    """One layer, written out with PyTorch's own pieces; positions enter where they should and nowhere else."""
    model, idx = made(encoding, n_layer=1), ids(2, 8)
    block, x = model.blocks[0], model.token_embedding.weight[idx]
    if encoding == "learned":
        x = x + model.position_embedding.weight
    if encoding == "sinusoidal":
        x = x + 0.02 * sinusoid(torch.arange(8), 12, torch.float64)
    q, k, v = block.attention.qkv_proj(block.norm1(x)).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    if encoding == "rotary":
        q, k = rotate(q), rotate(k)
    out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + block.attention.out_proj(out.transpose(1, 2).flatten(2))
    x = x + block.feed_forward(block.norm2(x))
    torch.testing.assert_close(model(idx), model.lm_head(model.final_norm(x)))


def shuffled_past(idx):
    """Every place but the last, in another order."""
    T = idx.shape[1]
    return idx[:, [*range(1, T - 1), 0, T - 1]]


def test_attention_without_positions_follows_a_permutation():
    """Without the mask: shuffle what comes in, and the same comes out, shuffled alike; rotary breaks this."""
    x, order = torch.randn(2, 8, 12, dtype=torch.float64), torch.randperm(8)
    layer = stir(MultiHeadAttention(12, 3, causal=False)).double()
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])
    turn = rotation(torch.arange(8), 4, dtype=torch.float64)
    assert (layer(x[:, order], rotation=turn) - layer(x, rotation=turn)[:, order]).abs().max() > 1e-2


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_one_layer_hears_the_order_of_its_past_only_through_positions(encoding):
    model, idx = made(encoding, n_layer=1), torch.randperm(13)[None, :8]
    moved = (model(shuffled_past(idx)) - model(idx))[:, -1].abs().max()
    assert moved < 1e-12 if encoding == "none" else moved > 1e-3


def test_two_layers_hear_some_order_through_the_mask():
    """Places inside the past see different pasts of their own: what the second layer finds there has changed."""
    model, idx = made("none"), torch.randperm(13)[None, :8]
    assert (model(shuffled_past(idx)) - model(idx))[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_the_same_token_elsewhere(encoding):
    """In a text of one letter repeated every value is the same, so that weights alone, turned or not, tell nothing."""
    logits = made(encoding)(torch.zeros(1, 8, dtype=torch.long))[0]
    differ = (logits - logits[:1]).abs().amax(dim=1)[1:]
    assert (differ > 1e-4).all() if encoding in ("learned", "sinusoidal") else (differ < 1e-12).all()


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_nothing_depends_on_the_future_and_everything_on_the_past(encoding):
    model, idx = made(encoding), ids(2, 8)
    for t in range(8):
        changed = idx.clone()
        changed[:, t] = (idx[:, t] + 1) % 13
        moved = (model(changed) - model(idx)).abs().amax(dim=(0, 2))
        assert (moved[:t] == 0).all() and (moved[t:] > 0).all()


def test_the_probe_sees_the_weights_that_are_used():
    model, idx = made("rotary"), ids(2, 8)
    passed = []
    core = model.blocks[0].attention.attend
    hook = core.register_forward_hook(lambda core, inputs, output: passed.append((inputs, output)))
    with probe.attention(model) as maps:
        model(idx)
    hook.remove()
    (_, _, v, _), output = passed[0]
    torch.testing.assert_close(maps[0] @ v, output)
    assert isinstance(core, Attend)


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_every_encoding_learns_where_things_stand(encoding):
    """A text whose next letter depends on the one two back; one letter alone tells nothing."""
    torch.manual_seed(1)
    text = [0, 1]
    for _ in range(600):
        text.append((text[-2] + 1 + (text[-1] > 6)) % 13)
    model = GPT(GPTConfig(13, 8, 2, 2, 16, position_encoding=encoding))
    before = evaluate(model, torch.tensor(text))
    train(model, torch.tensor(text), steps=60, batch_size=8, learning_rate=1e-2)
    assert evaluate(model, torch.tensor(text)) < before - 0.5


# --- past the context ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", UNLIMITED)
def test_texts_longer_than_the_context_where_the_positions_reach(encoding):
    model, idx = made(encoding), ids(2, 20)
    torch.testing.assert_close(model(idx)[:, :8], model(idx[:, :8]))
    assert model(idx).shape == (2, 20, 13)
    assert evaluate(model, ids(50), context_length=20) > 0


def test_learned_positions_end_with_their_table():
    with pytest.raises(ValueError, match="9 tokens do not fit the model's context of 8: pass the last ones"):
        made("learned")(ids(1, 9))


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_generation_shows_the_model_the_length_it_is_made_for(encoding):
    """Every encoding alike: longer texts are possible, but nothing was learned there."""
    model, seen = made(encoding), []
    core = model.blocks[0].attention.attend
    hook = core.register_forward_pre_hook(lambda core, inputs: seen.append(inputs[1].shape[-2]))  # how many keys
    generate(model, ids(1, 6), 5)
    hook.remove()
    assert seen == [6, 7, 8, 8, 8]


# --- types of number, saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_type_of_number(encoding, dtype):
    model, idx = made(encoding), ids(2, 8)
    exact = model(idx)
    other = model.to(dtype)(idx)
    assert other.dtype == dtype
    torch.testing.assert_close(other.double(), exact, rtol=0, atol=0.5 if dtype == torch.bfloat16 else 1e-12)


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_a_saved_model_comes_back_with_its_encoding(encoding, tmp_path):
    letters = CharTokenizer("a b\nc'défgh…i")
    model, idx = made(encoding).float(), ids(2, 8)
    pretrained.save(model, letters, tmp_path / "mine")
    found, _ = pretrained.load(tmp_path / "mine")
    assert found.config == model.config and found.config.position_encoding == encoding
    assert torch.equal(found(idx), model(idx))


def test_a_saved_model_with_an_encoding_that_does_not_exist(model, tmp_path):
    pretrained.save(model, CharTokenizer("a b\nc'défgh…i"), tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    path.write_text(path.read_text().replace('"learned"', '"alibi"'))
    with pytest.raises(ValueError, match="alibi"):
        pretrained.load(tmp_path / "mine")
