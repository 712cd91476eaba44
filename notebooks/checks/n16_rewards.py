"""Checks of notebook 16: DPO, pairs that length decides, the policy gradient, pass@k, and a reward of your own."""

import contextlib
import math
import re
from math import comb

import torch
from torch.nn import functional as F

import gptlib

from .compare import tensors
from .exercise import exercise, prediction
from .report import Mistake


def tokens(*rows):
    """Log-probabilities of the tokens of the chosen and the rejected answers, from their probabilities."""
    return torch.tensor(rows).log()


def masks(*lengths, T, prompt=0):
    """Which of T targets belong to an answer: (2, N) lengths, after a prompt that has none."""
    place = torch.arange(T) - prompt
    return (place >= 0) & (place < torch.tensor(lengths)[..., None])


HAND = tokens([[0.2, 0.5, 0.3]], [[0.5, 0.1, 0.4]]), tokens([[0.1, 0.5, 0.3]], [[0.5, 0.2, 0.4]])
BOTH_FALL = tokens([[0.1, 0.5]], [[0.1, 0.1]]), tokens([[0.4, 0.5]], [[0.9, 0.3]])
UNCHANGED = tokens([[0.1, 0.5], [0.3, 0.3]], [[0.1, 0.1], [0.6, 0.9]])
FAR = tokens([[1e-30, 1e-30, 1e-30]], [[0.9, 0.8, 0.9]]), tokens([[0.9, 0.8, 0.7]], [[1e-30, 1e-30, 0.1]])


def random_case(seed, lengths, T, prompt, beta):
    policy, reference = tensors(seed, (2, len(lengths[0]), T), (2, len(lengths[0]), T))
    return -policy.abs() - 0.1, -reference.abs() - 0.1, masks(*lengths, T=T, prompt=prompt), beta


def without_gradient(answer):
    """A demand: what is said of a loss that no optimizer could lower."""
    policy, *others = random_case(3, [[2, 3], [3, 1]], 4, 1, 0.5)
    with contextlib.suppress(RuntimeError):  # as NumPy's functions raise for a tensor with a gradient
        if answer(policy.requires_grad_(), *others)[0].requires_grad:
            return None
    return "the values are right, but the loss has no gradient: compute it from `policy`, without detaching anything"


BACKWARD = """def dpo_from_tokens(policy, reference, mask, beta):
    loss, accuracy = right(policy, reference, mask, beta)
    return accuracy, loss"""
LOSS_ALONE = """def dpo_from_tokens(policy, reference, mask, beta):
    return right(policy, reference, mask, beta)[0]"""
BY_POLICY = """def dpo_from_tokens(policy, reference, mask, beta):
    loss, _ = right(policy, reference, mask, beta)
    chosen, rejected = (policy * mask).sum(dim=2)
    return loss, (chosen > rejected).float().mean()"""


