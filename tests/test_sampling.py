"""Generation against a loop over the model's own probabilities, and draws against the distribution they come from."""

import pytest
import torch

from conftest import SMALL, stir
from gptlib.bigram import BigramLM
from gptlib.model import GPT, GPTConfig
from gptlib.sampling import generate


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


@pytest.mark.parametrize("T", [1, 5, 8, 11])
def test_draws_are_spread_as_the_model_says(T, model):
    prompt = torch.randint(SMALL.vocab_size, (1, T))
    N = 5_000
    with torch.no_grad():
        expected = N * model(prompt[:, -8:])[0, -1].softmax(0)
    counts = generate(model, prompt.expand(N, T), 1, seed(3))[:, -1].bincount(minlength=SMALL.vocab_size)
    distance = ((counts - expected) ** 2 / expected)[expected > 5].sum().item()
    assert distance < 40, "chi-squared with at most 12 degrees of freedom: 40 is passed once in 14,000"
    assert expected.max() < 0.9 * N, "else this test could not tell much"


def test_what_lies_before_the_context_is_not_seen(model):
    idx = torch.randint(SMALL.vocab_size, (3, 15))
    other = idx.clone()
    other[:, :7] = (idx[:, :7] + 1) % SMALL.vocab_size
    assert torch.equal(generate(model, idx, 9, seed(1))[:, 15:], generate(model, other, 9, seed(1))[:, 15:])


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


@pytest.mark.parametrize("shape", [(1, 0), (3,), (1, 2, 3)])
def test_nothing_to_continue(shape, model):
    with pytest.raises(ValueError, match=r"idx has shape \(.*\): give \(B, T\) with at least one token, such as"):
        generate(model, torch.zeros(shape, dtype=torch.long), 5)
