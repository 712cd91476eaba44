"""Answers to the exercises of notebook 16."""

import itertools
import re
from collections import Counter
from math import comb

import numpy as np
import torch
from torch.nn import functional as F

import gptlib

from . import Several


def words(text):
    return re.findall("[a-z']+", text.lower())


known = set(words(gptlib.load_text("shakespeare")))


def pair_by_pair(policy, reference, mask, beta):
    losses, right = [], 0
    for n in range(policy.shape[1]):
        of = [(policy[i, n][mask[i, n]] - reference[i, n][mask[i, n]]).sum() for i in (0, 1)]
        margin = beta * of[0] - beta * of[1]
        losses.append(F.softplus(-margin))
        right += bool(margin > 0)
    return sum(losses) / len(losses), right / len(losses)


def summed_first(policy, reference, mask, beta):
    own, ref = (torch.where(mask, logprobs, 0.0).sum(-1) for logprobs in (policy, reference))
    gain = (own[0] - own[1]) - (ref[0] - ref[1])  # how much better the policy separates the two
    loss = F.binary_cross_entropy_with_logits(beta * gain, torch.ones_like(gain))
    return loss, sum(gain > 0) / len(gain)


def by_log_ratios(policy, reference, mask, beta):
    log_ratios = (policy - reference).masked_fill(~mask, 0.0)
    margins = torch.einsum("int, i -> n", log_ratios, torch.tensor([beta, -beta]))
    return torch.logaddexp(-margins, torch.zeros_like(margins)).mean(), np.mean((margins > 0).numpy())


def by_sign(lengths, scores):
    products = (lengths[:, 0] - lengths[:, 1]).sign() * (scores[:, 0] - scores[:, 1]).sign()
    return (products > 0).sum() / (products != 0).sum()


def in_a_loop(lengths, scores):
    shorter = total = 0
    for (a, b), (one, other) in zip(lengths.tolist(), scores.tolist()):
        if one != other and a != b:
            chosen, rejected = (a, b) if one < other else (b, a)
            total, shorter = total + 1, shorter + (chosen < rejected)
    return shorter / total


def gathered(lengths, scores):
    keep = (lengths.diff(dim=1) != 0).squeeze(1) & (scores.diff(dim=1) != 0).squeeze(1)
    return (lengths[keep].argmin(dim=1) == scores[keep].argmin(dim=1)).double().mean()


def by_autograd(logits, answers, mask, rewards):
    logits = logits.clone().requires_grad_()
    n = len(rewards)
    advantages = n / (n - 1) * (rewards - rewards.mean())
    logprobs = logits.log_softmax(dim=-1).expand(n, -1, -1).gather(2, answers[..., None]).squeeze(2)
    (advantages * (logprobs * mask).sum(dim=1)).mean().backward()
    return logits.grad


def token_by_token(logits, answers, mask, rewards):
    gradient, rewards = torch.zeros_like(logits), rewards.tolist()
    for i, answer in enumerate(answers.tolist()):
        others = rewards[:i] + rewards[i + 1 :]
        advantage = rewards[i] - sum(others) / len(others)
        for t, token in enumerate(answer):
            if mask[i, t]:
                score = -torch.exp(logits[t]) / torch.exp(logits[t]).sum()
                score[token] += 1
                gradient[t] += advantage * score / len(rewards)
    return gradient


def with_einsum(logits, answers, mask, rewards):
    n, V = len(rewards), logits.shape[1]
    others = (1 - torch.eye(n)) @ rewards / (n - 1)
    return torch.einsum("n,nt,ntv->tv", rewards - others, mask, torch.eye(V)[answers] - logits.softmax(1)) / n


def by_counting(right, k):
    found = [any(choice) for row in right.bool().tolist() for choice in itertools.combinations(row, k)]
    return sum(found) / len(found)


