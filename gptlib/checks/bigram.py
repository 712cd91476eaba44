"""Checks of notebook 02: losses, a counted table, and tokens drawn from it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gptlib.checks.judge import Mistake, attempt, choice, examine, exercise, number, obeys_generator, same, unlike
from gptlib.checks.words import named


@exercise
def two_losses(fresh, trained):
    """Two numbers in nats: the loss of a fresh model of 50 tokens, and that of one that wavers between five."""
    of_fresh = {
        math.log2(50): "this is in bits; in nats the logarithm is the natural one",
        math.log10(50): "the logarithm to the base 10; in nats it is the natural one",
        1 / 50: "this is the probability of each token; the loss is its surprise",
        50: "this is the perplexity, the number of equally likely choices; the loss is its logarithm",
        -math.log(50): "a surprise is not negative: mind the sign of the logarithm",
        math.log(65): "that is a fresh model of 65 tokens; this one has 50",
        math.log(5): "five is what it has learned to waver between; a fresh model wavers between all of its tokens",
        math.log(49): "the token that comes is one of the 50 choices too",
        0: "a loss of 0 is a model that is certain, and right",
        1: "a loss of 1 is a perplexity of 2.7; how many choices does a fresh model see?",
    }
    number(fresh, math.log(50), of_fresh, tolerance=0.015)  # 3.9 is right, and ln 49 is not
    of_trained = {
        5: "this is the perplexity, the number of equally likely choices; the loss is its logarithm",
        1 / 5: "this is the probability of each of the five; the loss is its surprise",
        math.log2(5): "this is in bits; in nats the logarithm is the natural one",
        math.log10(5): "the logarithm to the base 10; in nats it is the natural one",
        -math.log(5): "a surprise is not negative: mind the sign of the logarithm",
        math.log(50)
        / 10: "a tenth of the choices is not a tenth of the loss: a ratio becomes a difference of logarithms",
        math.log(10): "this is what training has gained, the difference of the two losses",
        math.log(45): "45 is what it has ruled out; it wavers between the other five",
        math.log(50): "this is the fresh model; this one has ruled out 45 of its 50 tokens",
        math.log(4): "the token that comes is one of the five choices too",
        0: "a loss of 0 is a model that is certain, and this one wavers",
    }
    number(trained, math.log(5), of_trained, tolerance=0.01)
    return "the loss is the logarithm of the number of equally likely choices, ln 50 and then ln 5."


# --- the counted table --------------------------------------------------------------------------------------------


def pairs(ids: Tensor, V: int) -> Tensor:
    """How often token j comes after token i: (N,) -> (V, V)."""
    return F.one_hot(ids[:-1], V).float().mT @ F.one_hot(ids[1:], V).float()


def rows_divided(counts: Tensor) -> Tensor:
    return counts / counts.sum(dim=1, keepdim=True)


def sums(table: Tensor, *inputs) -> str | None:
    """A clue for a table (V, V): what sums to one, if not the rows."""
    ones = torch.ones(len(table))
    if same(table.sum(dim=1).float(), ones, 1e-3):
        return None
    if same(table.sum(dim=0).float(), ones, 1e-3):
        return "columns sum to one, rows do not: a row is what may come next"
    if abs(table.sum().item() - 1) < 1e-3:
        return "the whole table sums to one: these are shares of all pairs, not of what comes after one token"
    row = (table.sum(dim=1) - 1).abs().argmax().item()
    return f"row {row} sums to {table[row].sum():.2f}, and every row must sum to 1"


@exercise
def counted_table(answer):
    """A function ids (N,), V -> (V, V): what comes after each token, counted with one added to every pair."""

    def right(ids, V):
        return rows_divided(pairs(ids, V) + 1)

    def once(ids, V):
        return (pairs(ids, V) > 0).float()

    def of(change):
        return lambda ids, V: change(pairs(ids, V))

    mistakes = {
        "a pair that comes often is counted once: `+=` at a list of places writes each place once": lambda ids, V: (
            rows_divided(once(ids, V) + 1)
        ),
        "both faults are still there: columns sum to one, and a pair that comes often is counted once": lambda ids, V: (
            (once(ids, V) + 1) / (once(ids, V) + 1).sum(dim=0)
        ),
        "columns sum to one, rows do not: the sums run over the wrong axis": of(lambda c: (c + 1) / (c + 1).sum(0)),
        "columns are divided, not rows: without `keepdim=True` the sums of the rows line up with the columns": of(
            lambda c: (c + 1) / (c + 1).sum(dim=1)
        ),
        "columns are divided, not rows (`keepdim=True` is missing), and a pair that comes often is counted once": (
            lambda ids, V: (once(ids, V) + 1) / (once(ids, V) + 1).sum(dim=1)
        ),
        "each row is divided by a column's sum": of(lambda c: (c + 1) / (c + 1).sum(dim=0)[:, None]),
        "the whole table sums to one: these are shares of all pairs, not of what comes after one token": of(
            lambda c: (c + 1) / (c + 1).sum()
        ),
        "the table says what came before a token, not what comes after: a row is the token that stands now": of(
            lambda c: rows_divided(c.mT + 1)
        ),
        "one is not added: a pair that was never counted gets probability 0": of(rows_divided),
        "one is not added: a pair that was never counted gets probability 0, and a new row is empty": of(
            lambda c: rows_divided(c).nan_to_num(0)
        ),
        "one is added only where nothing was counted: every pair gets it": of(lambda c: rows_divided(c.clamp(min=1))),
        "one is added, but not to the sums: they must hold the ones too": of(
            lambda c: (c + 1) / c.sum(dim=1, keepdim=True)
        ),
        "the sums hold one more, and a row has V of them": of(lambda c: (c + 1) / (c.sum(dim=1, keepdim=True) + 1)),
        "one is added to the probabilities, not to the counts": of(lambda c: rows_divided(c) + 1),
        "1 / V is added to each pair, and one is asked for": lambda ids, V: rows_divided(pairs(ids, V) + 1 / V),
        "V is added to each pair, and one is asked for": lambda ids, V: rows_divided(pairs(ids, V) + V),
        "two are added to each pair: the table starts with ones, and ones are added once more": of(
            lambda c: rows_divided(c + 2)
        ),
        "these are counts: each row is still to be divided by its sum": of(lambda c: c),
        "these are counts, one added: each row is still to be divided by its sum": of(lambda c: c + 1),
        "each row is divided by its largest count, not by its sum": of(
            lambda c: (c + 1) / (c + 1).max(dim=1, keepdim=True).values
        ),
        "each row is divided by the root of its squares, not by its sum": of(lambda c: F.normalize(c + 1, dim=1)),
        "all rows are divided by the length of the text: each has a sum of its own": lambda ids, V: (
            (pairs(ids, V) + 1) / len(ids)
        ),
        "all rows are divided by the number of pairs: each has a sum of its own": lambda ids, V: (
            (pairs(ids, V) + 1) / (len(ids) - 1)
        ),
        "the sums count the last token of the text too, and nothing follows it": lambda ids, V: (
            (pairs(ids, V) + 1) / (torch.bincount(ids, minlength=V)[:, None] + V)
        ),
        "it is counted whether a pair comes, not how often": lambda ids, V: rows_divided(once(ids, V)),
        "pairs are counted in both directions": of(lambda c: rows_divided(c + c.mT + 1)),
        "every token is equally likely after every other: nothing was counted": lambda ids, V: torch.full(
            (V, V), 1 / V
        ),
        "a softmax of counts: it takes their exponentials, and a share is a count divided by a sum": of(
            lambda c: c.softmax(dim=1)
        ),
        "these are logarithms: probabilities are asked for": of(lambda c: rows_divided(c + 1).log()),
        "every row is the same: how often a token comes, whatever stands before": lambda ids, V: rows_divided(
            torch.bincount(ids, minlength=V)[None].float() + 1
        ).expand(V, V),
        "the last token is followed by the first: the text is no ring": lambda ids, V: rows_divided(
            pairs(torch.cat([ids, ids[:1]]), V) + 1
        ),
        "each token is paired with itself: the second row of tokens starts one place on": lambda ids, V: rows_divided(
            pairs(ids.repeat_interleave(2), V) - pairs(ids, V) + 1
        ),
        "each token is paired with the one two places on": lambda ids, V: rows_divided(
            pairs(ids[::2], V) + pairs(ids[1::2], V) + 1
        ),
        "every second pair is left out: pairs overlap": lambda ids, V: rows_divided(
            pairs(ids, V) - pairs_from(1, ids, V) + 1
        ),
        "the last pair is left out": lambda ids, V: rows_divided(pairs(ids[:-1], V) + 1),
        "the first pair is left out": lambda ids, V: rows_divided(pairs(ids[1:], V) + 1),
    }

    def other_amount(table, ids, V):
        for amount in (0.001, 0.01, 0.1, 0.5, 3, 10):
            if same(table, rows_divided(pairs(ids, V) + amount)):
                return f"{amount} is added to each pair, and one is asked for"
        return (
            sums(table) or "the rows sum to 1, and hold other shares: each pair counts as often as it comes, plus one"
        )

    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.tensor([0, 1, 0, 1, 0, 1, 1, 1]), 2),
        (torch.tensor([0, 1, 1, 0, 1, 1, 0, 1, 0]), 3),
        (torch.randint(4, (40,), generator=generator), 5),
        (torch.tensor([2, 0]), 3),
    ]
    examine(answer, cases, right, mistakes, clues=[other_amount])
    return "every pair counts as often as it comes, one is added to each, and every row sums to 1."


def pairs_from(first: int, ids: Tensor, V: int) -> Tensor:
    """The counts of every second pair, from the one with this number on."""
    return F.one_hot(ids[:-1][first::2], V).float().mT @ F.one_hot(ids[1:][first::2], V).float()


# --- the loss -----------------------------------------------------------------------------------------------------


def mean_surprise(logits, targets):
    return F.cross_entropy(logits, targets)


def of_target(values: Tensor, targets: Tensor) -> Tensor:
    return values[torch.arange(len(targets)), targets]


@exercise
def steady_loss(answer):
    """A function logits (N, V), targets (N,) -> the mean surprise, a tensor of one number, for logits of any size."""

    def surprise(logits, targets):
        return -of_target(logits.log_softmax(dim=1), targets)

    def p(logits, targets):
        return of_target(logits.softmax(dim=1), targets)

    mistakes = {
        "it is in bits: in nats the logarithm is the natural one": lambda *i: surprise(*i).mean() / math.log(2),
        "the logarithm to the base 10: in nats it is the natural one": lambda *i: surprise(*i).mean() / math.log(10),
        "the sign: a logarithm of a probability is negative, its surprise is not": lambda *i: -surprise(*i).mean(),
        "the surprises are added up, and their mean is asked for": lambda *i: surprise(*i).sum(),
        "it is one number for each prediction: the loss is their mean": surprise,
        "it is divided by V as well: the mean runs over the predictions": lambda logits, targets: (
            surprise(logits, targets).mean() / logits.shape[1]
        ),
        "the mean probability of what came, without a logarithm": lambda *i: p(*i).mean(),
        "the mean probability of what came, with a minus sign, without a logarithm": lambda *i: -p(*i).mean(),
        "one minus the mean probability: surprise is a logarithm": lambda *i: 1 - p(*i).mean(),
        "the mean is taken before the logarithm: each prediction has a surprise of its own": lambda *i: (
            -p(*i).mean().log()
        ),
        "softmax over the wrong axis: it runs over the predictions, not over the vocabulary": lambda logits, targets: (
            -of_target(logits.log_softmax(dim=0), targets).mean()
        ),
        "softmax over everything at once: each prediction has a distribution of its own": lambda logits, targets: (
            -of_target(logits.flatten().log_softmax(0).view(logits.shape), targets).mean()
        ),
        "softmax is taken twice: F.cross_entropy has one inside": lambda logits, targets: F.cross_entropy(
            logits.softmax(dim=1), targets
        ),
        "the softmax is missing: these are logits, and no distribution yet": lambda logits, targets: (
            -of_target(logits, targets).mean()
        ),
        "the exponential is missing: logits divided by their sum are no probabilities": lambda logits, targets: (
            -of_target(logits / logits.sum(dim=1, keepdim=True), targets).log().mean()
        ),
        "the sum of the exponentials is missing: nothing makes the probabilities sum to 1": lambda logits, targets: (
            of_target(logits, targets).mean()
        ),
        "only the sum of the exponentials is there: the logit of what came is missing": lambda logits, targets: (
            logits.logsumexp(dim=1).mean()
        ),
        "the targets are not used: this is the mean surprise of all tokens": lambda logits, targets: (
            -logits.log_softmax(dim=1).mean()
        ),
        "the targets are not used: this is the surprise of the likeliest token": lambda logits, targets: (
            -logits.log_softmax(dim=1).max(dim=1).values.mean()
        ),
        "the targets are not used: this is the entropy, the surprise that the model itself expects": lambda logits, _: (
            -(logits.log_softmax(dim=1) * logits.softmax(dim=1)).sum(dim=1).mean()
        ),
        "the targets are not used: this is the surprise of token 0": lambda logits, targets: (
            -logits.log_softmax(dim=1)[:, 0].mean()
        ),
        "each row is read at every target: `[:, targets]` picks whole columns": lambda logits, t: (
            -logits.log_softmax(dim=1)[:, t].mean()
        ),
        "the targets pick rows, not tokens": lambda logits, targets: -logits.log_softmax(dim=1)[targets].mean(),
        "the sign of the logits is wrong: the larger one is the likelier one": lambda logits, targets: surprise(
            -logits, targets
        ).mean(),
        "a sigmoid in place of the softmax: the tokens must share one unit of probability": lambda logits, targets: (
            -of_target(logits, targets).sigmoid().log().mean()
        ),
        "a yes or no for each token: the tokens must share one unit of probability": lambda logits, targets: (
            F.binary_cross_entropy_with_logits(logits, F.one_hot(targets, logits.shape[1]).float())
        ),
        "the largest logit is subtracted, and the sum of the exponentials is not": lambda logits, targets: (
            logits.max(dim=1).values - of_target(logits, targets)
        ).mean(),
        "only the first prediction is used: the loss is a mean over all": lambda *i: surprise(*i)[0],
        "only the last prediction is used: the loss is a mean over all": lambda *i: surprise(*i)[-1],
        "the largest surprise: the loss is a mean over all": lambda *i: surprise(*i).max(),
        "the median surprise: the loss is a mean": lambda *i: surprise(*i).median(),
        "the targets belong to other rows": lambda logits, targets: surprise(logits, targets.roll(1)).mean(),
        "the targets run backwards": lambda logits, targets: surprise(logits, targets.flip(0)).mean(),
        "squared errors of all probabilities: surprise is a logarithm": lambda logits, targets: F.mse_loss(
            logits.softmax(dim=1), F.one_hot(targets, logits.shape[1]).float()
        ),
        "this is the perplexity: the loss is its logarithm": lambda *i: surprise(*i).mean().exp(),
        "the share of tokens that are guessed right: the loss asks how likely they were": lambda logits, targets: (
            (logits.argmax(dim=1) == targets).float().mean()
        ),
        "the product of the probabilities: a sum of logarithms, and then the mean": lambda *i: p(*i).prod(),
        "squared errors: surprise is a logarithm": lambda *i: (1 - p(*i)).square().mean(),
    }

    def clue(loss, logits, targets):
        if loss.ndim == 0 and loss < 0:
            return "a loss is negative, and no surprise is below 0"
        return f"the mean surprise is another one: each of the {len(targets)} predictions counts once"

    cases = [
        (torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 1])),
        (torch.tensor([[0.5, -1.0, 2.0, 1.0]]), torch.tensor([1])),
        (torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 2, torch.tensor([2, 0, 1, 1, 0])),
    ]
    examine(answer, cases, mean_surprise, mistakes, clues=[clue])
    for inputs in LARGE:
        stays_finite(answer, *inputs)
    keeps_its_gradient(answer, *cases[0])
    return "the mean surprise in nats, also for logits of 1,000 and -1,000, and `backward` goes through it."


LARGE = [
    (torch.tensor([[1000.0, 0.0]]), torch.tensor([0])),
    (torch.tensor([[1000.0, 0.0]]), torch.tensor([1])),
    (torch.tensor([[0.0, 1000.0]]), torch.tensor([1])),
    (torch.tensor([[-1000.0, -1001.0]]), torch.tensor([1])),
    (torch.tensor([[1000.0, 999.0, 0.0], [-900.0, 0.0, 50.0]]), torch.tensor([0, 1])),
]


def stays_finite(answer: Callable, logits: Tensor, targets: Tensor) -> None:
    """Raise Mistake, for large logits, where a probability became 0 or an exponential infinite on the way."""
    loss, right = (
        attempt(lambda f, *i: f(*i), answer, (logits, targets), mean_surprise),
        F.cross_entropy(logits, targets),
    )
    if same(loss, right):
        return
    if loss.isnan():
        why = "large logits give nan: e to the 1000 is too large for a 32-bit number, and inf / inf is no number"
        if logits.max() < 0:
            why = "logits far below 0 give nan: all their exponentials are 0, and 0 / 0 is no number"
    elif loss == -torch.inf:
        why = "all exponentials of a row are 0, and the logarithm of 0 is minus infinity: look at each row alone"
    elif loss.isinf() and right < 1:
        why = "e to the 1000 is too large for a 32-bit number: the sum of the exponentials is infinite"
    elif loss.isinf():
        why = "a probability became 0 before its logarithm was taken, so a surprise of 1,000 became infinite"
    else:
        why = f"the surprise stops at {loss:.4g}: what keeps the logarithm from infinity also hides the loss"
    raise Mistake(f"Not yet: {why}.\n\n{named((logits, targets), mean_surprise)}\n  expected = {right:.4g}")


def keeps_its_gradient(answer: Callable, logits: Tensor, targets: Tensor) -> None:
    """Raise Mistake unless the loss can teach: its gradient is what the model said minus what happened."""
    logits = logits.clone().requires_grad_()
    loss = answer(logits, targets)
    if not loss.requires_grad:
        raise Mistake("Not yet: the value is right, but cut off from the logits: `backward` has nothing to go through.")
    (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
    right = (logits.softmax(dim=1) - F.one_hot(targets, logits.shape[1])) / len(targets)
    if gradient is None or not same(gradient, right):
        raise Mistake(
            "Not yet: the value is right, but a part of it is cut off from the logits: the gradient is wrong."
        )


# --- a curve ------------------------------------------------------------------------------------------------------


@exercise
def jumping_curve(reason, lowest):
    """Why a loss jumps when the steps are long, and how low the loss on `abracadabra` can come at all."""
    reasons = {
        "a": "there are no batches here: every step takes all ten pairs",
        "c": "this is the loss on the very text that it learns from: memory would make it fall",
        "d": "all three runs begin with the same table of zeros, at the same loss",
    }
    choice(reason, "b", reasons)
    row = 0.5 * math.log(2) + 0.5 * math.log(4)
    mistakes = {
        0: "after a three letters may come, and no table can know which: something stays to be surprised at",
        row: "this is the mean over the pairs that begin with a; the other pairs count in the mean too",
        0.4 * row / math.log(2): "this is in bits; in nats the logarithm is the natural one",
        4 * row: "this is the sum of all surprises, and the loss is their mean",
        0.43: "this is about where the quick run has come; it still falls a little, so compute where it leads",
        0.45: "this is about where the quick run has come; it still falls a little, so compute where it leads",
        0.4 * math.log(3): "b, c and d are not equally likely after a: b comes twice",
        math.log(3): "b, c and d are not equally likely after a, and the other pairs count in the mean too",
        math.log(5): "this is where all runs begin",
        4 * row / 11: "eleven letters make ten pairs, and each pair has one surprise",
        row / 5: "the mean runs over the ten pairs, not over the five rows: a row counts as often as it is used",
    }
    number(lowest, 0.4 * row, mistakes, tolerance=0.006)
    return "too long a step leads past the lowest point; that point is what the row of a leaves open, 0.42."


# --- draws --------------------------------------------------------------------------------------------------------


DRAWS = 4000  # for each row: a share is then within 0.04 of its probability, but for one time in a million


def shares_drawn(answer: Callable, table: Tensor, draws: int = DRAWS) -> Tensor:
    """How often each token was drawn after each: (V, V), rows sum to 1. Raises Mistake for what is no token."""
    V = len(table)
    order = torch.randperm(draws * V, generator=torch.Generator().manual_seed(1))
    now = torch.arange(V).repeat(draws)[order]
    given = now.clone()
    drawn = answer(table, given, torch.Generator().manual_seed(0))
    if drawn is None:
        return None
    if not same(given, now):
        raise Mistake("Not yet: it changes `now` in place; work on a copy.")
    if problem := unlike(drawn, now):
        raise Mistake(f"Not yet: for {len(now)} tokens in `now`, {problem}.")
    if drawn.min() < 0 or drawn.max() >= V:
        odd = drawn.min().item() if drawn.min() < 0 else drawn.max().item()
        raise Mistake(
            f"Not yet: token {odd} was drawn, and there are tokens 0 to {V - 1}: mind the ends of the pieces."
        )
    return rows_divided(torch.bincount(now * V + drawn, minlength=V * V).view(V, V).float())


def cut_short(shares, table):
    """A clue for a table of more tokens than the ones before: which of them never come?"""
    never = (shares.sum(dim=0) == 0).nonzero().flatten().tolist()
    found = f"token {never[0]} is never drawn" if never else "other tokens come than the row allows"
    return f"right for 2 to 4 tokens, and of {len(table)} {found}: is there a size that does not come from the table?"


@exercise
def drawn_tokens(answer):
    """A function table (V, V), now (B,), generator -> (B,): what follows each token, drawn from its own row."""

    def right(table):
        return table

    def one_on(table):
        later = table.roll(1, dims=1)
        return torch.cat([torch.zeros(len(table), 1), later[:, 1:-1], later[:, -1:] + later[:, :1]], dim=1)

    def one_back(table):
        return one_on(table.flip(1)).flip(1)

    def uncut(table):  # a random number held against the probabilities themselves: how many lie below it?
        ends = torch.cat(
            [torch.zeros(len(table), 1), table.sort(dim=1).values, torch.ones(len(table), 1)], dim=1
        ).diff()
        return torch.cat([ends[:, :-2], ends[:, -2:].sum(dim=1, keepdim=True)], dim=1)

    mistakes = {
        "the likeliest token is taken each time: a draw gives the others their share": lambda table: (
            F.one_hot(table.argmax(dim=1), len(table)).float()
        ),
        "token 0 is drawn every time: see whether the running sum goes along each row": lambda table: (
            F.one_hot(torch.zeros(len(table), dtype=torch.long), len(table)).float()
        ),
        "the last token is drawn every time: see where each number lies among the ends": lambda table: (
            F.one_hot(torch.full((len(table),), len(table) - 1), len(table)).float()
        ),
        "these are the tokens of `now`: what comes after them is asked for": lambda table: torch.eye(len(table)),
        "every token is equally likely: the row is not used": lambda table: torch.full_like(table, 1 / len(table)),
        "every draw uses row 0: each token of `now` has a row of its own": lambda table: table[:1].expand_as(table),
        "every draw uses the last row: each token of `now` has a row of its own": lambda table: (
            table[-1:].expand_as(table)
        ),
        "the draws use columns: a row of the table belongs to the token that stands now": lambda table: (
            rows_divided(table.mT)
        ),
        "each draw is one token too far: the first piece belongs to token 0": one_on,
        "each draw is one token too low: a number in the second piece means token 1": one_back,
        "the pieces are not laid end to end: where a piece ends is a sum of probabilities": uncut,
        "the pieces are counted from the wrong end: token 0 has the first one": lambda table: table.flip(1),
        "the table holds probabilities, and a softmax flattens them": lambda table: table.softmax(dim=1),
        "every row is the same mixture: each token of `now` has a row of its own": lambda table: (
            table.mean(dim=0).expand_as(table)
        ),
        "the random numbers follow a bell curve: they must be even between 0 and 1": lambda table: (
            torch.special.ndtr(torch.cat([torch.full((len(table), 1), -9.0), table.cumsum(1)[:, :-1],
                                          torch.full((len(table), 1), 9.0)], dim=1)).diff()
        ),
        "the rank is drawn, not the token: in a sorted row, places are no tokens any more": lambda table: (
            table.sort(dim=1, descending=True).values
        ),
        "the rank is drawn, not the token: in a sorted row, places are no tokens any more (smallest first)": (
            lambda table: table.sort(dim=1).values
        ),
        "the rows belong to other tokens: draw b uses the row of `now[b]`": lambda table: table.roll(1, dims=0),
    }  # fmt: skip

    def clue(shares, table):
        if shares.max(dim=1).values.min() > 0.99:
            return "a row gives the same token each time: every draw needs a random number of its own"
        if (shares[table == 0] > 0).any():
            return "a token of probability 0 was drawn"
        if same(shares, shares[:1].expand_as(shares), 0.04):
            return "every draw uses one and the same row: each token of `now` has a row of its own"
        best = table.argmax(dim=1, keepdim=True)
        excess = (shares - table).gather(1, best)
        if (excess > 0.02).all():
            return "likely tokens come too often, and unlikely ones too seldom"
        if (excess < -0.02).all():
            return "likely tokens come too seldom, and unlikely ones too often"
        row = (shares - table).abs().max(dim=1).values.argmax().item()
        return f"the tokens after token {row} do not come as often as row {row} says"

    cases = [
        (torch.tensor([[0.2, 0.8], [0.6, 0.4]]),),
        (torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2], [0.1, 0.0, 0.9]]),),
        (torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.6, 0.0, 0.2, 0.2], [0.3, 0.3, 0.0, 0.4]]),),
    ]
    examine(answer, cases, right, mistakes, clues=[clue], call=shares_drawn, tolerance=0.04)
    certain = torch.eye(20).roll(7, dims=1)  # after each of 20 tokens, one other comes and nothing else
    examine(answer, [(certain,)], right, clues=[cut_short], call=lambda answer, table: shares_drawn(answer, table, 10))

    table, now = cases[1][0], torch.arange(3).repeat(100)
    obeys_generator(lambda generator: answer(table.clone(), now.clone(), generator))
    generator = torch.Generator().manual_seed(3)
    if same(answer(table.clone(), now.clone(), generator), answer(table.clone(), now.clone(), generator)):
        raise Mistake("Not yet: a second draw repeats the first: the generator is seeded anew each time.")
    return "each token comes as often as the row of the one before it says, and the generator decides which."
