"""The bigram and n-gram models against a direct implementation of the formulas, and an independent one's losses."""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gptlib.ngram import BigramLM, NGram, baselines

TEXT = Path(__file__).parents[1] / "data" / "tinyshakespeare.txt"

# Interpolated modified Kneser-Ney by an independent implementation: orders 1 to 7, nats per validation character.
REFERENCE = [3.347, 2.484, 2.038, 1.719, 1.561, 1.523, 1.5165]


class SlowKneserNey:
    """Chen & Goodman (1998), one tuple at a time: n-gram -> count, in dictionaries, straight from the formula."""

    def __init__(self, order, vocab_size, ids):
        self.order, self.vocab_size = order, vocab_size
        self.count, self.discount, self.after = {}, {}, {}
        for k in range(1, order + 1):
            if k == order:
                count = Counter(tuple(ids[i : i + k]) for i in range(len(ids) - k + 1))
            else:
                left = defaultdict(set)
                for i in range(1, len(ids) - k + 1):
                    left[tuple(ids[i : i + k])].add(ids[i - 1])
                count = {gram: len(neighbors) for gram, neighbors in left.items()}
            self.count[k] = count
            self.discount[k] = self.estimate(count)
            self.after[k] = defaultdict(list)
            for gram, c in count.items():
                self.after[k][gram[:-1]].append(c)

    @staticmethod
    def estimate(count):
        n = [None] + [sum(c == i for c in count.values()) for i in (1, 2, 3, 4)]
        if min(n[1:]) > 0:
            y = n[1] / (n[1] + 2 * n[2])
            d = [0.0] + [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
            if min(d[1:]) > 0:
                return d
        return [0.0, 0.5, 1.0, 1.5]

    def probability(self, context, token):
        context = tuple(context)[max(0, len(context) - self.order + 1) :]
        shorter = self.probability(context[1:], token) if context else 1 / self.vocab_size
        k = len(context) + 1
        counts = self.after[k].get(context)
        if counts is None:
            return shorter
        total, d = sum(counts), self.discount[k]
        c = self.count[k].get((*context, token), 0)
        gamma = sum(d[i] * sum(min(x, 3) == i for x in counts) for i in (1, 2, 3)) / total
        return (c - d[min(c, 3)]) / total + gamma * shorter

    def loss(self, ids):
        return -sum(math.log(self.probability(ids[:t], ids[t])) for t in range(len(ids))) / len(ids)


def skewed_ids(n, vocab_size, seed):
    """Random ids, some frequent and some rare, each dependent on the one before, so that counts of 1 to 4 all occur."""
    source = random.Random(seed)
    ids = [0]
    for _ in range(n - 1):
        ids.append((ids[-1] * 2 + int(source.expovariate(0.5))) % vocab_size)
    return ids


@pytest.fixture(scope="module")
def split():
    text = TEXT.read_text(encoding="utf-8")
    id_of = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = np.array([id_of[character] for character in text])
    n = int(0.9 * len(ids))
    return len(id_of), ids[:n], ids[n:]


@pytest.fixture(scope="module")
def models(split):
    V, train, _ = split
    return [NGram(order, V).fit(train) for order in range(1, 8)]


# --- BigramLM


def test_bigram_starts_at_the_uniform_loss():
    torch.manual_seed(0)
    model, idx = BigramLM(65), torch.randint(65, (8, 32))
    logits = model(idx)
    assert logits.shape == (8, 32, 65)
    loss = F.cross_entropy(logits.flatten(0, 1), torch.randint(65, (8 * 32,)))
    assert loss.item() == pytest.approx(math.log(65), abs=0.01)
    assert model.logits.weight.std().item() == pytest.approx(0.02, rel=0.1)  # small, and not zero


def test_bigram_logits_are_the_row_of_the_current_token():
    model = BigramLM(5)
    idx = torch.tensor([[3, 1, 4], [0, 1, 3]])
    for b in range(2):
        for t in range(3):
            assert torch.equal(model(idx)[b, t], model.logits.weight[idx[b, t]])


def test_bigram_gradient_is_zero_for_tokens_that_do_not_occur():
    model, idx = BigramLM(6), torch.tensor([[1, 4, 4, 1]])
    F.cross_entropy(model(idx).flatten(0, 1), torch.tensor([4, 4, 1, 0])).backward()
    assert model.logits.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [1, 4]


def test_bigram_learns_the_relative_frequencies():
    ids = torch.tensor(skewed_ids(2000, 4, seed=1))
    torch.manual_seed(0)
    model = BigramLM(4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids[None, :-1])[0], ids[1:])
        loss.backward()
        return loss

    optimizer.step(closure)
    counts = torch.zeros(4, 4)
    for a, b in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        counts[a, b] += 1
    learned = model.logits.weight.detach().softmax(dim=-1)
    assert torch.allclose(learned, counts / counts.sum(dim=1, keepdim=True), atol=0.005)


