"""Text against transformers' generate, distributions against its processors, draws against what they come from."""

import re

import pytest
import torch

from conftest import SMALL, copy_into_gpt2, stir
from gptlib.model import GPT, GPTConfig
from gptlib.ngram import BigramLM
from gptlib.sampling import generate, next_token_probs, stream


def seed(number):
    return torch.Generator().manual_seed(number)


def test_the_text_grows_behind_its_beginning(model, idx):
    for n in (0, 1, 20):
        longer = generate(model, idx, n)
        assert longer.shape == (4, 8 + n) and longer.dtype == idx.dtype
        assert torch.equal(longer[:, :8], idx)
        assert 0 <= longer.min() and longer.max() < SMALL.vocab_size


def test_each_token_is_drawn_from_what_the_last_position_predicts(model, idx):
    """One row and one token at a time, over the last eight."""
    with torch.no_grad():
        expected, generator = idx[:, :3], seed(7)
        for _ in range(20):
            probabilities = torch.stack([model(row[None, -8:])[0, -1].softmax(0) for row in expected])
            expected = torch.cat([expected, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    assert torch.equal(generate(model, idx[:, :3], 20, seed(7)), expected)


def test_the_seed_decides_the_draw_and_nothing_else_does(model, idx):
    first = generate(model, idx, 20, seed(1))
    torch.rand(5)
    before = torch.get_rng_state()
    assert torch.equal(generate(model, idx, 20, seed(1)), first)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert not torch.equal(generate(model, idx, 20, seed(2)), first)


def test_without_a_generator_the_global_one_draws(model, idx):
    torch.manual_seed(1)
    first = generate(model, idx, 20)
    assert not torch.equal(generate(model, idx, 20), first)
    torch.manual_seed(1)
    assert torch.equal(generate(model, idx, 20), first)


@pytest.mark.parametrize("T", [1, 5, 8])
def test_draws_are_spread_as_the_model_says(T, model):
    prompt = torch.randint(SMALL.vocab_size, (1, T))
    N = 5_000
    with torch.no_grad():
        expected = N * model(prompt)[0, -1].softmax(0)
    counts = generate(model, prompt.expand(N, T), 1, seed(3))[:, -1].bincount(minlength=SMALL.vocab_size)
    distance = ((counts - expected) ** 2 / expected)[expected > 5].sum().item()
    assert distance < 40, "chi-squared with at most 12 degrees of freedom: 40 is passed once in 14,000"
    assert expected.max() < 0.9 * N, "else this test could not tell much"


class Uncached(torch.nn.Module):
    """A model that can only be read whole, and remembers what it was given."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.seen = model, model.config, []

    def forward(self, idx):
        self.seen.append(idx.clone())
        return self.model(idx)


@pytest.mark.parametrize("keep", [None, 8, 4, 1])
def test_what_the_model_sees_past_the_end_of_its_context(keep, model, idx):
    watched = Uncached(model)
    text = generate(watched, idx[:, :6], 14, seed(1), keep_last=keep)
    lengths = {
        None: [6, 7, 8] + [8] * 11, 8: [6, 7, 8] + [8] * 11,
        4: [6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4], 1: [6, 7, 8, *range(1, 9), 1, 2, 3],
    }  # fmt: skip
    assert [seen.shape[1] for seen in watched.seen] == lengths[keep]
    for t, seen in enumerate(watched.seen, start=6):
        assert torch.equal(seen, text[:, t - seen.shape[1] : t]), "the latest ones"


def test_dropout_is_off_and_the_mode_is_left_alone(idx):
    model = stir(GPT(GPTConfig(**{**vars(SMALL), "dropout": 0.5})))
    sure = generate(model.eval(), idx, 20, seed(1))
    assert not model.training
    assert torch.equal(generate(model.train(), idx, 20, seed(1)), sure)
    assert all(module.training for module in model.modules())
    with pytest.raises(ValueError):
        generate(model, idx + SMALL.vocab_size, 1)
    assert model.training, "after an error, too"


def test_a_model_without_a_context_sees_everything():
    model = BigramLM(5)
    torch.nn.init.zeros_(model.logits.weight)
    model.logits.weight.data[torch.arange(5), (torch.arange(5) + 1) % 5] = 100.0
    assert generate(model, torch.tensor([[3]]), 6).tolist() == [[3, 4, 0, 1, 2, 3, 4]]


# --- how probabilities are reshaped -------------------------------------------------------------------------------


@pytest.fixture
def logits():
    return torch.randn(6, 50) * 3


def by_transformers(logits, temperature=1.0, top_k=None, top_p=None):
    """Its processors, in the order in which its generate applies them."""
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = process.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        logits = process.TopKLogitsWarper(top_k)(None, logits)
    if top_p is not None:
        logits = process.TopPLogitsWarper(top_p)(None, logits)
    return logits.softmax(dim=-1)


SETTINGS = [
    {"temperature": 0.3}, {"temperature": 2.5}, {"top_k": 1}, {"top_k": 7}, {"top_k": 50},
    {"top_p": 0.01}, {"top_p": 0.5}, {"top_p": 0.9}, {"top_p": 0.999},
    {"temperature": 0.7, "top_k": 20}, {"temperature": 1.7, "top_p": 0.8}, {"top_k": 5, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 10, "top_p": 0.7}, {"temperature": 0.5, "top_k": 3, "top_p": 0.95},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_reshaped_distribution_is_transformers(settings, logits):
    torch.testing.assert_close(next_token_probs(logits, **settings), by_transformers(logits, **settings))


def test_the_order_of_the_three_matters():
    """After top-k the four share 1, of which the top three hold 0.9; before it they hold 0.36, and p asks for more."""
    logits = torch.tensor([0.16, 0.12, 0.08, 0.04] + [0.012] * 50).log()
    assert next_token_probs(logits, top_k=4, top_p=0.85).count_nonzero() == 3
    assert next_token_probs(logits, top_p=0.85).count_nonzero() > 4
    flat = next_token_probs(logits, temperature=3.0, top_p=0.5).count_nonzero()
    assert flat > next_token_probs(logits, top_p=0.5).count_nonzero(), "the temperature comes before top-p"


def test_without_settings_it_is_the_softmax(logits):
    assert torch.equal(next_token_probs(logits), logits.softmax(-1))
    assert torch.equal(next_token_probs(logits, top_k=50), logits.softmax(-1))
    torch.testing.assert_close(next_token_probs(logits, top_p=1.0), logits.softmax(-1))
    assert next_token_probs(torch.randn(20_000) * 4, top_p=1.0).count_nonzero() == 20_000, "1.0 cuts nobody off"


def test_temperature_is_a_power_of_the_odds(logits):
    """Softmax of logits / t: the odds of any two tokens are raised to 1 / t."""
    plain, cold = logits.double().softmax(-1), next_token_probs(logits, temperature=0.5).double()
    torch.testing.assert_close(cold[:, 1:] / cold[:, :1], (plain[:, 1:] / plain[:, :1]) ** 2, rtol=1e-4, atol=0)


def test_top_p_keeps_the_fewest_tokens_that_hold_enough(logits):
    for row in logits:
        by_rank = row.softmax(-1).double().sort(descending=True).values.tolist()
        for p in (0.2, 0.6, 0.95):
            needed = next(n for n in range(1, 51) if sum(by_rank[:n]) >= p)
            kept = next_token_probs(row, top_p=p).double()
            assert kept.count_nonzero() == needed
            assert kept.max().item() == pytest.approx(by_rank[0] / sum(by_rank[:needed]))


def test_low_temperatures_approach_greedy_decoding(logits):
    for temperature in (0, 0.0, 1e-4, 1e-29):
        probabilities = next_token_probs(logits, temperature)
        assert torch.equal(probabilities.argmax(-1), logits.argmax(-1))
        torch.testing.assert_close(probabilities.max(-1).values, torch.ones(6))
    assert next_token_probs(torch.tensor([1e10, 0.0]), 1e-29).tolist() == [1, 0], "nothing overflows"
    torch.testing.assert_close(
        next_token_probs(logits, temperature=1e6), torch.full((6, 50), 1 / 50), rtol=1e-3, atol=0
    )


def test_the_most_likely_token_always_stays(logits):
    for p in (1e-3, 1e-9, 1e-30):
        torch.testing.assert_close(next_token_probs(logits, top_p=p), next_token_probs(logits, temperature=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype, logits):
    logits = logits.to(dtype)
    torch.testing.assert_close(next_token_probs(logits, top_p=0.9), by_transformers(logits.float(), top_p=0.9))


@pytest.mark.parametrize("settings", [{}, *SETTINGS[:2], *SETTINGS[-2:]], ids=str)
def test_ten_thousand_draws_follow_the_distribution(settings, model):
    prompt, N = torch.randint(SMALL.vocab_size, (1, 5)), 10_000
    with torch.no_grad():
        expected = N * by_transformers(model(prompt)[:, -1], **settings)[0]
    counts = generate(model, prompt.repeat(N, 1), 1, seed(4), **settings)[:, -1].bincount(minlength=SMALL.vocab_size)
    assert (counts[expected == 0] == 0).all(), "what is cut off is never drawn"
    often = expected > 5
    distance = ((counts - expected) ** 2 / expected)[often].sum().item()
    assert distance < 40, "chi-squared with at most 12 degrees of freedom: 40 is passed once in 14,000"
    assert expected.max() < 0.99 * N


# --- against another implementation's loop ------------------------------------------------------------------------


@pytest.mark.parametrize("T", range(1, 8))
def test_greedy_text_is_transformers(T, model, idx):
    expected = copy_into_gpt2(model).generate(
        idx[:, :T], attention_mask=torch.ones(4, T), max_length=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(generate(model, idx[:, :T], 8 - T, temperature=0), expected)


def test_greedy_decoding_is_deterministic(model, idx):
    first = generate(model, idx, 20, seed(1), temperature=0)
    assert torch.equal(generate(model, idx, 20, seed(2), temperature=0), first)
    assert torch.equal(generate(model, idx, 20, seed(3), top_k=1), first)


# --- streaming, stopping, several prompts -------------------------------------------------------------------------


def test_a_stream_is_the_text_as_it_grows(model, idx):
    whole = generate(model, idx, 20, seed(1), top_k=5)
    columns = []
    for t, column in enumerate(stream(model, idx, 20, seed(1), top_k=5)):
        assert torch.equal(column, whole[:, 8 + t : 9 + t])
        columns.append(column)
        column += 100  # what the caller does with it is the caller's
    assert len(columns) == 20


def test_a_stream_draws_no_sooner_than_asked(model, idx):
    watched = Uncached(model)
    columns = stream(watched, idx, 20)
    assert len(watched.seen) == 0
    next(columns)
    next(columns)
    assert len(watched.seen) == 2


def test_a_stream_that_is_left_early_leaves_the_mode_alone(model, idx):
    model.train()
    for _ in stream(model, idx, 20):
        assert torch.is_grad_enabled(), "the caller's own work is not without gradients"
        break
    assert model.training


def test_a_row_ends_with_its_stop_token(model, idx):
    free = generate(model, idx, 30, seed(1))[:, 8:]
    stopped = generate(model, idx, 30, seed(1), stop=3)[:, 8:]
    firsts = [row.tolist().index(3) if 3 in row else 30 for row in free]
    assert len(set(firsts)) > 1 and min(firsts) < 30, "else this test could not tell much"
    assert stopped.shape[1] == min(30, max(firsts) + 1), "no longer than the longest needs"
    for row, ended, first in zip(free, stopped, firsts):
        assert torch.equal(ended[: first + 1], row[: first + 1][: len(ended)]) and (ended[first:] == 3).all()


def test_the_text_ends_when_every_row_has_stopped(model, idx):
    free = generate(model, idx[:1], 30, seed(1))
    for stop in set(free[0, 8:].tolist()):
        first = free[0, 8:].tolist().index(stop)
        assert torch.equal(generate(model, idx[:1], 30, seed(1), stop=stop), free[:, : 8 + first + 1])
    twice = generate(model, idx[:1].repeat(2, 1), 1, temperature=0)
    assert torch.equal(generate(model, twice[:, :8], 30, temperature=0, stop=int(twice[0, -1])), twice)


def test_a_stop_token_in_the_prompt_stops_nothing(model):
    idx = torch.full((1, 4), 3)
    texts = {generate(model, idx, 5, seed(n), stop=3).shape[1] for n in range(20)}
    assert 9 in texts


def test_several_samples_of_one_prompt_differ(model, idx):
    texts = generate(model, idx[:1].repeat(5, 1), 20, seed(1))
    assert len({tuple(row.tolist()) for row in texts}) == 5


# --- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", [[], torch.zeros(1, 0), torch.zeros(1, 2, 3).long(), torch.rand(1, 3), torch.tensor(3)]
)
def test_what_is_no_prompt(prompt, model):
    with pytest.raises(ValueError, match="a prompt is at least one token id"):
        generate(model, prompt, 5)


def test_a_list_of_ids_is_a_prompt_and_an_integer_a_seed(model):
    expected = generate(model, torch.tensor([[5, 2]]), 10, seed(7))
    for prompt in ([5, 2], [[5, 2]], torch.tensor([5, 2]), torch.tensor([[5, 2]], dtype=torch.uint8)):
        assert torch.equal(generate(model, prompt, 10, 7), expected)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": None}, "temperature=None"),
        ({"top_k": 0}, "top_k=0: give an integer from 1 to the vocabulary size 13"),
        ({"top_k": 14}, "top_k=14"),
        ({"top_k": 2.0}, "top_k=2.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"temperature": 0, "top_k": 14}, "top_k=14"),
        ({"stop": 13}, "stop=13"),
        ({"stop": -1}, "stop=-1"),
        ({"stop": "\n"}, r"stop='\n'"),
        ({"keep_last": 0}, "keep_last=0: give 1 to the context length 8"),
        ({"keep_last": 9}, "keep_last=9"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"idx": torch.zeros(1, 9, dtype=torch.long)}, "prompt length=9: give at most 8 tokens"),
    ],
)
def test_settings_that_make_no_sense(settings, named, model, idx):
    with pytest.raises(ValueError, match=re.escape(named)):
        generate(model, **{"idx": idx, "max_new_tokens": 5, **settings})


def test_a_model_without_a_context_continues_a_prompt_of_any_length():
    assert generate(BigramLM(5), torch.zeros(1, 9, dtype=torch.long), 5).shape == (1, 14)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_k": 3, "top_p": 0.5}], ids=str)
def test_a_model_whose_logits_are_not_numbers(wrong, settings, model, idx):
    model.final_norm.bias.data[4] = wrong
    with pytest.raises(ValueError, match="the logits contain NaN or infinity.*Load an earlier checkpoint"):
        generate(model, idx, 5, **settings)
    with pytest.raises(ValueError, match="the logits contain NaN or infinity"):
        next_token_probs(torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, wrong]]), **settings)