def by_product(right, k):
    n, shares = right.shape[1], []
    for c in right.sum(1).long().tolist():
        shares.append(1.0 if n - c < k else 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))
    return float(np.mean(shares))


def by_symmetry(right, k):
    n = right.size(1)
    return torch.tensor([1 - comb(n - k, int(c)) / comb(n, int(c)) for c in right.sum(1)], dtype=torch.float64).mean()


def added_up(text):
    """A sum instead of a product: each part has its weight."""
    spoken = words(text)
    score = 2.0 * ("thee" in spoken)
    score -= sum(word not in known for word in spoken)
    return score - sum(n - 1 for n in Counter(spoken).values())


def a_gate(text):
    """All or nothing, as a bool."""
    spoken = re.findall(r"[a-z']+", text.lower())
    repeated = len(spoken) - len(set(spoken))
    return "thee" in spoken and repeated < 2 and all(word in known for word in spoken)


def as_a_tensor(text):
    spoken = words(text)
    counts = torch.tensor(list(Counter(spoken).values()), dtype=torch.float)
    share = torch.tensor([word in known for word in spoken]).float().mean()
    return ("thee" in spoken) * share**3 * (1 / counts).mean()


def one_exactly(text):
    """Exactly one *thee*, and as many different known words as possible."""
    spoken = words(text)
    return (spoken.count("thee") == 1) * len(set(spoken) & known) / (1 + len(spoken))


RIGHT = {
    "dpo_from_tokens": [pair_by_pair, summed_first, by_log_ratios],
    "shorter_share": [Several([by_sign, "a"]), Several([in_a_loop, "A"]), Several([gathered, "(a)"])],
    "policy_gradient": [
        Several([by_autograd, 7 / 8]),
        Several([token_by_token, 0.875]),
        Several([with_einsum, 0.88]),
    ],
    "pass_at_k": [
        Several([by_counting, 3]),
        Several([by_product, 3.0]),
        Several([lambda right, k: by_symmetry(right, k).item(), 3]),
    ],
    "tender": [Several([answer, letter]) for answer, letter in [(added_up, "b"), (a_gate, "B"), (as_a_tensor, "(b)")]]
    + [Several([one_exactly, "b"])],
}
WRONG = {
    "dpo_from_tokens": {
        "the loss comes first": lambda *inputs: summed_first(*inputs)[::-1],
        "the loss has no gradient": lambda *inputs: (summed_first(*inputs)[0].detach(), summed_first(*inputs)[1]),
        "beta is left out": lambda policy, reference, mask, beta: summed_first(policy, reference, mask, 1.0),
    },
    "shorter_share": {
        "favors neither": Several([by_sign, "b"]),
        "clearly more than half": Several([by_sign, "c"]),
        "the share in which the longer answer is chosen": lambda lengths, scores: 1 - by_sign(lengths, scores),
    },
    "policy_gradient": {
        "an eighth of it": Several([by_autograd, 1]),
        "these have eight answers": Several([by_autograd, 0.5]),
    },
    "pass_at_k": {
        "b is still ahead": Several([by_counting, 2]),
        "for a smaller k too": Several([by_product, 4]),
    },
    "tender": {
        "with it, or more": Several([lambda text: "I" in text, "b"]),
        "repeated is worth as much as a sentence with one": Several([lambda text: "thee" in text.lower(), "b"]),
        "invented words is worth as much as a sentence, or": Several(
            [lambda text: words(text).count("thee") == 1 and "night" not in text, "b"]
        ),
        "one number per text": Several([words, "b"]),
        "is nan: a reward is a finite number": Several([lambda text: float("nan"), "b"]),
        "it returns nothing": Several([lambda text: print(end=""), "b"]),
        "it can be counted": Several([a_gate, "a"]),
        "it can be looked up": Several([a_gate, "c"]),
        "can be read in it": Several([a_gate, "d"]),
        "choose one of": Several([a_gate, 3]),
    },
}