@pytest.mark.parametrize("bad", [-1, 5])
def test_bigram_names_the_id_outside_the_vocabulary(bad):
    with pytest.raises(ValueError, match=rf"id {bad} is outside the vocabulary of 5; give 0 to 4"):
        BigramLM(5)(torch.tensor([[0, bad]]))


def test_bigram_checks_ids_on_the_cpu_only():
    """The meta device has no values, so a check would fail there; on a GPU it would wait for the result."""
    model = BigramLM(5).to("meta")
    assert model(torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 3, 5)


def test_bigram_needs_a_vocabulary():
    with pytest.raises(ValueError, match="vocab_size is 0; it must be at least 1"):
        BigramLM(0)


# --- NGram, order 1


def test_order_1_is_the_relative_frequency(split):
    V, train, validation = split
    frequency = np.bincount(train, minlength=V) / len(train)
    model = NGram(1, V).fit(train)
    assert np.allclose(model.probs([]).numpy(), frequency, rtol=0, atol=1e-12)
    assert np.allclose(model.probs([7, 8, 9]).numpy(), frequency, rtol=0, atol=1e-12)
    assert model.loss(validation) == pytest.approx(-np.log(frequency[validation]).mean(), abs=1e-12)


def test_order_1_add_one():
    model = NGram(1, 4, add_one=True).fit([0, 0, 0, 2])
    assert model.probs([]).tolist() == pytest.approx([4 / 8, 1 / 8, 2 / 8, 1 / 8])
    assert model.loss([3, 0]) == pytest.approx(-(math.log(1 / 8) + math.log(4 / 8)) / 2)


@pytest.mark.filterwarnings("error")
def test_order_1_unseen_token_has_infinite_loss():
    model = NGram(1, 4).fit([0, 0, 1, 2])
    assert model.loss([0, 1]) == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    assert model.loss([0, 3]) == math.inf


# --- NGram, Kneser-Ney


# (tokens, V). The first allows no discount estimate; 4 ids are all frequent; with 14 ids an estimated D2 is negative;
# only with 400 ids are some rare enough to estimate the unigram discounts.
SMALL_TEXTS = [(12, 5), (300, 4), (400, 9), (700, 14), (600, 30), (900, 400)]


@pytest.mark.parametrize(("length", "V"), SMALL_TEXTS)
@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_agrees_with_the_slow_version(order, length, V):
    train, other = skewed_ids(length, V, seed=length), skewed_ids(150, V, seed=length + 1)
    fast, slow = NGram(order, V).fit(train), SlowKneserNey(order, V, train)
    assert fast.loss(other) == pytest.approx(slow.loss(other), abs=1e-10)
    assert fast.loss(train) == pytest.approx(slow.loss(train), abs=1e-10)
    source = random.Random(order)
    for n in range(order + 3):
        for context in ([source.randrange(V) for _ in range(n)], train[:n], train[len(train) - n :]):
            expected = [slow.probability(context, w) for w in range(V)]
            assert fast.probs(context).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_small_texts_cover_the_estimate_and_the_fallback():
    """Otherwise the test above would cover only one of the two."""
    cases = Counter()
    for length, V in SMALL_TEXTS:
        for k, d in SlowKneserNey(4, V, skewed_ids(length, V, seed=length)).discount.items():
            cases[k, d == [0.0, 0.5, 1.0, 1.5]] += 1
    assert all(cases[k, fallback] > 0 for k in (1, 2, 3, 4) for fallback in (True, False)), cases


