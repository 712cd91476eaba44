"""The encoder–decoder against `torch.nn.Transformer` with the same weights; searches against trying every sequence."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import OneDevice, stir
from gptlib.encoder_decoder import (
    DecoderBlock,
    Encoder,
    EncoderBlock,
    EncoderDecoder,
    EncoderDecoderConfig,
    beam_search,
    pad_ids,
    padding_mask,
    translate,
)

V, CONTEXT, C, PAD, START, END = 11, 9, 12, 0, 1, 2
CONFIG = EncoderDecoderConfig(V, CONTEXT, n_layer=2, n_head=3, n_embd=C)
SOURCES = [[3, 4, 5, 6, 7], [8], [9, 10, 3]]
TARGETS = [[1, 5, 6], [1, 3, 3, 4, 9, 10], [1]]
SOURCE, TARGET = pad_ids(SOURCES), pad_ids(TARGETS)


@pytest.fixture
def model():
    return stir(EncoderDecoder(CONFIG)).eval()


def gelu(x):
    return F.gelu(x, approximate="tanh")


def copy_layer(theirs, ours):
    """Give a layer of PyTorch the weights of a block of ours."""
    names = [("self_attn", "self_attention"), ("multihead_attn", "cross_attention")][
        : 2 if hasattr(ours, "norm3") else 1
    ]
    for name, own in names:
        attention = getattr(ours, own)
        parts = {"in_proj_weight": attention.qkv_proj.weight, "in_proj_bias": attention.qkv_proj.bias}
        parts |= {f"out_proj.{key}": value for key, value in attention.out_proj.state_dict().items()}
        getattr(theirs, name).load_state_dict(parts)
    theirs.linear1.load_state_dict(ours.feed_forward.up_proj.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.down_proj.state_dict())
    for name in ("norm1", "norm2", "norm3")[: len(names) + 1]:
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())


@pytest.fixture
def oracle(model):
    """Logits of `torch.nn.Transformer` with the weights of `model`, as a function of source and target."""
    theirs = nn.Transformer(C, 3, 2, 2, 4 * C, 0.0, gelu, batch_first=True, norm_first=True).eval()
    for stack, own in ((theirs.encoder, model.encoder), (theirs.decoder, model.decoder)):
        for layer, block in zip(stack.layers, own.blocks, strict=True):
            copy_layer(layer, block)
        stack.norm.load_state_dict(own.final_norm.state_dict())

    def logits(source, target):
        embedding = model.encoder.token_embedding.weight
        x = embedding[source] + model.encoder.position_embedding.weight[: source.shape[1]]
        y = embedding[target] + model.decoder.position_embedding.weight[: target.shape[1]]
        future, padding = torch.ones(len(y[0]), len(y[0]), dtype=torch.bool).triu(1), source == PAD
        out = theirs(x, y, tgt_mask=future, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        return out @ embedding.mT

    return logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source, target", [(SOURCE[:1], TARGET[:1, :3]), (SOURCE, TARGET), (SOURCE[:, :1], TARGET)])
def test_logits_are_those_of_pytorchs_transformer(model, oracle, source, target):
    """With one row without padding, with padding, and with sources of one token."""
    found = model(source, target)
    assert found.shape == (*target.shape, V)
    torch.testing.assert_close(found, oracle(source, target), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masked", [True, False])
def test_single_blocks_are_pytorchs_layers(masked):
    x, y, mask = torch.randn(3, 5, C), torch.randn(3, 4, C), padding_mask(SOURCE) if masked else None
    padding = ~mask[:, 0, 0] if masked else None
    options = {"dim_feedforward": 4 * C, "dropout": 0.0, "activation": gelu, "batch_first": True, "norm_first": True}
    block, layer = stir(EncoderBlock(C, 3)), nn.TransformerEncoderLayer(C, 3, **options)
    copy_layer(layer, block)
    expected = layer(x, src_key_padding_mask=padding)
    torch.testing.assert_close(block(x, mask), expected, rtol=1e-5, atol=1e-5)
    block, layer = stir(DecoderBlock(C, 3)), nn.TransformerDecoderLayer(C, 3, **options)
    copy_layer(layer, block)
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected = layer(y, x, tgt_mask=future, memory_key_padding_mask=padding)
    torch.testing.assert_close(block(y, x, mask), expected, rtol=1e-5, atol=1e-5)


def test_a_row_is_the_same_alone_and_in_a_batch_of_longer_ones(model):
    batch = model(SOURCE, TARGET)
    for b, (source, target) in enumerate(zip(SOURCES, TARGETS)):
        alone = model(torch.tensor([source]), torch.tensor([target]))
        torch.testing.assert_close(batch[b, : len(target)], alone[0], rtol=0, atol=1e-6 * alone.abs().max().item())
    longer = F.pad(SOURCE, (0, 3))
    torch.testing.assert_close(model(longer, TARGET), batch, rtol=0, atol=1e-6 * batch.abs().max().item())
    memory = model.encode(longer)
    unmasked = model.decode(TARGET, memory)
    assert not torch.allclose(unmasked, batch, atol=1e-3), "without the mask, padding counts"


def test_the_decoder_depends_on_its_past_and_on_all_of_the_source(model):
    source, target = SOURCE[:1], TARGET[1:2]
    before = model(source, target)
    for t in range(6):
        changed = target.clone()
        changed[0, t] = 7
        moved = (model(source, changed) - before).abs().amax(dim=(0, 2))
        assert (moved[:t] == 0).all() and (moved[t:] > 0).all()
    for s in range(5):
        changed = source.clone()
        changed[0, s] = 10
        assert ((model(changed, target) - before).abs().amax(dim=-1) > 0).all()
        assert ((model.encode(changed) - model.encode(source)).abs().amax(dim=-1) > 0).all(), "no causal mask"


def test_one_embedding_serves_both_sides_and_the_output(model):
    assert model.decoder.token_embedding is model.encoder.token_embedding
    fresh = EncoderDecoder(CONFIG)
    tables = [name for name, p in fresh.named_parameters() if V in p.shape]
    assert tables == ["encoder.token_embedding.weight"]
    assert 0.018 < EncoderDecoder(EncoderDecoderConfig(500, 9, 2, 3, 48)).encoder.token_embedding.weight.std() < 0.022
    loss = F.cross_entropy(fresh(SOURCE, TARGET).flatten(0, 1), TARGET.flatten())
    assert abs(loss.item() - torch.tensor(float(V)).log().item()) < 0.2, "a fresh model predicts uniformly"


def test_the_encoder_alone_is_that_of_the_pair(model):
    alone = Encoder(CONFIG).eval()
    alone.load_state_dict(model.encoder.state_dict())
    torch.testing.assert_close(alone(SOURCE), model.encode(SOURCE), rtol=0, atol=0)
    assert alone(SOURCE).shape == (3, 5, C)


def test_dropout_while_training_only():
    model = EncoderDecoder(EncoderDecoderConfig(V, CONTEXT, 2, 3, C, dropout=0.5))
    assert not torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))
    translate(model, SOURCE, 3), beam_search(model, SOURCE[:1], 3, 2)
    assert model.training, "the mode is what it was"
    model.eval()
    assert torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))


def test_padding():
    assert SOURCE.tolist() == [[3, 4, 5, 6, 7], [8, 0, 0, 0, 0], [9, 10, 3, 0, 0]]
    assert pad_ids([[1], [2, 3]], pad=9).tolist() == [[1, 9], [2, 3]]
    assert padding_mask(SOURCE).shape == (3, 1, 1, 5)
    assert padding_mask(SOURCE)[2, 0, 0].tolist() == [True, True, True, False, False]
    assert padding_mask(torch.tensor([[1, 9]]), 9).flatten().tolist() == [True, False]


def test_the_ids_of_padding_start_and_end_may_be_others(model):
    """The same model with its vocabulary in another order."""
    other = EncoderDecoder(EncoderDecoderConfig(V, CONTEXT, 2, 3, C, pad=10, start=9, end=8)).eval()
    order = torch.tensor([10, 9, 8, 3, 4, 5, 6, 7, 2, 1, 0])  # the new id of each old one
    state = model.state_dict()
    for name in [name for name in state if "token_embedding" in name]:
        state[name] = state[name][order]
    other.load_state_dict(state)
    torch.testing.assert_close(other(order[SOURCE], order[TARGET])[..., order], model(SOURCE, TARGET))
    assert torch.equal(translate(other, order[SOURCE], 5), order[translate(model, SOURCE, 5)])


def test_it_runs_on_the_device_of_its_input():
    with torch.device("meta"):
        model = EncoderDecoder(CONFIG)
    with OneDevice():
        assert model(SOURCE.to("meta"), TARGET.to("meta")).device.type == "meta"


# --- decoding -----------------------------------------------------------------------------------------------------

TINY = EncoderDecoderConfig(6, 6, n_layer=1, n_head=2, n_embd=8)
TINY_SOURCE = torch.tensor([[3, 4, 4]])


def tiny(seed):
    """A model whose most likely targets differ in length and in their tokens."""
    torch.manual_seed(seed)
    model = stir(EncoderDecoder(TINY)).double().eval()
    with torch.no_grad():
        model.decoder.position_embedding.weight *= 10
    return model


def score(model, source, ids):
    """The log-probability of `ids`, one token after another."""
    log_probs = model(source, torch.tensor([[START, *ids[:-1]]])).log_softmax(dim=-1)[0]
    return sum(log_probs[t, token].item() for t, token in enumerate(ids))


def every_target(length):
    """All targets that end by themselves within `length` tokens, or are cut off there."""
    for n in range(1, length + 1):
        for ids in itertools.product(range(END, 6), repeat=n):
            if END not in ids[:-1] and (ids[-1] == END or n == length):
                yield list(ids)


def without_padding(ids):
    return [token for token in ids if token != PAD]


@pytest.mark.parametrize("seed", range(8))
def test_greedy_decoding_takes_the_most_likely_token_and_stops_at_the_end(seed):
    model, sources = tiny(seed), pad_ids([[3, 4, 4], [3], [4, 3], [3, 3, 3]])
    found = translate(model, sources, 6)
    for source, row in zip(sources, found):
        ids: list[int] = []
        while len(ids) < 6 and END not in ids:
            logits = model(source[None], torch.tensor([[START, *ids]]))
            ids.append(END + logits[0, -1, END:].argmax().item())
        assert row.tolist() == (ids + [PAD] * 6)[: found.shape[1]]
        assert ids == row[: len(ids)].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_width_1_is_greedy(seed):
    model = tiny(seed)
    ((log_prob, ids),) = beam_search(model, TINY_SOURCE, 6, 1)
    greedy = translate(model, TINY_SOURCE, 6)[0].tolist()
    assert ids == without_padding(greedy)
    greedy = greedy[: greedy.index(END) + 1] if END in greedy else greedy
    assert log_prob == pytest.approx(score(model, TINY_SOURCE, greedy), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_full_width_tries_everything(seed):
    model = tiny(seed)
    expected = sorted(((score(model, TINY_SOURCE, ids), ids) for ids in every_target(4)), reverse=True)
    found = beam_search(model, TINY_SOURCE, 4, 4**4)
    assert len(found) == len(expected)
    assert [log_prob for log_prob, _ in found] == pytest.approx([log_prob for log_prob, _ in expected], abs=1e-9)
    assert [ids for _, ids in found[:9]] == [ids for _, ids in expected[:9]]


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_is_sorted_scored_by_the_model_and_at_least_as_good_as_greedy(seed):
    model = tiny(seed)
    found = beam_search(model, TINY_SOURCE, 5, 3)
    scores = [log_prob for log_prob, _ in found]
    assert len(found) == 3 and scores == sorted(scores, reverse=True)
    for log_prob, ids in found:
        if END in ids or len(ids) == 5:
            assert log_prob == pytest.approx(score(model, TINY_SOURCE, ids), abs=1e-9)


def test_a_beam_ends_when_every_target_has():
    model, calls = tiny(0), []
    with torch.no_grad():  # the end is far more likely than anything else
        model.decoder.final_norm.weight.zero_()
        model.decoder.final_norm.bias.copy_(100 * model.encoder.token_embedding.weight[END])
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    assert beam_search(model, TINY_SOURCE, 6, 1)[0][1] == [END] and len(calls) == 1
    assert translate(model, TINY_SOURCE, 6).tolist() == [[END]] and len(calls) == 2


def test_padding_and_start_are_never_chosen():
    for token in (PAD, START):
        model = tiny(0)
        with torch.no_grad():  # this token is more likely than anything else
            model.decoder.final_norm.weight.zero_()
            model.decoder.final_norm.bias.copy_(100 * model.encoder.token_embedding.weight[token])
        assert translate(model, TINY_SOURCE, 4)[0, 0] >= END
        assert all(ids and min(ids) >= END for _, ids in beam_search(model, TINY_SOURCE, 4, 3))


def test_the_encoder_runs_once(model):
    calls = {"encoder": 0, "decoder": 0}
    for name in calls:
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    found = translate(model, SOURCE, 7)
    assert calls == {"encoder": 1, "decoder": found.shape[1]}
    beam_search(model, SOURCE[:1], 7, 4)
    assert calls["encoder"] == 2


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m(torch.zeros(1, 0, dtype=torch.long), TARGET[:1]), "with a token that is no padding in every row"),
        (lambda m: m(torch.tensor([[3, 4], [0, 0]]), TARGET[:2]), "with a token that is no padding in every row"),
        (lambda m: m.encode(pad_ids([[3], []])), "with a token that is no padding in every row"),
        (lambda m: m(torch.full((1, CONTEXT + 1), 3), TARGET[:1]), "10 tokens do not fit the model's context of 9"),
        (lambda m: m(SOURCE[:1], torch.full((1, CONTEXT + 1), 3)), "10 tokens do not fit the model's context of 9"),
        (lambda m: m(torch.tensor([[3, V]]), TARGET[:1]), "token id 11 is outside the vocabulary"),
        (lambda m: m(SOURCE[:1], torch.tensor([[1, -1]])), "token id -1 is outside the vocabulary"),
        (lambda m: m(SOURCE[0], TARGET[0]), r"ids \(5,\): expected \(B, S\)"),
        (lambda m: translate(m, torch.zeros(1, 3, dtype=torch.long), 3), "no padding in every row"),
        (lambda m: beam_search(m, SOURCE, 3, 2), r"sources=3: give one source at a time, \(1, S\)"),
        (lambda m: beam_search(m, SOURCE[:1], 3, 0), "width=0: give the number of targets to keep"),
    ],
)
def test_a_clear_error(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 2}, {"pad": 1}, {"end": V}, {"start": -1}, {"n_head": 5}, {"n_layer": 0}, {"context_length": 0},
        {"position_encoding": "rotary"},
    ],
)  # fmt: skip
def test_sizes_that_no_model_can_have(change):
    with pytest.raises(ValueError):
        EncoderDecoderConfig(**{**vars(CONFIG), **change})


def test_no_nan_for_any_mixture_of_lengths(model):
    for lengths in itertools.product((1, 2, 5), repeat=3):
        logits = model(pad_ids([[3] * n for n in lengths]), TARGET)
        logits.sum().backward()
        assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())
