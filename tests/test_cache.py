"""Reading with a cache against reading the whole text: the same logits, the same text, for every length there is."""

import dataclasses

import pytest
import torch

from conftest import SMALL, copy_into_gpt2, stir
from gptlib import probe
from gptlib.attention import Attend, Head, KVCache, MultiHeadAttention, attention_weights
from gptlib.model import GPT, POSITION_ENCODINGS
from gptlib.sampling import generate, stream

T = SMALL.context_length


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def clear(cache):
    for layer in cache:
        layer.length = 0


def nbytes(cache):
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)


def pieces_of(length):
    """Every way to cut a text: 3 -> [3], [1, 2], [2, 1], [1, 1, 1]."""
    yield [length]
    for first in range(1, length):
        for rest in pieces_of(length - first):
            yield [first, *rest]


def uncached(model, text, n, keep):
    """Greedy text from the whole model at every step, in plain steps: keep the latest when they no longer fit."""
    start, logits = 0, []
    for _ in range(n):
        if text.shape[1] - start > T:
            start = text.shape[1] - keep
        logits.append(model(text[:, start:])[:, -1])
        text = torch.cat([text, logits[-1].argmax(-1, keepdim=True)], dim=1)
    return text, logits


class Watched(torch.nn.Module):
    """The model with its cache; remembers how many tokens it read, and the logits it gave last."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.make_cache = model, model.config, model.make_cache
        self.read, self.logits = [], []

    def forward(self, idx, cache=None):
        logits = self.model(idx, cache)
        self.read.append(idx.shape[1])
        self.logits.append(logits[:, -1])
        return logits


# --- the model with its cache -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_those_of_the_whole_text_however_it_is_cut(dtype, model, idx):
    model = model.to(dtype)
    whole = model(idx)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for pieces in pieces_of(T):
        cache = model.make_cache(len(idx))
        parts = [model(part, cache) for part in idx.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=tolerance, atol=tolerance)
        assert cache[0].length == T


@pytest.mark.parametrize("positions", POSITION_ENCODINGS)
def test_every_position_encoding_continues_and_goes_past_the_context(positions, idx):
    config = dataclasses.replace(SMALL, n_embd=4 * SMALL.n_head, position_encoding=positions)
    model = stir(GPT(config)).double().eval()
    whole = model(idx)
    for pieces in ([T - 1, 1], [2, 3, *[1] * (T - 5)], [1] * T):
        cache = model.make_cache(len(idx))
        parts = [model(part, cache) for part in idx.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)
    text, _ = uncached(model, idx[:, :3], 3 * T, T)
    assert torch.equal(generate(model, idx[:, :3], 3 * T, temperature=0), text)


def test_logits_are_gpt2s_with_its_own_cache(model, idx):
    theirs, cache, past = copy_into_gpt2(model), model.make_cache(4), None
    for part in idx.split([3, 1, 2, 1, 1], dim=1):
        expected = theirs(part, past_key_values=past, use_cache=True)
        past = expected.past_key_values
        torch.testing.assert_close(model(part, cache), expected.logits, rtol=1e-5, atol=1e-5)


def test_what_is_kept_is_the_keys_and_values(model, idx):
    cache, passed = model.make_cache(4), []
    hooks = [block.attention.attend.register_forward_hook(lambda core, qkv, out: passed.append(qkv[1:3]))
             for block in model.blocks]  # fmt: skip
    model(idx)
    for hook in hooks:
        hook.remove()
    for part in idx.split(3, dim=1):
        model(part, cache)
    for layer, (k, v) in zip(cache, passed, strict=True):
        torch.testing.assert_close(layer.keys, k, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.values, v, rtol=1e-5, atol=1e-5)


def test_a_cleared_cache_is_as_good_as_new(model, idx):
    cache = model.make_cache(4)
    first = model(idx, cache)
    clear(cache)
    assert cache[0].length == 0
    model(idx.flip(1), cache)
    clear(cache)
    assert torch.equal(model(idx, cache), first)


def test_a_cache_takes_the_memory_of_its_formula(model):
    for B, length in ((1, None), (3, 5)):
        cache = model.make_cache(B, length)
        assert nbytes(cache) == 2 * SMALL.n_layer * B * (length or T) * SMALL.n_embd * 4
    assert nbytes(model.double().make_cache(1)) == 2 * SMALL.n_layer * T * SMALL.n_embd * 8
    places = [layer.keys.data_ptr() for layer in cache]
    model.float()(torch.zeros(3, 4, dtype=torch.long), model.make_cache(3, 5))
    for part in torch.zeros(3, 5, dtype=torch.long).split(1, dim=1):
        model(part, cache)
    assert [layer.keys.data_ptr() for layer in cache] == places, "nothing grows, nothing moves"
    assert nbytes(cache) == 2 * SMALL.n_layer * 3 * 5 * SMALL.n_embd * 4


def test_the_future_changes_nothing_and_the_past_everything(model, idx):
    def last_logits(text):
        cache = model.make_cache(4)
        model(text[:, :5], cache)
        return model(text[:, 5:], cache)

    before = last_logits(idx)
    for t in range(T):
        changed = idx.clone()
        changed[:, t] = (idx[:, t] + 1) % SMALL.vocab_size
        moved = (last_logits(changed) - before).abs().amax(dim=(0, 2)) > 0
        assert moved.tolist() == [t <= position for position in (5, 6, 7)]


def test_without_a_cache_nothing_is_kept(model, idx):
    assert torch.equal(model(idx), model(idx))
    with torch.enable_grad():
        model(idx).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_probe_sees_the_new_rows_of_the_map(model, idx):
    with probe.attention(model) as maps:
        model(idx)
        whole = list(maps)
        cache = model.make_cache(4)
        for start, end in ((0, 3), (3, 6), (6, 7), (7, 8)):
            model(idx[:, start:end], cache)
            for weights, expected in zip(maps, whole, strict=True):
                torch.testing.assert_close(weights, expected[:, :, start:end, :end], rtol=1e-5, atol=1e-6)


# --- the layers on their own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("last", [1, 2, 5, 6])
def test_queries_stand_at_the_last_positions(last, causal):
    q, k, v = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    weights, mixed = attention_weights(q, k, causal), Attend(causal)(q, k, v)
    torch.testing.assert_close(attention_weights(q[:, -last:], k, causal), weights[:, -last:])
    torch.testing.assert_close(Attend(causal)(q[:, -last:], k, v), mixed[:, -last:])


@pytest.mark.parametrize("layer", [Head(12, 4), MultiHeadAttention(12, 3)], ids=["head", "many"])
def test_a_layer_reads_on_from_its_cache(layer):
    x = torch.randn(2, 6, 12)
    for pieces in pieces_of(6):
        past = KVCache(2, 6, 4) if isinstance(layer, Head) else KVCache(2, 3, 6, 4)
        parts = [layer(part, cache=past) for part in x.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), layer(x), rtol=1e-5, atol=1e-6)


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [T, T // 2, 1])
@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("length", range(1, T + 1))
def test_text_with_and_without_a_cache_is_the_same_far_past_the_context(length, B, keep):
    """Every length of prompt from 1 to the whole context; the text grows to three contexts and more."""
    for number in range(3):
        torch.manual_seed(number)
        model, prompt = stir(GPT(SMALL)).eval(), torch.randint(SMALL.vocab_size, (B, length))
        expected, logits = uncached(model, prompt, 3 * T, keep)
        watched = Watched(model)
        assert torch.equal(generate(watched, prompt, 3 * T, temperature=0, keep_last=keep), expected)
        for ours, theirs in zip(watched.logits, logits, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_each_token_is_read_once_until_the_context_is_full(model, idx):
    for keep, reads in ((None, [3, 1, 1, 1, 1, 1, 8, 8, 8]), (4, [3, 1, 1, 1, 1, 1, 4, 1, 1])):
        watched = Watched(model)
        generate(watched, idx[:, :3], 9, keep_last=keep)
        assert watched.read == reads


def test_two_streams_of_one_model_keep_apart(model, idx):
    alone = [generate(model, part, 12, temperature=0)[:, 4:] for part in (idx[:, :4], idx[:, 4:])]
    streams = [stream(model, part, 12, temperature=0) for part in (idx[:, :4], idx[:, 4:])]
    columns = list(zip(*streams))
    for whole, column in zip(alone, zip(*columns)):
        assert torch.equal(torch.cat(column, dim=1), whole)


# --- what cannot be -----------------------------------------------------------------------------------------------


def test_more_than_the_context(model, idx):
    cache = model.make_cache(4)
    model(idx, cache)
    with pytest.raises(ValueError, match=r"9 tokens do not fit the model's context of 8: .*, with an empty cache"):
        model(idx[:, :1], cache)
    assert cache[0].length == T


@pytest.mark.parametrize("size", [(1, 8), (5, 8), (4, 7)])
def test_a_cache_of_another_size(size, model, idx):
    with pytest.raises(ValueError, match="do not fit a cache"):
        model(idx, model.make_cache(*size))


@pytest.mark.parametrize("size", [(0, None), (1, 0), (1, 9)])
def test_sizes_that_make_no_cache(size, model):
    with pytest.raises(ValueError, match="no cache can hold"):
        model.make_cache(*size)


def test_a_cache_keeps_no_gradients(model, idx):
    with torch.enable_grad(), pytest.raises(ValueError, match=r"no gradients: .*torch.no_grad\(\)"):
        model(idx, model.make_cache(4))