def test_by_hand_on_a_text_of_five_tokens():
    """0 1 0 1 2, discounts 0.5, 1, 1.5. Pairs: 01 twice, 10 once, 12 once. 0, 1 and 2 have one left neighbour each.

    p(w) = (1 - 0.5) / 3 + (0.5 + 0.5 + 0.5) / 3 · 1/3 = 1/3, the same for all three.
    p(1 | 0) = (2 - 1) / 2 + 1/2 · 1/3 = 2/3, and p(2 | 1) = (1 - 0.5) / 2 + (0.5 + 0.5) / 2 · 1/3 = 5/12.
    """
    model = NGram(2, 3).fit([0, 1, 0, 1, 2])
    assert model.probs([]).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert model.probs([0]).tolist() == pytest.approx([1 / 6, 2 / 3, 1 / 6])
    assert model.probs([1]).tolist() == pytest.approx([5 / 12, 1 / 6, 5 / 12])
    assert model.probs([2]).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])  # nothing followed 2
    assert model.loss([0, 1, 2]) == pytest.approx(-(math.log(1 / 3) + math.log(2 / 3) + math.log(5 / 12)) / 3)


def test_a_new_context_favors_tokens_with_many_left_neighbors():
    """5 is the most frequent token and always follows 4; 0 is rarer and follows four different ones."""
    ids = [4, 5] * 20 + [1, 0, 2, 0, 3, 0, 5, 0]
    after_nothing = NGram(2, 6).fit(ids).probs([])
    assert ids.count(5) > ids.count(0) and after_nothing[0] > after_nothing[5]


@pytest.mark.parametrize("order", range(1, 8))
def test_probabilities_sum_to_one(order, models, split):
    V, train, validation = split
    source = np.random.default_rng(order)
    seen = [train[i : i + order] for i in source.integers(len(train) - order, size=20)]
    unseen = list(source.integers(V, size=(20, order + 2)))
    starts = [validation[:n] for n in range(order + 1)]
    for context in [*seen, *unseen, *starts]:
        p = models[order - 1].probs(context)
        assert p.shape == (V,) and p.min() >= 0
        assert p.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("order", range(1, 8))
def test_losses_are_those_of_the_probabilities_and_loss_is_their_mean(order, models, split):
    ids = split[2][:50]
    one_by_one = [-models[order - 1].probs(ids[:t])[ids[t]].log().item() for t in range(len(ids))]
    assert models[order - 1].losses(ids).tolist() == pytest.approx(one_by_one, abs=1e-12)
    assert models[order - 1].loss(ids) == pytest.approx(np.mean(one_by_one), abs=1e-12)


def test_only_the_last_tokens_of_a_context_count(models):
    for order, model in enumerate(models, start=1):
        context = [20, 43, 50, 50, 53, 1, 58, 46]
        kept = context[len(context) - (order - 1) :]
        assert torch.equal(model.probs(context), model.probs(kept))
    after_t, after_q = models[1].probs([46, 58]), models[1].probs([58, 46])
    assert not torch.equal(after_t, after_q)  # the last token, not the first


def test_losses_on_shakespeare(models, split):
    losses = [model.loss(split[2]) for model in models]
    assert losses == sorted(losses, reverse=True)
    assert losses == pytest.approx(REFERENCE, abs=0.002)


# --- NGram, inputs


def test_lists_arrays_and_tensors_give_the_same_losses():
    ids = skewed_ids(400, 200, seed=3)  # ids up to 199: a uint8 times V would overflow
    expected = NGram(3, 200).fit(ids).loss(ids)
    for same in (np.array(ids), np.array(ids, dtype=np.uint8), np.array(ids, dtype=np.uint16), torch.tensor(ids)):
        model = NGram(3, 200).fit(same)
        assert model.loss(same) == expected
        assert torch.equal(model.probs(same[100:102]), model.probs(ids[100:102]))


def test_fit_returns_the_model_and_forgets_earlier_counts():
    once, twice, ids = NGram(2, 3), NGram(2, 3).fit([2, 2, 2]), [0, 1, 0, 1, 2]
    assert once.fit(ids) is once
    assert torch.equal(twice.fit(ids).probs([0]), once.probs([0]))


def test_short_texts():
    assert math.isfinite(NGram(3, 4).fit([0, 1, 2]).loss([3]))
    assert math.isfinite(NGram(3, 4).fit([0, 1, 2]).loss([3, 3]))
    assert NGram(5, 1).fit([0] * 5).loss([0, 0]) == pytest.approx(0)


