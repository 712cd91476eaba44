"""Rewards: a language model is trained on which of two answers is better (DPO), or on how good each answer is (GRPO).

`finetuning` trains on answers that somebody wrote; here the answers are sampled, and only their reward is given. The
names and signs are those of `trl` (github.com/huggingface/trl); docstrings say where it computes something else.

N prompts · G answers per prompt · B answers (N * G) · P positions of a prompt · T positions of an answer
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.finetuning import IGNORE


def join_answers(prompts: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets: prompts (B, P), answers (B, T) -> x and y (B, P + T - 1), y being IGNORE within the prompt.

    >>> join_answers(torch.tensor([[1, 2, 3]]), torch.tensor([[7, 8]]))
    (tensor([[1, 2, 3, 7]]), tensor([[-100, -100,    7,    8]]))
    """
    if len(prompts) != len(answers) or not prompts.numel() or not answers.numel():
        raise ValueError(f"prompts {tuple(prompts.shape)}, answers {tuple(answers.shape)}: give one answer per prompt")
    ids = torch.cat([prompts, answers], dim=1)
    y = ids[:, 1:].clone()
    y[:, : prompts.shape[1] - 1] = IGNORE
    return ids[:, :-1], y


def join_pairs(prompts: Tensor, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """The same for pairs, chosen first: (N, P) and twice (N, T) -> (2N, P + T - 1). ValueError if two are equal."""
    check_tensors(chosen=chosen, rejected=rejected)
    if (equal := (chosen == rejected).all(dim=1)).any():
        raise ValueError(f"the two answers of pair {equal.nonzero()[0].item()} are equal: leave such pairs out")
    return join_answers(torch.cat([prompts, prompts]), torch.cat([chosen, rejected]))


def token_logprobs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Log-probability of each target, ids x (B, T) and targets y (B, T) -> (B, T); 0 where y is IGNORE."""
    check_tensors(x=x, y=y)
    losses = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none", ignore_index=IGNORE)
    return 0 - losses.view(y.shape)  # 0 - 0 is 0, and not -0


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> tuple[Tensor, Tensor]:
    """-log σ(margin), averaged over the pairs, and the margins (N,); Rafailov et al. 2023, equation 7.

    Each input (N,) holds log-probabilities of whole answers, summed over their tokens, under the model or the reference
    model. A margin is β ((chosen - ref_chosen) - (rejected - ref_rejected)); above 0, the model has moved towards the
    chosen answer. In trl, loss_type "sigmoid". Raises ValueError for numbers that are not finite, or a beta up to 0.
    """
    check_tensors(chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    if not beta > 0:
        raise ValueError(f"beta={beta}: give a positive number, such as 0.1")
    margins = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -F.logsigmoid(margins).mean(), margins


def group_advantages(rewards: Tensor, scale_by_std: bool = True) -> Tensor:
    """How much better than the mean of its group each answer is: rewards (N, G) -> (N, G). Shao et al. 2024, 4.1.2.

    With `scale_by_std`, it is divided by the standard deviation of the group plus 0.0001, as in trl; without, see Liu
    et al. 2025 (Dr. GRPO). Where all rewards are equal, all advantages are 0, and nothing is learned from the group.
    Raises ValueError for numbers that are not finite and for groups of one.
    """
    check_tensors(rewards=rewards)
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards {tuple(rewards.shape)}: give (N, G), for each prompt at least two answers")
    rewards = 1.0 * rewards  # right and wrong may be True and False
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = advantages.masked_fill((rewards == rewards[:, :1]).all(1, True), 0.0)  # the mean is rounded
    return advantages / (rewards.std(dim=1, keepdim=True) + 1e-4) if scale_by_std else advantages


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor | None, advantages: Tensor, mask: Tensor, clip: float | None = 0.2,
    per_answer: bool = False,
) -> Tensor:  # fmt: skip
    """-min(ratio · A, clipped ratio · A), averaged over the tokens in `mask` -> a scalar. Schulman et al. 2017, eq. 7.

    logprobs (B, T) are `token_logprobs`, old_logprobs (B, T) those of the model that sampled the answers (None: this
    one), and ratio is the quotient of the two probabilities. Each token has the advantage (B,) of its answer; mask
    (B, T) is y != IGNORE. A ratio beyond 1 ± clip in the direction of its advantage has no gradient. With old_logprobs
    None, the gradient is that of -A · logprobs, the policy gradient. Raises ValueError for shapes and NaN.
    """
    old_logprobs = (logprobs if old_logprobs is None else old_logprobs).detach()
    check_tensors(logprobs=logprobs, old_logprobs=old_logprobs, mask=mask)
    check_tensors(advantages=advantages, answers=logprobs[:, 0])
    advantages, ratio = advantages[:, None], (logprobs - old_logprobs).exp()
    gain = ratio * advantages
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(gain, mask, per_answer)


def masked_mean(values: Tensor, mask: Tensor, per_answer: bool = False) -> Tensor:
    """Mean of values (B, T) where mask (B, T) is true -> a scalar: every token counts the same, in trl "bnpo".

    trl's default "dapo" is the same where a step has one batch. With `per_answer`, it is the mean of the answers' own
    means, so that a token counts less in a long answer: Shao et al. 2024, equation 3, in trl "grpo".
    """
    mask = mask.bool()
    if not mask.any():
        raise ValueError("the mask is false everywhere: no token counts")
    if not per_answer:
        return values[mask].mean()
    return (values.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def kl_to_reference(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Per token, ref / p - log(ref / p) - 1: logprobs and ref_logprobs (B, T) -> (B, T), never negative.

    On average over tokens sampled from p, it is the divergence KL(p ‖ ref) at their positions: the estimator k3 of
    Schulman 2020, as in trl. The average of its gradient is not that of KL(p ‖ ref), but that of KL(ref ‖ p).
    """
    check_tensors(logprobs=logprobs, ref_logprobs=ref_logprobs)
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, chosen at random, hold one of the c right ones. Chen et al. 2021, equation 1."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: give 0 to n right samples, and 1 to n chosen ones")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def check_tensors(**tensors: Tensor) -> None:
    """Raises ValueError unless all are finite and have one shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the shapes must be the same, but they are {shapes}")
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"NaN or infinity in {', '.join(bad)}: the model has diverged, or a reward is not a number")