@exercise(
    cases=[
        (*HAND, masks([3], [3], T=3), 0.1),
        (*BOTH_FALL, masks([2], [2], T=2), 1.0),
        (*BOTH_FALL, masks([2], [2], T=2), 0.002),
        (UNCHANGED, UNCHANGED.clone(), masks([2, 2], [2, 1], T=2), 0.1),
        random_case(1, [[3, 2, 4], [1, 4, 4]], 4, 0, 0.5),
        random_case(2, [[3, 5, 1, 2], [4, 2, 1, 3]], 9, 3, 0.3),
        (*FAR, masks([3], [3], T=3), 1.0),
    ],
    pairs=True,
    mistakes={
        "(policy - reference)": {
            "(reference - policy)": "the margins have the wrong sign: it is policy minus reference, and the chosen "
            "answer (index 0) minus the rejected one",
            "policy": "the reference is left out: what counts is the change from it",
            "(policy / reference)": "the log-probabilities are divided: a ratio of probabilities is a difference of "
            "their logarithms",
            "(policy.exp() - reference.exp())": "probabilities are subtracted: what counts is the difference of their "
            "logarithms",
        },
        "* mask)": {
            ")": "targets outside of the answer are counted as well: multiply by the mask",
            "* ~mask)": "the mask is inverted: it is true for the tokens of the answer",
        },
        ".sum(dim=2)": {
            ".mean(dim=2)": "the mean over all positions is taken: an answer's log-probability is a sum",
            ".sum(dim=2) / mask.sum(dim=2)": "each sum is divided by the answer's length: DPO takes the sum itself",
        },
        "beta * (change": {
            "(change": "beta is left out",
            "1 / beta * (change": "the difference is divided by beta: multiply by it",
        },
        "change[0] - change[1]": {
            "change[0]": "the rejected answer is left out of the margin",
            "change[0] + change[1]": "the two changes are added: the margin is their difference",
        },
        "-F.logsigmoid(margins).mean()": {
            "F.logsigmoid(margins).mean()": "the sign of the loss is wrong: it is the negative logarithm",
            "-F.logsigmoid(margins).sum()": "the losses of the pairs are added: take their mean",
            "-torch.sigmoid(margins).mean()": "the logarithm is missing",
            "-margins.mean()": "this is the margin itself: the loss is −log σ of it",
            "-F.logsigmoid(margins.mean())": "the margins are averaged before the loss: average the losses",
            "-torch.sigmoid(margins).log().mean()": "for a margin far below 0, the exponential in it is infinite, "
            "and so is the loss: F.logsigmoid computes the whole without it",
        },
        "(margins > 0).float().mean()": {
            "(margins >= 0).float().mean()": "a margin of 0 counts as right: such a pair is not decided",
            "(margins < 0).float().mean()": "this is the share of pairs with a margin below 0",
            "(margins > 0.5).float().mean()": "the accuracy counts margins above 0, and 0.5 is where σ has that value",
            "(margins > 0).float().sum()": "this is the number of pairs with a margin above 0: return their share",
            "margins.sigmoid().mean()": "this is the mean of σ(m): the accuracy counts margins above 0",
            "margins.mean()": "this is the mean margin: return the share of margins above 0",
        },
        "": {
            BACKWARD: "the two results are exchanged: the loss comes first",
            LOSS_ALONE: "the accuracy is missing: return the loss and the accuracy",
            BY_POLICY: "the accuracy compares the policy alone: a margin is relative to the reference",
        },
    },
    demands=[without_gradient],
    said="sums over the answers, differences from the reference, and −log σ also where σ is rounded to 0.",
)
def dpo_from_tokens(policy, reference, mask, beta):
    change = ((policy - reference) * mask).sum(dim=2)  # (2, N)
    margins = beta * (change[0] - change[1])
    return -F.logsigmoid(margins).mean(), (margins > 0).float().mean().item()


LENGTHS = torch.tensor([[9, 20], [30, 12], [15, 15], [7, 25]])
SCORES = torch.tensor([[1.0, 3.0], [2.0, 4.0], [1.0, 2.0], [3.0, 3.0]])
ONE = torch.tensor([[5, 9], [20, 8]])
HALVES = torch.tensor([[1.0, 0.0], [2.0, 0.0]])


def random_pairs(seed, N):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (N, 2), generator=generator)
    return lengths, torch.randint(0, 4, (N, 2), generator=generator).float()


KINDS = {
    "b": "the share per character favors neither: look at the two shares again",
    "c": "one of the two rules prefers the shorter answer in clearly more than half of the pairs",
}


@exercise(
    cases=[(LENGTHS, SCORES), (ONE, HALVES), random_pairs(0, 6), random_pairs(1, 12), random_pairs(2, 40)],
    pairs=True,
    mistakes={
        "(scores[:, 0] != scores[:, 1]) & (lengths[:, 0] != lengths[:, 1])": {
            "torch.ones(len(scores), dtype=torch.bool)": "pairs without a preference and pairs of equal lengths are "
            "counted: leave both out",
            "scores[:, 0] != scores[:, 1]": "pairs of equal lengths are counted: neither answer is the shorter one",
            "lengths[:, 0] != lengths[:, 1]": "pairs with equal scores are counted: the rule prefers neither",
            "(scores[:, 0] != scores[:, 1]) | (lengths[:, 0] != lengths[:, 1])": "a pair counts if scores and lengths "
            "both differ, and not only one of the two",
        },
        "lengths[:, 0] < lengths[:, 1]": {
            "lengths[:, 0] > lengths[:, 1]": "this is the share in which the longer answer is chosen: the one with the "
            "lower score is chosen",
        },
        "(first_chosen == first_shorter)": {
            "(first_chosen & first_shorter)": "a pair also counts if the second answer is both chosen and shorter",
            "(first_chosen | first_shorter)": "the same answer has to be the chosen and the shorter one",
            "first_chosen": "this is the share in which the first answer is chosen, whatever the lengths are",
            "first_shorter": "this is the share in which the first answer is shorter, whatever the rule prefers",
        },
        "[decided].float().mean()": {
            "[decided].float().sum()": "this is the number of such pairs: return their share",
            "[decided].float().sum() / len(scores)": "divide by the pairs that count, and not by all pairs",
        },
    },
    value=prediction({"rule": "a"}, {"rule": KINDS}, "", clue=lambda _: "enter one of the three letters"),
    said="pairs without a preference or with equal lengths are left out, and counting favors the short answer.",
)
def shorter_share(lengths, scores):
    decided = (scores[:, 0] != scores[:, 1]) & (lengths[:, 0] != lengths[:, 1])
    first_chosen = scores[:, 0] < scores[:, 1]
    first_shorter = lengths[:, 0] < lengths[:, 1]
    return (first_chosen == first_shorter)[decided].float().mean().item()