def test_large_codes_do_not_overflow():
    V = 50_257
    train = [V - 1, V - 2, V - 1, V - 1, V - 3] * 3
    slow = SlowKneserNey(4, V, train)
    assert NGram(4, V).fit(train).loss(train) == pytest.approx(slow.loss(train), abs=1e-10)


@pytest.mark.parametrize("V, order", [(50_257, 5), (2503, 7), (600, 7), (65, 12)])
def test_vocabularies_whose_n_grams_do_not_fit_in_63_bits(V, order):
    train, other = skewed_ids(400, V, seed=1), skewed_ids(100, V, seed=2)
    fast, slow = NGram(order, np.int64(V)).fit(train), SlowKneserNey(order, V, train)
    for ids in (train, other, [V - 1] * 20):
        assert fast.loss(ids) == pytest.approx(slow.loss(ids), abs=1e-10)


@pytest.mark.parametrize("order", [4, 5, 6])
def test_unseen_contexts_of_a_large_vocabulary_stay_apart_from_seen_ones(order):
    source = random.Random(0)
    train, other = source.choices(range(4), k=40), source.choices(range(4), k=400)
    fast, slow = NGram(order, 50_257).fit(train), SlowKneserNey(order, 50_257, train)
    assert fast.loss(other) == pytest.approx(slow.loss(other), abs=1e-10)


@pytest.mark.filterwarnings("error")
def test_baselines_are_finite_when_the_validation_set_holds_a_new_token():
    plain, new = baselines([0, 1, 2, 0] * 9, [0, 1], 4), baselines([0, 1, 2, 0] * 9, [0, 3], 4)
    assert plain["unigram"] == pytest.approx(-(math.log(18 / 36) + math.log(9 / 36)) / 2)
    assert new["unigram"] == pytest.approx(-(math.log(19 / 40) + math.log(1 / 40)) / 2)  # add-one
    assert all(map(math.isfinite, new.values())) and new["uniform"] == math.log(4)


def test_baselines_are_a_bigram_and_a_7_gram():
    train, val = skewed_ids(900, 9, seed=1), skewed_ids(100, 9, seed=2)
    expected = [SlowKneserNey(order, 9, train).loss(val) for order in (2, 7, 4)]
    losses, shorter = baselines(train, val, 9), baselines(train, val, 9, order=4)
    found = [losses["counted bigram"], losses["best n-gram"], shorter["best n-gram"]]
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0, "vocab_size": 5}, "order is 0; it must be at least 1"),
        ({"order": 2, "vocab_size": 0}, "vocab_size is 0; it must be at least 1"),
        ({"order": 2, "vocab_size": 5, "add_one": True}, "add_one needs order 1, and order is 2"),
    ],
)
def test_invalid_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NGram(**arguments)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "ids has 0 tokens; give at least 3"),
        ([0, 1], "ids has 2 tokens; give at least 3"),
        ([0, 1, 5], "id 5 is outside the vocabulary of 5; give 0 to 4"),
        ([0, -1, 2], "id -1 is outside the vocabulary of 5"),
        ([0.0, 1.0, 2.0], "ids are float64; give integers"),
        ([[0, 1, 2]], r"ids have shape \(1, 3\); give one sequence"),
    ],
)
def test_ids_that_cannot_be_counted(ids, message):
    with pytest.raises(ValueError, match=message):
        NGram(3, 5).fit(ids)


def test_ids_that_cannot_be_scored():
    model = NGram(2, 5).fit([0, 1, 2, 3])
    with pytest.raises(ValueError, match="ids has 0 tokens; give at least 1"):
        model.loss([])
    with pytest.raises(ValueError, match="id 9 is outside the vocabulary of 5"):
        model.loss(torch.tensor([1, 9]))
    with pytest.raises(ValueError, match="id 5 is outside the vocabulary of 5"):
        model.probs([5])


@pytest.mark.parametrize("order", [1, 3])
def test_a_model_without_fit_is_refused(order):
    with pytest.raises(RuntimeError, match=r"counted nothing yet; call fit\(ids\) first"):
        NGram(order, 5).loss([0, 1])
    with pytest.raises(RuntimeError, match=r"counted nothing yet; call fit\(ids\) first"):
        NGram(order, 5).probs([])
