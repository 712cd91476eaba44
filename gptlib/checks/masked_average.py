"""Checks of notebook 03: averages of the past."""

import torch

from gptlib.checks.judge import Mistake, examine, exercise, looks_ahead, number, rows_sum_to_one


def triangle(T):
    return torch.ones(T, T).tril()


def average(T):
    return triangle(T) / triangle(T).sum(dim=1, keepdim=True)


@exercise
def share(answer):
    """A number: what position 7 gives to position 2, in an equal average of the past."""
    mistakes = {
        1 / 7: "position 7 has seven positions before it, and itself",
        1 / 3: "that is how position 2 shares; the row belongs to the position that looks",
        1 / 2: "position 7 looks at more than two places",
        0: "position 2 lies in the past of position 7, so it takes part",
        1: "a weight of 1 leaves nothing for the others",
        1 / 9: "positions 0 to 7 are eight places",
        1 / 6: "position 7 looks at all of its past, not from position 2 on",
        8: "that is how many places share; the weight is the share of one of them",
        12.5: "a weight is a share of 1, not of 100",
    }
    number(answer, 1 / 8, mistakes, tolerance=0.002)
    return "position 7 shares equally over positions 0 to 7, an eighth for each."


def only_while_short(weights, T):
    """A clue for T = 20, which comes last: the shorter ones were right."""
    if T < 20:
        return None
    row = (weights - average(T)).abs().amax(dim=1).argmax().item()
    return f"right up to T = 6, and in row {row} of T = 20 wrong: is there a size that does not come from T?"


@exercise
def average_weights(answer):
    """A function T -> weights (T, T) that average the past of each position."""
    examine(
        answer,
        cases=[(1,), (3,), (4,), (6,), (20,)],
        expected=average,
        mistakes={
            "the rows are sums, not averages: divide each by how many positions it holds": triangle,
            "columns are divided, not rows: without `keepdim=True` the sums line up with the columns": lambda T: (
                triangle(T) / triangle(T).sum(dim=1)
            ),
            "columns sum to one, rows do not: the division runs over the wrong axis": lambda T: (
                triangle(T) / triangle(T).sum(dim=0, keepdim=True)
            ),
            "row t is divided by t: it holds t + 1 places, and row 0 is divided by 0": lambda T: (
                triangle(T) / torch.arange(T)[:, None]
            ),
            "a softmax of the triangle: its zeros count too, since e to the 0 is 1": lambda T: triangle(T).softmax(
                dim=1
            ),
            "every row averages over all T positions: the future leaks": lambda T: torch.full((T, T), 1 / T),
            "the upper triangle: each position averages its future": lambda T: (
                triangle(T).mT / triangle(T).mT.sum(dim=1, keepdim=True)
            ),
            "every row is divided by T: only the last has T positions to share among": lambda T: triangle(T) / T,
            "each position is left out of its own average: the diagonal belongs to the past": lambda T: (
                triangle(T).tril(-1) / triangle(T).tril(-1).sum(dim=1, keepdim=True)
            ),
            "each position is left out of its own average, so row 0 has nothing: the diagonal counts": lambda T: (
                triangle(T).tril(-1) / triangle(T).tril(-1).sum(dim=1, keepdim=True).clamp(min=1)
            ),
            "this is the mask, true or false: the weights are numbers that sum to 1": lambda T: triangle(T).mT.triu(1),
        },
        clues=[only_while_short, looks_ahead, rows_sum_to_one],
    )
    return "rows sum to 1, share equally and leave the future out, for T = 1, 3, 4, 6 and 20."


def masked_softmax(scores):
    T = scores.shape[-1]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


@exercise
def repaired_weights(answer):
    """A function scores (..., T, T) -> weights (..., T, T): the masked softmax."""

    def late(scores):
        return scores.softmax(dim=-1).tril()

    def future_of(scores):
        return torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)

    examine(
        answer,
        cases=[
            (torch.tensor([[0.0, 1.0], [1.0, 0.0]]),),
            (torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [-1.0, 2.0, 0.5]]),),
            (torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)),),
            (torch.randn(20, 20, generator=torch.Generator().manual_seed(1)),),
        ],
        expected=masked_softmax,
        mistakes={
            "the mask is added after the softmax: the future has already been counted in the sum": late,
            "the future is set to 0 before the softmax, and e to the 0 is 1: it still takes part": lambda scores: (
                scores.masked_fill(future_of(scores), 0).softmax(dim=-1)
            ),
            "softmax over the positions that look (the queries): columns sum to one, rows do not": lambda scores: (
                scores.masked_fill(future_of(scores), -torch.inf).softmax(dim=-2)
            ),
            "right for one matrix, not for a batch: there `dim=1` runs over the positions that look": lambda scores: (
                scores.masked_fill(future_of(scores), -torch.inf).softmax(dim=1)
            ),
            "softmax along the first axis: that is a column of a matrix, and the batch where there is one": lambda s: (
                s.masked_fill(future_of(s), -torch.inf).softmax(dim=0)
            ),
            "the late mask, and the wrong axis: softmax over the positions that look, and then the cut": lambda s: (
                s.softmax(dim=-2).tril()
            ),
            "the past is masked and the future kept: the triangle is the other one": lambda scores: scores.masked_fill(
                future_of(scores).mT, -torch.inf
            ).softmax(dim=-1),
            "each position is masked from itself: the diagonal belongs to the past": lambda scores: scores.masked_fill(
                future_of(scores) | torch.eye(scores.shape[-1]).bool(), -torch.inf
            ).softmax(dim=-1),
            "the mask is one step too late: each position sees one step ahead": lambda scores: scores.masked_fill(
                future_of(scores).triu(2), -torch.inf
            ).softmax(dim=-1),
            "nothing is masked: the future takes part": lambda scores: scores.softmax(dim=-1),
            "the softmax is missing: these are masked scores": lambda scores: scores.masked_fill(
                future_of(scores), -torch.inf
            ),
            "the rows are cut and then divided by their sum, without the exponential": lambda scores: (
                scores.tril() / scores.tril().sum(dim=-1, keepdim=True)
            ),
        },
        clues=[looks_ahead, rows_sum_to_one],
    )
    return "the mask goes in before the softmax, and every row sums to 1, for batches too."