SCALED = """def policy_gradient(logits, answers, mask, rewards):
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    scores = F.one_hot(answers, logits.shape[-1]) - logits.softmax(dim=-1)
    return ((advantages[:, None] * mask)[..., None] * scores).mean(dim=0)"""
PER_ANSWER = """def policy_gradient(logits, answers, mask, rewards):
    n = len(rewards)
    advantages = rewards - (rewards.sum() - rewards) / (n - 1)
    scores = F.one_hot(answers, logits.shape[-1]) - logits.softmax(dim=-1)
    return ((advantages[:, None] * mask / mask.sum(dim=1, keepdim=True))[..., None] * scores).mean(dim=0)"""


def sampled(seed, T, V, *lengths):
    """Logits (T, V), and answers (n, T) of these lengths, filled up with token 0, with their mask and rewards."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    answers = torch.randint(1, V, mask.shape, generator=generator) * mask
    rewards = torch.randint(-1, 4, (len(lengths),), generator=generator).float()
    return torch.randn(T, V, generator=generator), answers, mask.float(), rewards


BY_HAND = torch.zeros(2, 2), torch.tensor([[1, 0], [0, 0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])


@exercise(
    cases=[
        (*BY_HAND, torch.tensor([1.0, 0.0])),
        sampled(1, 2, 3, 1, 2, 2),
        sampled(2, 3, 4, 3, 1, 2, 3),
        sampled(3, 4, 5, 4, 4, 2, 1, 3, 4, 2, 1),
    ],
    mistakes={
        "(rewards.sum() - rewards) / (n - 1)": {
            "rewards.mean()": "the baseline is the mean of the whole group: it holds the answer's own reward",
            "torch.zeros(n)": "no baseline is subtracted: the mean reward of the other answers is missing",
            "(rewards.sum() - rewards) / n": "the sum of the others is divided by n: there are n - 1 of them",
            "(rewards.sum() - rewards)": "the baseline is the sum of the other rewards: take their mean",
            "rewards.sum() / (n - 1)": "the answer's own reward is still in the sum",
        },
        "(rewards - baselines)": {
            "(baselines - rewards)": "the sign is wrong: this lowers the probability of what is better than the others",
            "(rewards * baselines)": "the baseline multiplies the reward: subtract it",
        },
        " * mask": {
            "* torch.ones_like(mask)": "what was filled up after the end token counts too: use the mask",
            "* (1 - mask)": "the mask is inverted: it is 1 where a token counts",
        },
        "F.one_hot(answers, logits.shape[-1]) - p": {
            "1.0 * F.one_hot(answers, logits.shape[-1])": "p is missing in the gradient of log p: one at the sampled "
            "token, minus p",
            "F.one_hot(answers, logits.shape[-1]) * (1 - p)": "the other logits have a gradient too: it is -p there",
            "F.one_hot(answers, logits.shape[-1]) / p": "this is the gradient with respect to p: take that for the "
            "logits",
            "p * (F.one_hot(answers, logits.shape[-1]) - p)": "p appears twice: the sampling has already weighted the "
            "tokens",
        },
        "logits.softmax(dim=-1)": {
            "logits": "logits are used as probabilities: the softmax is missing",
            "logits.log_softmax(dim=-1)": "log-probabilities are used as probabilities: take the softmax",
            "logits.softmax(dim=0)": "the softmax runs over the positions: it belongs over the tokens, dim=-1",
        },
        ".mean(dim=0)": {
            ".sum(dim=0)": "the answers are added up: the estimate is their mean",
            ".sum(dim=0) / mask.sum()": "divided by the number of tokens, as in the loss of the section: the expected "
            "reward is a mean over answers",
            ".sum(dim=0) / mask.sum(dim=0)[:, None]": "divided at each position by the answers that reach it: divide "
            "by all n",
        },
        "": {
            SCALED: "this is GRPO's advantage, with the mean and the standard deviation of the whole group",
            PER_ANSWER: "each answer is divided by its length: the log-probability of an answer is a sum over tokens",
        },
    },
    pairs=True,
    value=prediction(
        {"factor": 0.875},
        {
            "factor": {
                1: "on average the two differ: how much of a reward is left when an eighth of it is subtracted?",
                0.125: "that is the share of a reward that is subtracted from itself: what is left?",
                8 / 7: "this is the other way round: the gradient with the mean of the group is the smaller one",
                0.5: "that is right for groups of two, and these have eight answers",
            }
        },
        "",
    ),
    said="each answer is compared with the others, and 7/8 of the gradient is left when it is compared with all.",
)
def policy_gradient(logits, answers, mask, rewards):
    n, p = len(rewards), logits.softmax(dim=-1)
    baselines = (rewards.sum() - rewards) / (n - 1)
    weights = (rewards - baselines)[:, None] * mask  # (n, T)
    scores = F.one_hot(answers, logits.shape[-1]) - p  # (n, T, V)
    return (weights[..., None] * scores).mean(dim=0)


def rows(n, *counts):
    """For each count, a row of n answers of which so many are right; the right ones lie anywhere."""
    order = torch.Generator().manual_seed(n)
    return torch.stack([(torch.randperm(n, generator=order) < c).float() for c in counts])


POOLED = """def pass_at_k(right, k):
    total, c = right.numel(), int(right.sum())
    return 1 - comb(total - c, k) / comb(total, k)"""
MEAN_FIRST = """def pass_at_k(right, k):
    return 1 - (1 - right.mean().item()) ** k"""
FIRST_K = """def pass_at_k(right, k):
    return right[:, :k].amax(dim=1).mean().item()"""


@exercise(
    cases=[
        (torch.tensor([[0.0, 0.0, 1.0, 0.0]]), 2),
        (rows(4, 2, 0), 2),
        (rows(8, 1, 3, 5, 8), 4),
        (rows(8, 1, 3, 5, 8), 1),
        (rows(6, 0, 2, 3), 6),
        (rows(16, 1, 1, 4, 15, 0), 8),
    ],
    mistakes={
        "1 - sum(failed)": {"sum(failed)": "this is the probability that all k are wrong: subtract it from 1"},
        "comb(n - c, k) / comb(n, k)": {
            "(1 - c / n) ** k": "this samples with replacement, so an answer can be chosen twice: count the choices of "
            "k different ones",
            "1 - k * c / n": "the probabilities of k answers are added, but several of them can be right at once",
            "1 - c / n": "this is pass@1: k is not used",
            "1 - comb(c, k) / comb(n, k)": "this is the probability that all k are right: one is enough",
            "comb(n - c, k) / n**k": "the number of ways to choose k of n is `comb(n, k)`",
            "comb(c, k) / comb(n, k)": "the wrong ones are counted as the right ones",
            "(c == 0)": "this asks for a right one among all n answers, whatever k is",
            "comb(n - 1, k) / comb(n, k)": "this is the formula for a single right answer: use c",
        },
        " / len(failed)": {"": "the prompts are added up: take their mean"},
        "right.sum(dim=1)": {
            "right[:, :k].sum(dim=1)": "only the first k answers are used to count the right ones: use all n",
        },
        "": {
            POOLED: "all prompts are thrown together: compute it for each prompt, then take the mean",
            MEAN_FIRST: "the mean over the prompts is taken first: a prompt that is never right stays at 0",
            FIRST_K: "this looks at the first k answers only: average over all choices of k",
        },
    },
    value=prediction(
        {"crossing": 3},
        {
            "crossing": {
                1: "for a single answer, b has 14 of 32 right, and a has 8",
                2: "b is still ahead, 0.536 to 0.464",
                4: "a is ahead for k = 4, and for a smaller k too",
                8: "with 8 answers, a has a right one for every sum, but it is ahead with fewer",
            }
        },
        "",
    ),
    said="the mean over prompts of the share of choices that hold a right answer; a is ahead from k = 3 on.",
)
def pass_at_k(right, k):
    n = right.shape[1]
    failed = [comb(n - c, k) / comb(n, k) for c in right.sum(dim=1).int().tolist()]
    return 1 - sum(failed) / len(failed)


def words(text):
    return re.findall("[a-z']+", text.lower())


known = set(words(gptlib.load_text("shakespeare")))


def preferred(answer, better, worse):
    """Which of two continuations has the higher reward."""
    found = [answer(text) for text in (better, worse)]
    if None in found:
        return None
    try:
        first, second = map(float, found)
    except (TypeError, ValueError):
        raise Mistake("a reward is one number per text, and this returns something else") from None
    for text, reward in zip((better, worse), (first, second)):
        if not math.isfinite(reward):
            raise Mistake(f"the reward of {text!r} is {reward}: a reward is a finite number")
    return "the first" if first > second else "the second" if second > first else "neither"


PLAIN, REPEATED, TURNS, INVENTED = (
    ("I pray thee, tell me where he is.", "I pray you, tell me where he is."),
    ("I thank thee; bring me to my father.", "Thee thee thee thee thee thee thee thee."),
    ("My lord, I love thee, and my heart is thine.", "thee the thee the thee the thee the thee"),
    ("Good night, sweet nurse, and God be with thee.", "Zorbl thee quix vantle frob mimsule gark."),
)
MORE = [
    ("Come, night, and bring thee to my chamber.", "Come, night, and bring him to my chamber."),
    ("If thou art dead, I will come to thee.", "thee, thee!\nthee, thee!\nthee, thee!\nthee, thee!"),
    ("What says he of our marriage? I ask thee.", "O thee O thee O thee O thee O thee O thee O"),
    ("Then let me go with thee to the prince.", "theer thee wheeth, thenthee omthou thethet"),
]
SAID = {
    "no *thee*": "a text without *thee* is worth as much as one with it, or more",
    "repeated": "a text in which *thee* is repeated is worth as much as a sentence with one, or more",
    "invented": "a text of invented words is worth as much as a sentence, or more",
}


def trick(result, better, worse):
    """A clue: by which trick the second text gets its reward."""
    if "thee" not in words(worse):
        return SAID["no *thee*"]
    return SAID["repeated" if words(worse).count("thee") > 1 else "invented"]


UNSEEN = {
    "a": "a repeated word stands in the text that the reward is given: it can be counted",
    "c": "an invented word stands in the text that the reward is given: it can be looked up",
    "d": "whether a continuation has a *thee* can be read in it",
}


@exercise(
    cases=[PLAIN, REPEATED, TURNS, INVENTED, *MORE],
    mistakes={
        'min(spoken.count("thee"), 1) * ': {
            'spoken.count("thee") * ': "more occurrences make up for the repetition: let a second *thee* add nothing",
            "": "*thee* makes no difference: a text with it must get more than the same text without",
            '(1 - min(spoken.count("thee"), 1)) * ': "a text with *thee* gets less than one without",
        },
        " * real": {"": "a text of invented words with one *thee* gets as much as a sentence, or more"},
        " * different": {"": "repetition costs nothing: a text of one or two words gets as much as a sentence"},
        'min(spoken.count("thee"), 1) * real * different': {
            'spoken.count("thee")': "this is the count that training has exploited: the tricks get as much or more",
            '-spoken.count("thee")': "each *thee* lowers the reward, so the best text has none",
        },
    },
    call=preferred,
    clues=[trick],
    value=prediction({"unseen": "b"}, {"unseen": UNSEEN}, ""),
    said="none of these tricks gets as much as a sentence; that all texts become alike, no such reward can see.",
)
def tender(text):
    spoken = words(text)
    if not spoken:
        return 0.0
    real = sum(word in known for word in spoken) / len(spoken)
    different = len(set(spoken)) / len(spoken)
    return min(spoken.count("thee"), 1) * real * different
