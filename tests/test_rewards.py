"""Rewards against formulas written out, enumeration of every answer, and finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import SMALL, stir
from gptlib.finetuning import IGNORE
from gptlib.model import GPT
from gptlib.rewards import (
    dpo_loss,
    group_advantages,
    join_answers,
    join_pairs,
    kl_to_reference,
    masked_mean,
    pass_at_k,
    policy_loss,
    token_logprobs,
)  # fmt: skip

V = SMALL.vocab_size
PROMPT = torch.tensor([3, 1, 4])
ANSWERS = torch.tensor([*itertools.product(range(V), repeat=2)])  # every answer of two tokens
X, Y = join_answers(PROMPT.expand(len(ANSWERS), -1), ANSWERS)


@pytest.fixture
def policy(model) -> GPT:
    return model.double()


@pytest.fixture
def reference() -> GPT:
    return stir(GPT(SMALL)).eval().double()


def row(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def nudged(model, direction, size):
    """The parameters of `model` moved by `size` in `direction`, in place."""
    with torch.no_grad():
        for parameter, change in zip(model.parameters(), direction, strict=True):
            parameter += size * change


def slope(model, value, direction, size=1e-5):
    """The derivative of value(model) in `direction`, by finite differences."""
    found = []
    for step in (size, -2 * size):
        nudged(model, direction, step)
        found.append(value(model).item())
    nudged(model, direction, size)
    return (found[0] - found[1]) / (2 * size)


def along(model, scalar, direction):
    """The derivative of `scalar` in `direction`, by autograd."""
    gradients = torch.autograd.grad(scalar, list(model.parameters()), allow_unused=True)
    return sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True) if g is not None)


# --- log-probabilities of answers ---------------------------------------------------------------------------------


def test_the_prompt_is_masked_and_each_token_of_the_answer_is_a_target():
    x, y = join_answers(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 8], [9, 0]]))
    assert x.tolist() == [[1, 2, 3, 7], [4, 5, 6, 9]]
    assert y.tolist() == [[IGNORE, IGNORE, 7, 8], [IGNORE, IGNORE, 9, 0]]
    x, y = join_answers(torch.tensor([[1]]), torch.tensor([[2]]))
    assert (x.tolist(), y.tolist()) == ([[1]], [[2]])


def test_pairs_stand_the_chosen_first():
    prompts = torch.tensor([[1, 2], [3, 4]])
    x, y = join_pairs(prompts, torch.tensor([[5, 6], [7, 8]]), torch.tensor([[5, 7], [0, 0]]))
    assert x.tolist() == [[1, 2, 5], [3, 4, 7], [1, 2, 5], [3, 4, 0]]
    assert y[:, 1:].tolist() == [[5, 6], [7, 8], [5, 7], [0, 0]] and (y[:, 0] == IGNORE).all()


def test_a_log_probability_is_that_of_the_target_in_the_models_distribution(policy):
    x, y = torch.randint(V, (2, 4, 8))
    y[0, :3] = y[2, 5:] = IGNORE
    found, probs = token_logprobs(policy, x, y), policy(x).softmax(-1)
    for b, t in itertools.product(range(4), range(8)):
        expected = 0.0 if y[b, t] == IGNORE else math.log(probs[b, t, y[b, t]].item())
        assert found[b, t].item() == pytest.approx(expected)
    assert not found[y == IGNORE].signbit().any(), "0 is printed as -0"


def test_the_probabilities_of_all_answers_add_up_to_1(policy):
    assert token_logprobs(policy, X, Y).sum(1).exp().sum().item() == pytest.approx(1)


# --- preferences --------------------------------------------------------------------------------------------------


def test_dpo_by_hand():
    """Log-ratios of 1 and -2 with β = 0.5: the margin is 1.5, the loss -ln(1 / (1 + e^-1.5)) = 0.2014."""
    loss, margins = dpo_loss(row(-3), row(-7), row(-4), row(-5), beta=0.5)
    assert margins.tolist() == [1.5] and round(loss.item(), 4) == 0.2014


def test_dpo_is_the_logistic_loss_of_the_margins_averaged_over_pairs():
    numbers = torch.randn(4, 9, dtype=torch.float64) * 20
    loss, margins = dpo_loss(*numbers, beta=0.3)
    c, r, ref_c, ref_r = numbers.numpy()
    expected = 0.3 * (np.log(np.exp(c) / np.exp(ref_c)) - np.log(np.exp(r) / np.exp(ref_r)))
    np.testing.assert_allclose(margins, expected)
    assert loss.item() == pytest.approx(np.mean(np.log(1 + np.exp(-expected))))


def test_dpo_starts_at_ln_2_whatever_the_pairs_are(policy):
    x, y = join_pairs(PROMPT.expand(6, -1), ANSWERS[:6], ANSWERS[20:26])
    chosen, rejected = token_logprobs(policy, x, y).sum(1).chunk(2)
    loss, margins = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach())
    assert loss.item() == pytest.approx(math.log(2)) and margins.tolist() == [0.0] * 6


def test_dpos_gradient_is_the_one_of_the_paper():
    """-β σ(-margin) (∇chosen - ∇rejected), averaged: Rafailov et al. 2023, below equation 7."""
    numbers = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    loss, margins = dpo_loss(*numbers, beta=2.0)
    loss.backward()
    weight = 2.0 / (1 + margins.detach().exp()) / 5
    torch.testing.assert_close(numbers.grad, torch.stack([-weight, weight, weight, -weight]))


def test_dpo_of_a_huge_margin_neither_overflows_nor_stops_learning():
    chosen = torch.tensor([-40000.0, 40000.0], requires_grad=True)
    loss, _ = dpo_loss(chosen, *torch.zeros(3, 2), beta=1.0)
    loss.backward()
    assert loss.item() == 20000 and chosen.grad.tolist() == [-0.5, 0.0]


def test_dpo_learns_to_tell_the_pairs_apart(policy, reference):
    reference.load_state_dict(policy.state_dict())
    x, y = join_pairs(PROMPT.expand(8, -1), ANSWERS[:8], ANSWERS[80:88])
    ref = token_logprobs(reference, x, y).sum(1).detach().chunk(2)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    for _ in range(30):
        loss, margins = dpo_loss(*token_logprobs(policy, x, y).sum(1).chunk(2), *ref, beta=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 and (margins > 0).all()


# --- advantages ---------------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    rewards = torch.tensor([[1, 0, 0, 0], [2, 2, 4, 4], [0, 0, 0, 0]])
    plain = [[0.75, -0.25, -0.25, -0.25], [-1, -1, 1, 1], [0, 0, 0, 0]]
    assert group_advantages(rewards, scale_by_std=False).tolist() == plain
    scaled = [[1.5, -0.5, -0.5, -0.5], [-(0.75**0.5), -(0.75**0.5), 0.75**0.5, 0.75**0.5], [0, 0, 0, 0]]
    torch.testing.assert_close(group_advantages(rewards), torch.tensor(scaled), rtol=1e-3, atol=0)
    assert torch.equal(group_advantages(rewards > 0)[2], torch.zeros(4))


@pytest.mark.parametrize("size", [2, 8])
def test_advantages_as_trl_computes_them(size):
    rewards = torch.randn(5, size, dtype=torch.float64) * 3
    expected = [(r - r.mean()) / (r.std(ddof=1) + 1e-4) for r in rewards.numpy()]
    np.testing.assert_allclose(group_advantages(rewards), np.stack(expected))


def test_equal_rewards_give_exactly_zero_although_their_mean_is_rounded():
    rewards = torch.full((3, 7), 0.1) * torch.tensor([[1.0], [3.0], [-7.0]])
    assert (rewards - rewards.mean(1, keepdim=True)).any(), "no rounding: choose other numbers"
    for scale_by_std in (True, False):
        assert not group_advantages(rewards, scale_by_std).any()


# --- the policy gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_on_average_the_policy_gradient_is_the_gradient_of_the_expected_reward(policy, baseline):
    """Every answer once, its advantage weighted with its probability, against finite differences; any baseline."""
    rewards = torch.randn(len(ANSWERS), dtype=torch.float64)
    direction = [torch.randn_like(parameter) for parameter in policy.parameters()]

    def expected_reward(model):
        return (token_logprobs(model, X, Y).sum(1).exp() * rewards).sum()

    logprobs = token_logprobs(policy, X, Y)
    weights = logprobs.detach().sum(1).exp()
    mean = policy_loss(logprobs, None, weights * (rewards - baseline), Y != IGNORE)
    found = along(policy, -mean * (Y != IGNORE).sum(), direction)
    assert abs(found) > 0.01
    assert found == pytest.approx(slope(policy, expected_reward, direction), rel=1e-5)


def test_answers_of_another_model_are_weighted_with_the_ratio(policy, reference):
    """One token: the expectation over the old model's samples is that of the new model's expected reward."""
    x, y = join_answers(PROMPT.expand(V, -1), torch.arange(V)[:, None])
    new, old = (token_logprobs(model, x, y) for model in (policy, reference))
    rewards = torch.randn(V, dtype=torch.float64)
    loss = policy_loss(new, old, V * old.sum(1).exp().detach() * rewards, y != IGNORE, clip=None)
    assert loss.item() == pytest.approx(-(new.sum(1).exp() * rewards).sum().item())
    assert policy_loss(new, old, rewards, y != IGNORE).item() != pytest.approx(loss.item())


@pytest.mark.parametrize(
    "ratio, advantage, gain, learns",
    [(1.0, 2.0, 2.0, True), (1.1, 2.0, 2.2, True), (1.5, 2.0, 2.4, False), (0.5, 2.0, 1.0, True),
     (1.0, -2.0, -2.0, True), (0.5, -2.0, -1.6, False), (1.5, -2.0, -3.0, True), (0.9, -2.0, -1.8, True)],
)  # fmt: skip
def test_clipping_by_hand(ratio, advantage, gain, learns):
    logprobs = row(math.log(ratio * 0.4))[:, None].requires_grad_()
    old, mask = row(math.log(0.4))[:, None], torch.ones(1, 1, dtype=torch.bool)
    loss = policy_loss(logprobs, old, row(advantage), mask)
    loss.backward()
    assert loss.item() == pytest.approx(-gain)
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if learns else 0)
    assert policy_loss(logprobs, old, row(advantage), mask, clip=None).item() == pytest.approx(-ratio * advantage)
    if not 0.7 < ratio < 1.3:
        assert policy_loss(logprobs, old, row(advantage), mask, clip=0.6).item() == pytest.approx(-ratio * advantage)


def test_old_log_probabilities_are_constants(policy):
    logprobs, rewards = torch.randn(3, 2, requires_grad=True), torch.tensor([1.0, -2.0, 3.0])
    losses = [policy_loss(logprobs, old, rewards, torch.ones(3, 2).bool()) for old in (None, logprobs)]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, logprobs)
        torch.testing.assert_close(gradient, (-rewards / 6)[:, None].expand(3, 2))


def test_tokens_count_the_same_or_answers_do():
    values, mask = torch.randn(4, 6), torch.arange(6) < torch.tensor([[6], [1], [3], [0]])
    kept = [[v.item() for v, m in zip(*pair) if m] for pair in zip(values, mask)]
    means = [sum(answer) / max(1, len(answer)) for answer in kept]
    values[~mask] = math.nan
    for given in (mask, mask.float(), mask.long()):
        assert masked_mean(values, given).item() == pytest.approx(sum(map(sum, kept)) / 10)
        assert masked_mean(values, given, per_answer=True).item() == pytest.approx(sum(means) / 4)
    logprobs, advantages = values.nan_to_num(), torch.tensor([1.0, -2.0, 0.5, 3.0])
    gains = [(6 * 1 - 1 * 2 + 3 * 0.5) / 10, (1 - 2 + 0.5) / 4]
    for per_answer in (False, True):
        loss = policy_loss(logprobs, None, advantages, mask, per_answer=per_answer)
        assert loss.item() == pytest.approx(-gains[per_answer])


# --- the distance to the reference --------------------------------------------------------------------------------


def test_on_average_the_estimate_is_the_divergence_and_its_gradient_that_of_the_other_one(policy, reference):
    x, y = join_answers(PROMPT.expand(V, -1), torch.arange(V)[:, None])
    logprobs, ref = (token_logprobs(model, x, y)[:, -1] for model in (policy, reference))
    estimates, probs = kl_to_reference(logprobs, ref.detach()), logprobs.detach().exp()
    divergence = F.kl_div(ref, logprobs, reduction="sum", log_target=True)  # KL(policy ‖ reference)
    assert (probs * estimates).sum().item() == pytest.approx(divergence.item())
    direction = [torch.randn_like(parameter) for parameter in policy.parameters()]
    found = along(policy, (probs * estimates).sum(), direction)

    def reverse(model):
        return F.kl_div(token_logprobs(model, x, y)[:, -1], ref, reduction="sum", log_target=True)

    assert found == pytest.approx(slope(policy, reverse, direction), rel=1e-5)


def test_the_estimate_is_never_negative_and_0_only_for_equal_probabilities():
    a, b = -torch.rand(2, 100000) * torch.logspace(-6, 1, 100000)
    assert (kl_to_reference(a, b) >= 0).all() and (kl_to_reference(a, b + 1) > 0).all()
    assert not kl_to_reference(a, a).any()
    assert kl_to_reference(row(0), row(math.log(2))).item() == pytest.approx(1 - math.log(2))


# --- pass@k -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, c", [(1, 0), (1, 1), (5, 0), (5, 2), (6, 5), (7, 1), (4, 4)])
def test_pass_at_k_counts_the_choices_with_a_right_sample(n, c):
    for k in range(1, n + 1):
        choices = [any(choice) for choice in itertools.combinations([True] * c + [False] * (n - c), k)]
        assert pass_at_k(n, c, k) == pytest.approx(sum(choices) / len(choices))


def test_pass_at_k_of_many_samples_is_exact():
    assert pass_at_k(10000, 1, 100) == pytest.approx(0.01) and pass_at_k(10**5, 10**5 - 1, 2) == 1


# --- bad input ----------------------------------------------------------------------------------------------------


def test_an_answer_has_one_prompt_and_a_pair_two_answers():
    prompts, answers = torch.ones(2, 3).long(), torch.arange(4).view(2, 2)
    for bad in [(prompts[:1], answers), (prompts[:, :0], answers), (prompts, answers[:, :0]), (prompts[:0], answers)]:
        with pytest.raises(ValueError, match="give one answer per prompt"):
            join_answers(*bad)
    with pytest.raises(ValueError, match="the two answers of pair 1 are equal: leave such pairs out"):
        join_pairs(prompts, answers, torch.tensor([[0, 2], [2, 3]]))
    with pytest.raises(ValueError, match=r"the shapes must be the same.*'rejected': \(2, 1\)"):
        join_pairs(prompts, answers, answers[:, :1])


def test_shapes_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match=r"'x': \(2, 3\), 'y': \(2, 2\)"):
        token_logprobs(model, torch.ones(2, 3).long(), torch.ones(2, 2).long())
    with pytest.raises(ValueError, match=r"'ref_chosen': \(2, 1\)"):
        dpo_loss(row(1, 2), row(1, 2), row(1, 2)[:, None], row(1, 2))
    with pytest.raises(ValueError, match=r"'ref_logprobs': \(1,\)"):
        kl_to_reference(row(1, 2), row(1))
    logprobs, mask = torch.zeros(4, 3), torch.ones(4, 3).bool()
    for old, advantages, masked in [(logprobs[:, :1], 4, mask), (None, 3, mask), (None, 4, mask[:, :1])]:
        with pytest.raises(ValueError, match="the shapes must be the same"):
            policy_loss(logprobs, old, torch.ones(advantages), masked)
    for shape in [(4,), (4, 1), (2, 2, 2)]:
        with pytest.raises(ValueError, match="for each prompt at least two answers"):
            group_advantages(torch.ones(shape))
    with pytest.raises(ValueError, match="no token counts"):
        policy_loss(logprobs, None, torch.ones(4), ~mask)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    fine, broken, mask = row(1, 2), row(1, bad), torch.ones(2, 2).bool()
    two, spoiled = torch.zeros(2, 2, dtype=torch.float64), torch.stack([fine, broken])
    with pytest.raises(ValueError, match="NaN or infinity in ref_chosen: the model has diverged"):
        dpo_loss(fine, fine, broken, fine)
    for call in [
        lambda: group_advantages(spoiled), lambda: policy_loss(spoiled, None, fine, mask),
        lambda: policy_loss(two, spoiled, fine, mask), lambda: policy_loss(two, None, broken, mask),
        lambda: kl_to_reference(two, spoiled), lambda: dpo_loss(broken, fine, fine, fine),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="NaN or infinity in"):
            call()


@pytest.mark.parametrize("beta", [0, -0.1, math.nan])
def test_beta_is_positive(beta):
    with pytest.raises(ValueError, match="give a positive number, such as 0.1"):
        dpo_loss(row(1), row(1), row(1), row(1), beta=beta)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses_counts_that_cannot_be(n, c, k):
    with pytest.raises(ValueError, match="give 0 to n right samples, and 1 to n chosen ones"):
        pass_at_k(n, c, k)