@exercise
def fading_average(answer):
    """A function x (T, C), keep -> (T, C): averages of the past in which each step back counts `keep` times as much."""

    def weights(T, keep):
        steps = torch.arange(T)[:, None] - torch.arange(T)
        return torch.where(steps >= 0, keep ** steps.clamp(min=0), 0.0)

    def fading(x, keep):
        w = weights(len(x), keep)
        return w / w.sum(dim=1, keepdim=True) @ x

    def scores_times(x, keep):
        steps = torch.arange(len(x))[:, None] - torch.arange(len(x))
        return masked_softmax(-keep * steps.float()) @ x

    def from_the_start(x, keep):
        w = triangle(len(x)) * keep ** torch.arange(len(x))
        return w / w.sum(dim=1, keepdim=True) @ x

    def steps_of_one(x, keep):
        w = weights(len(x), keep).tril(-1) * 1 / keep + torch.eye(len(x))
        return w / w.sum(dim=1, keepdim=True) @ x

    def steps_back(x):
        return torch.arange(len(x))[:, None] - torch.arange(len(x))

    def unmasked(x, keep):
        w = keep ** steps_back(x)
        return w / w.sum(dim=1, keepdim=True) @ x

    def future_at_one(x, keep):
        w = keep ** steps_back(x).clamp(min=0)
        return w / w.sum(dim=1, keepdim=True) @ x

    def cut_late(power):
        return lambda x, keep: (power(x, keep) / power(x, keep).sum(dim=1, keepdim=True)).tril() @ x

    def lost_each_step(x, keep):
        rows = [x[0]]
        for row in x[1:]:
            rows.append(keep * rows[-1] + (1 - keep) * row)
        return torch.stack(rows)

    def times(x, keep):
        w = (keep * steps_back(x)).tril()
        return w / w.sum(dim=1, keepdim=True) @ x

    def ahead(x, keep):
        w = weights(len(x), keep).mT
        return w / w.sum(dim=1, keepdim=True) @ x

    x = torch.tensor([[8.0, 0.0], [0.0, 4.0], [4.0, 4.0], [2.0, 0.0]])
    examine(
        answer,
        cases=[(x[:2], 0.5), (x[:3], 0.5), (x, 0.5), (x, 0.8), (x[:1], 0.5), (x.repeat(5, 1), 0.9)],
        expected=fading,
        mistakes={
            "the weights are not divided by their sum: a row must sum to 1": lambda x, keep: weights(len(x), keep) @ x,
            "every step back counts the same: `keep` is not used": lambda x, keep: average(len(x)) @ x,
            "the weights fade from the first position on, and they must fade from the position that looks": (
                from_the_start
            ),
            "the weights fade by e to the -keep at each step, not by `keep`: the score of a step back is ln(keep)": (
                scores_times
            ),
            "one step back counts as much as no step: the power is one too low": steps_of_one,
            "each position averages its future: the triangle is the other one": ahead,
            "all rows are the same, since the future takes part in each: a step ahead must weigh 0": unmasked,
            "the future takes part, as much as the present: cut it out before you divide": future_at_one,
            "the future is cut out after the division: it has already been counted in the sum": cut_late(
                lambda x, keep: keep ** steps_back(x).clamp(min=0)
            ),
            "the future is cut out after the division, and it has been counted in the sum": cut_late(
                lambda x, keep: keep ** steps_back(x)
            ),
            "columns are divided, not rows: without `keepdim=True` the sums line up with the columns": lambda x, keep: (
                weights(len(x), keep) / weights(len(x), keep).sum(dim=1) @ x
            ),
            "each row is divided by its number of places, not by the sum of its weights": lambda x, keep: (
                weights(len(x), keep) / torch.arange(1, len(x) + 1)[:, None] @ x
            ),
            "row 0 counts more than its steps back allow: no position gets `1 - keep`, divide by the sum instead": (
                lost_each_step
            ),
            "divided by the endless sum 1 / (1 - keep), and a row has an end: divide by the sum of the row": (
                lambda x, keep: (1 - keep) * weights(len(x), keep) @ x
            ),
            "x comes back as it went in: nothing is averaged": lambda x, keep: x,
            "`keep` times the steps back, and `keep` to the power of the steps is asked for": times,
            "a softmax of the weights: it takes their exponentials, and a share is a weight divided by the sum": (
                lambda x, keep: weights(len(x), keep).masked_fill(steps_back(x) < 0, -torch.inf).softmax(dim=1) @ x
            ),
            "it returns weights, not averages: multiply them with x": lambda x, keep: (
                weights(len(x), keep) / weights(len(x), keep).sum(dim=1, keepdim=True)
            ),
        },
    )
    if not torch.allclose(answer(x.clone(), 1.0), average(4) @ x, atol=1e-4):
        raise Mistake("Not yet: with keep = 1 nothing fades, and it must be the equal average of the notebook.")
    return "each step back counts `keep` times as much, rows sum to 1, and keep = 1 is the equal average."
