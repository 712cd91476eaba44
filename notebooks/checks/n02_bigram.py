"""Checks of notebook 02: losses, a table of counts, and tokens sampled from it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .compare import as_asked, obeys_generator, rows_sum_to_one, same, unlike
from .exercise import exercise, prediction
from .report import Mistake, dtype_name

ONE_DECIMAL, BITS = "this is right to one decimal: give two decimals", "this is in bits: use the natural logarithm"
two_losses = prediction(
    {"fresh": math.log(50), "trained": math.log(5)},
    {
        **dict.fromkeys((1 / 50, 1 / 5), "this is a probability; the loss is its surprisal"),
        **dict.fromkeys((50, 5), "this is a perplexity, a number of choices; the loss is its logarithm"),
        "fresh": {3.9: ONE_DECIMAL, math.log2(50): BITS, math.log(49): "the token that follows is one of the 50 too"},
        "trained": {
            1.6: ONE_DECIMAL,
            0: "a loss of 0 means that the target has probability 1, and here it shares it with four other tokens",
            math.log2(5): BITS,
            math.log(50) / 10: "a tenth of the choices is not a tenth of the loss: their logarithms differ by ln 10",
        },
    },
    tolerance=0.003,
    said="the loss is the logarithm of the number of equally likely choices, ln 50 and then ln 5.",
)


def amount_added(table, ids, V):
    """A clue: pseudo-counts other than 1."""
    counts = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V)
    for amount in (0.001, 0.01, 0.1, 0.5, 2, 1 / V, V):
        if same(table, (counts + amount) / (counts + amount).sum(dim=1, keepdim=True)):
            return f"{amount:.3g} is added to each pair, and 1 is asked for"
    return None


@exercise(
    cases=[
        *[(torch.tensor(ids), V) for ids, V in (([0, 1, 0, 1, 0, 1, 1, 1], 2), ([0, 1, 1, 0, 1, 1, 0, 1, 0], 3))],
        *[(torch.randint(4, (40,), generator=torch.Generator().manual_seed(0)), 5), (torch.tensor([2, 0]), 3)],
    ],
    pairs=True,
    mistakes={
        ".view(V, V) + 1": {
            ".view(V, V).clamp(max=1) + 1": "a pair that occurs often is counted once: `+= 1` writes each index once",
            ".view(V, V)": "one is not added: a pair that does not occur gets probability 0",
            ".view(V, V).clamp(min=1)": "one is added only where nothing was counted, and every pair gets it",
            ".view(V, V).mT + 1": "the table says which token came before: row i is for the tokens after token i",
        },
        ", minlength=V * V": {"": "`bincount` ends at the largest pair that occurs: give it `minlength=V * V`"},
        "ids[:-1] * V + ids[1:]": {
            "ids * V + ids.roll(-1)": "the last token is followed by the first, and the text is not a circle",
            "ids[:-2] * V + ids[1:-1]": "the last pair is left out",
        },
        "counts / counts.sum(dim=1, keepdim=True)": {
            "counts / counts.sum(dim=0)": "columns sum to 1, rows do not: the sums run over the wrong axis",
            "counts / counts.sum(dim=1)": "columns are divided, not rows: the row sums need `keepdim=True`",
            "counts / (counts - 1).sum(dim=1, keepdim=True)": "one is added, but not to the sums of the rows",
        },
    },
    clues=[amount_added, rows_sum_to_one],
    said="every pair counts as often as it occurs, one is added to each, and every row sums to 1.",
)
def counted_table(ids, V):
    counts = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V) + 1
    return counts / counts.sum(dim=1, keepdim=True)


def held_down(loss, logits, targets):
    """A clue: a loss that cannot become large."""
    right = F.cross_entropy(logits, targets)
    if right > 100 and loss < 0.9 * right:
        return f"the loss stops at {loss:.4g}: what keeps the logarithm finite also limits the loss"
    return None


def reaches_the_logits(answer):
    """A demand: the gradient is that of the right loss."""
    logits, targets = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]], requires_grad=True), torch.tensor([0, 1])
    loss = answer(logits, targets)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return "the value is right, but cut off from the logits: `backward` has nothing to go through"
    (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
    (right,) = torch.autograd.grad(F.cross_entropy(logits, targets), logits)
    return None if same(gradient, right) else "the value is right, but its gradient is not: a part of it is cut off"


GATHER = "gather(1, targets[:, None])"
LOSS = f"-log_p.{GATHER}.mean()"


@exercise(
    cases=[
        (torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 1])),
        (torch.tensor([[0.5, -1.0, 2.0, 1.0]]), torch.tensor([1])),
        (torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 2, torch.tensor([2, 0, 1, 1, 0])),
        *[(torch.tensor([row]), torch.tensor([i])) for *row, i in [(1e3, 0.0, 1), (1e3, 0.0, 0), (-1e3, -1001.0, 1)]],
        (torch.tensor([[300.0, 0.0, 0.0], [-900.0, -800.0, -850.0]]), torch.tensor([1, 0])),
    ],
    mistakes={
        "logits - logits.max(dim=1, keepdim=True).values": {
            "logits": "exp(1000) is infinite in float32, and so is the sum: make the logits smaller first",
            "logits - logits.max()": "the largest logit of the whole batch is subtracted: each row has its own",
        },
        LOSS: {
            f"-log_p.{GATHER}.sum()": "the surprisals are summed, and their mean is asked for",
            f"-log_p.{GATHER}[:, 0]": "it is one number per prediction: the loss is their mean",
            f"{LOSS} / math.log(2)": "it is in bits: in nats the logarithm is the natural one",
            f"-log_p.exp().{GATHER}.mean().log()": "the mean is taken before the logarithm, not after",
            "-log_p[:, targets].mean()": "`[:, targets]` picks whole columns: one entry per row is meant",
        },
        "": {
            f"-logits.softmax(dim=1).{GATHER}.log().mean()": "a probability became 0 before its logarithm was taken",
            f"-(logits.exp() / logits.exp().sum(1, True)).{GATHER}.log().mean()": "exp(1000) is inf: inf / inf is nan",
            f"-logits.double().softmax(1).{GATHER}.log().mean()": "float64 only moves the limit: exp(-1000) is 0 too",
            f"-logits.log_softmax(dim=0).{GATHER}.mean()": "the softmax runs over the predictions, not the vocabulary",
            f"-logits.{GATHER}.mean()": "the softmax is missing: these are logits, not yet logarithms of probabilities",
            "right(logits.softmax(dim=1), targets)": "the softmax is taken twice",
        },
    },
    clues=[held_down],
    demands=[reaches_the_logits],
    forbidden={"F.cross_entropy F.nll_loss torch.log_softmax torch.logsumexp": "write out what it does"},
    said="the mean surprisal in nats, also for logits of 1,000 and -1,000, and `backward` goes through it.",
)
def steady_loss(logits, targets):
    logits = logits - logits.max(dim=1, keepdim=True).values
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -log_p.gather(1, targets[:, None]).mean()


AFTER_A, RISING = 0.5 * math.log(2) + 0.5 * math.log(4), {20, 30, 50}


def not_the_curve(value):
    """A clue: a rate that is missing or too many, or a loss that is read off too early."""
    if not isinstance(value, (list, tuple, set)):
        return "compute the limit: with rate 10 the loss is still falling" if 0.42 < value < 0.5 else None
    for rate in sorted(RISING ^ set(value)):
        return f"with rate {rate} the loss {'rises in some step' if rate in RISING else 'falls in every step'}"


jumping_curve = prediction(
    {"rising": RISING, "lowest": 0.4 * AFTER_A},
    {
        AFTER_A: "this is the mean over the pairs that begin with a; the other pairs count in the mean too",
        0.4 * AFTER_A / math.log(2): "this is in bits; in nats the logarithm is the natural one",
        4 * AFTER_A: "this is the sum of all surprisals, and the loss is their mean",
        0.4 * math.log(3): "after a, b comes twice, c and d once; if it is read off a curve, compute it instead",
        1.4708: "this is for a model that ignores the letter before; a table has a row for each",
    },
    clue=not_the_curve,
    tolerance=0.012,
    said="the loss rises at the rates 20, 30 and 50, and at the minimum the row of a leaves 0.42 nats.",
)

TEXTS = [torch.randint(3, (3, 20), generator=torch.Generator().manual_seed(seed)) for seed in (8, 12, 40)]
LOWER = "the validation loss of Shakespeare is lower with a smaller amount"


@exercise(
    cases=[(*texts, 3, (0.1, 1, 10)) for texts in TEXTS],
    mistakes={
        "train[:-2] * V * V + train[1:-1] * V + train[2:]": {
            "train[2:] * V * V + train[1:-1] * V + train[:-2]": "the order is reversed: the target comes last",
        },
        "loss(val, amount)": {
            "loss(train, amount)": "the amount is chosen by the training loss, which is lowest for the smallest",
            "loss(test, amount)": "the amount is chosen by the test loss: choose it by the loss on `val`",
        },
        "loss(test, best)": {"loss(val, best)": "this is the validation loss: return the loss on `test`"},
        "min(": {"max(": "the amount with the highest validation loss is chosen"},
        "(counts + amount) / (counts + amount)": {"(counts + 1) / (counts + 1)": "1 is added whatever the amount is"},
        "sum(dim=2": {"sum(dim=0": "the sum runs over the wrong axis: the target is on the last one"},
    },
    value=prediction({"chosen": 0.1}, {0.01: "only the training loss is lowest there", 1: LOWER, 10: LOWER}, ""),
    said="the validation loss chooses 0.1, and the test set, which had no part in that, gives 2.09.",
)
def choose_amount(train, val, test, V, amounts):
    counts = torch.bincount(train[:-2] * V * V + train[1:-1] * V + train[2:], minlength=V**3).view(V, V, V)

    def loss(ids, amount):
        p = (counts + amount) / (counts + amount).sum(dim=2, keepdim=True)
        return -p[ids[:-2], ids[1:-1], ids[2:]].log().mean().item()

    best = min(amounts, key=lambda amount: loss(val, amount))
    return best, loss(test, best)


SAMPLES = 4000  # per row: a share is then within 0.04 of its probability, but for one time in a million


def shares(answer, table):
    """How often each token is sampled after each: (V, V). For the solution, how often it should be."""
    if answer is sampled_tokens.solution:
        return torch.cat([table[:, :-1], 1 - table[:, :-1].sum(dim=1, keepdim=True)], dim=1)
    V = len(table)
    now = torch.arange(V).repeat(SAMPLES)
    given = now.clone()
    sampled = as_asked(answer(table, given, torch.Generator().manual_seed(0)), now)
    if not same(given, now):
        raise Mistake("it changes `now` in place; work on a copy")
    if problem := unlike(sampled, now):
        raise Mistake(f"for {len(now)} tokens in `now`, {problem}")
    if sampled.is_floating_point():
        raise Mistake(f"it returns {dtype_name(sampled.dtype)}, and tokens are integers")
    if len(outside := sampled[(sampled < 0) | (sampled >= V)]):
        raise Mistake(f"token {outside[0]} is sampled, and there are only the tokens 0 to {V - 1}")
    return torch.bincount(now * V + sampled, minlength=V * V).view(V, V) / SAMPLES


def too_often(found, table):
    """A clue: whether the most likely tokens are sampled too often."""
    excess = (found - table).gather(1, table.argmax(dim=1, keepdim=True))
    clear = (excess > 0.02).all() or (excess < -0.02).all()
    return clear and f"the most likely token of each row is sampled too {'often' if excess[0] > 0 else 'seldom'}"


THREE = torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2], [0.1, 0.0, 0.9]])
RAND = "torch.rand(len(now), 1, generator=generator)"


@exercise(
    cases=[
        (THREE,),
        (torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.6, 0.0, 0.2, 0.2], [0.3, 0.3, 0.0, 0.4]]),),
        *[(torch.eye(6).roll(2, dims=1),), (0.98 * THREE,)],  # the latter as if rounding had left its rows below 1
    ],
    mistakes={
        "table[now]": {
            "table.mT[now]": "columns are used: the row of a token says what may follow it",
            "table.softmax(dim=1)[now]": "the table holds probabilities already, and a softmax flattens them",
        },
        "cumsum(dim=1)": {"cumsum(dim=0)": "the running sum goes down the batch: it must go along each row"},
        ".cumsum(dim=1)[:, :-1]": {
            "[:, :-1]": "these are probabilities, not the ends of intervals: `cumsum` is missing",
            ".cumsum(dim=1)": "the last end is kept: where rounding leaves it below 1, the result can be V",
        },
        RAND: {
            RAND.replace("1,", "len(table) - 1,"): "each end has a random number of its own: one per sample is needed",
            RAND.replace("len(now)", "1"): "one random number for all of `now`: each token needs its own",
            RAND.replace("rand", "randn"): "the random numbers are normally distributed: uniform ones are needed",
        },
        "(r >= ends).sum(dim=1)": {
            "(r < ends).sum(dim=1)": "the ends to the right of r are counted: count those to its left",
            "(r < ends).int().argmax(dim=1)": "the last token is never sampled: no end is left to the right of its r",
        },
        "": {
            "table[now].argmax(dim=1)": "the most likely token is taken each time, and a sample is random",
            "torch.randint(len(table), now.shape, generator=generator)": "every token is equally likely: use the row",
        },
    },
    call=shares,
    errors={"must match the size of tensor": "two sizes differ: r should be (B, 1), and `ends` (B, V - 1)"},
    clues=[too_often],
    demands=[obeys_generator(lambda answer, generator: answer(THREE.clone(), torch.arange(3).repeat(99), generator))],
    forbidden={"torch.multinomial": "do without it"},
    tolerance=0.04,
    said="each token is sampled as often as the previous token's row says, with the given generator alone.",
)
def sampled_tokens(table, now, generator):
    ends = table[now].cumsum(dim=1)[:, :-1]
    r = torch.rand(len(now), 1, generator=generator)
    return (r >= ends).sum(dim=1)
