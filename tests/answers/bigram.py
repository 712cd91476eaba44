"""Answers to the exercises of notebook 02."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from answers import Several

# ---------------------------------------------------------------- right, in other styles


def counted_by_bincount(ids, V):
    counts = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V) + 1
    return counts / counts.sum(dim=1, keepdim=True)


def counted_by_loop(ids, V):
    counts = torch.ones(V, V)
    for now, then in zip(ids.tolist(), ids.tolist()[1:]):
        counts[now, then] += 1
    return counts.mT.contiguous().mT / counts.sum(1)[:, None]


def counted_by_einsum(ids, V):
    now, then = F.one_hot(ids[:-1], V).float(), F.one_hot(ids[1:], V).float()
    counts = torch.einsum("ni,nj->ij", now, then) + 1
    return F.normalize(counts, p=1, dim=1)


def steady_by_hand(logits, targets):
    logits = logits - logits.max(dim=1, keepdim=True).values
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -log_p.gather(1, targets[:, None]).mean()


def steady_by_loop(logits, targets):
    total = 0
    for row, target in zip(logits, targets):
        total = total + torch.logsumexp(row, dim=0) - row[target]
    return total / len(targets)


def by_multinomial(table, now, generator):
    return torch.multinomial(table[now], 1, generator=generator).squeeze(1)


def by_search(table, now, generator):
    r = torch.rand(len(now), 1, generator=generator)
    return torch.searchsorted(table[now].cumsum(1), r, right=True).squeeze(1).clamp(max=len(table) - 1)


def one_by_one(table, now, generator):
    drawn = []
    for r, row in zip(torch.rand(len(now), generator=generator).tolist(), table[now].tolist()):
        token = 0
        while r >= row[token] and token < len(row) - 1:
            r -= row[token]
            token += 1
        drawn.append(token)
    return torch.tensor(drawn)


def by_race(table, now, generator):
    return (table[now] / -torch.rand(len(now), len(table), generator=generator).log()).argmax(dim=1)


FLOOR = 0.4 * (0.5 * math.log(2) + 0.5 * math.log(4))

RIGHT = {
    "two_losses": [Several([3.91, 1.61]), Several([torch.tensor(50.0).log(), np.log(5)])],
    "counted_table": [counted_by_bincount, counted_by_loop, counted_by_einsum],
    "steady_loss": [steady_by_hand, steady_by_loop, F.cross_entropy],
    "jumping_curve": [Several(["B", FLOOR]), Several([" (b) ", torch.tensor(0.416)])],
    "drawn_tokens": [by_multinomial, by_search, one_by_one, by_race],
}

# ---------------------------------------------------------------- wrong


def pairs_of(ids, V):
    return torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V)


def table_from(change):
    return lambda ids, V: change(pairs_of(ids, V))


def counted_once(ids, V):
    counts = torch.ones(V, V)
    counts[ids[:-1], ids[1:]] += 1
    return counts / counts.sum(dim=1, keepdim=True)


def once_and_columns(ids, V):
    counts = torch.ones(V, V)
    counts[ids[:-1], ids[1:]] += 1
    return counts / counts.sum(dim=1)


def still_broken(ids, V):
    counts = torch.ones(V, V)
    counts[ids[:-1], ids[1:]] += 1
    return counts / counts.sum(dim=0)


def too_short(ids, V):
    counts = torch.bincount(ids[:-1] * V + ids[1:]).view(V, V) + 1
    return counts / counts.sum(1, keepdim=True)


def counts_in_place(ids, V):
    ids[-1] = ids[0]
    return counted_by_loop(ids, V)


def picked(values, targets):
    return values.gather(1, targets[:, None]).squeeze(1)


def late_logarithm(logits, targets):
    return -picked(logits.softmax(dim=1), targets).log().mean()


def own_exponential(logits, targets):
    raised = logits.exp()
    return -picked(raised / raised.sum(dim=1, keepdim=True), targets).log().mean()


def with_a_crumb(logits, targets):
    return -(picked(logits.softmax(dim=1), targets) + 1e-9).log().mean()


def overflowing(logits, targets):
    return -(logits - logits.exp().sum(dim=1, keepdim=True).log()).gather(1, targets[:, None]).mean()


def smallest_subtracted(logits, targets):
    return overflowing(logits - logits.min(dim=1, keepdim=True).values, targets)


def largest_of_all(logits, targets):
    logits = logits - logits.max()
    return -(logits - logits.exp().sum(dim=1, keepdim=True).log()).gather(1, targets[:, None]).mean()


def cut_off(logits, targets):
    return torch.tensor(F.cross_entropy(logits, targets).item())


def half_cut_off(logits, targets):
    return (logits.logsumexp(dim=1).detach() - picked(logits, targets)).mean()


def shifted_in_place(logits, targets):
    logits -= logits.max(dim=1, keepdim=True).values
    return F.cross_entropy(logits, targets)


def pieces(change):
    """A draw in which `change(edges, r, table)` makes the tokens, from the ends of the pieces and random numbers."""

    def answer(table, now, generator):
        r = torch.rand(len(now), 1, generator=generator)
        return change(table[now].cumsum(dim=1), r, table)

    return answer


def shared_number(table, now, generator):
    return (torch.rand(1, generator=generator) >= table[now].cumsum(dim=1)[:, :-1]).sum(dim=1)


def bell(table, now, generator):
    return (torch.randn(len(now), 1, generator=generator) >= table[now].cumsum(dim=1)[:, :-1]).sum(dim=1)


def by_rank(descending):
    return lambda table, *others: by_search(table.sort(dim=1, descending=descending).values, *others)


def own_seed(table, now, generator):
    return by_multinomial(table, now, torch.Generator().manual_seed(0))


def seeded_anew(table, now, generator):
    return by_multinomial(table, now, generator.manual_seed(generator.initial_seed()))


def changes_now(table, now, generator):
    drawn = by_multinomial(table, now, generator)
    now[:] = drawn
    return drawn


WRONG = {
    "two_losses": [
        (Several([math.log2(50), math.log(5)]), "in bits"),
        (Several([math.log10(50), math.log(5)]), "to the base 10"),
        (Several([1 / 50, math.log(5)]), "the probability of each token"),
        (Several([50, math.log(5)]), "the perplexity"),
        (Several([-3.912, math.log(5)]), "not negative"),
        (Several([4.17, math.log(5)]), "65 tokens"),
        (Several([6, math.log(5)]), "too high"),
        (Several([3.89, math.log(5)]), "one of the 50 choices too"),
        (Several(["ln 50", math.log(5)]), "a number is expected"),
        (Several([3.91, 5]), "the perplexity"),
        (Several([3.91, 0.39]), "a tenth of the choices"),
        (Several([3.91, 2.3]), "what training has gained"),
        (Several([3.91, math.log2(5)]), "in bits"),
        (Several([3.91, math.log(45)]), "45 is what it has ruled out"),
        (Several([3.91, torch.ones(2)]), "a number is expected"),
    ],
    "counted_table": [
        (counted_once, "is counted once: `+=`"),
        (still_broken, "both faults"),
        (once_and_columns, "`keepdim=True` is missing"),
        (table_from(lambda c: (c + 1) / (c + 1).sum(dim=0)), "columns sum to one"),
        (table_from(lambda c: (c + 1) / (c + 1).sum(dim=1)), "without `keepdim=True`"),
        (table_from(lambda c: (c + 1) / (c + 1).sum()), "shares of all pairs"),
        (table_from(lambda c: (c.T + 1) / (c.T + 1).sum(1, keepdim=True)), "what came before"),
        (lambda ids, V: counted_by_loop(ids, V).T, "columns sum to one, rows do not|transposed"),
        (table_from(lambda c: c / c.sum(1, keepdim=True)), "one is not added"),
        (table_from(lambda c: (c / c.sum(1, keepdim=True)).nan_to_num()), "one is not added"),
        (table_from(lambda c: c / c.sum(1, keepdim=True) + 1), "added to the probabilities"),
        (table_from(lambda c: (c + 1) / c.sum(1, keepdim=True)), "not to the sums"),
        (table_from(lambda c: c + 1.0), "these are counts"),
        (table_from(lambda c: (c + 1.0).softmax(1)), "a softmax of counts"),
        (lambda ids, V: counted_by_loop(torch.cat([ids, ids[:1]]), V), "the text is no ring"),
        (lambda ids, V: counted_by_loop(ids[:-1], V), "the last pair is left out"),
        (lambda ids, V: counted_by_loop(ids.flip(0), V), "what came before"),
        (table_from(lambda c: (c + 0.5) / (c + 0.5).sum(1, keepdim=True)), "0.5 is added"),
        (table_from(lambda c: (c + 0.1) / (c + 0.1).sum(1, keepdim=True)), "0.1 is added"),
        (lambda ids, V: counted_by_loop(ids, V).log(), "logarithms"),
        (table_from(lambda c: (c + len(c)) / (c + len(c)).sum(1, keepdim=True)), "V is added"),
        (lambda ids, V: counted_by_loop(ids, V) ** 2, "sums to"),
        (lambda ids, V: counted_by_loop(ids, V).flip(1), "the rows sum to 1, and hold other shares"),
        (lambda ids, V: counted_by_loop(ids, V)[:, :-1], "shape is (2, 1)"),
        (lambda ids, V: counted_by_loop(ids, V).flatten(), "shape is (4,)"),
        (lambda ids, V: counted_by_loop(ids, V).tolist(), "returns a list"),
        (lambda ids, V: counted_by_loop(ids, V).double(), "float64"),
        (lambda ids, V: counted_by_loop(ids, V).to("meta"), "device meta"),
        (lambda ids, V: counted_by_loop(ids, 2), "IndexError"),
        (lambda ids, V: print(end=""), "returns nothing"),
        (too_short, "RuntimeError"),
        (counts_in_place, "changes its input"),
        (counted_by_loop(torch.tensor([0, 1]), 2), "not a function"),
    ],
    "steady_loss": [
        (lambda logits, targets: steady_by_hand(logits, targets) / math.log(2), "in bits"),
        (lambda logits, targets: -steady_by_hand(logits, targets), "the sign"),
        (lambda logits, targets: F.cross_entropy(logits, targets, reduction="sum"), "added up"),
        (lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"), "one number for each prediction"),
        (lambda logits, targets: picked(logits.softmax(1), targets).mean(), "without a logarithm"),
        (lambda logits, targets: -picked(logits.softmax(1), targets).mean(), "with a minus sign, without"),
        (lambda logits, targets: -picked(logits.softmax(1), targets).mean().log(), "before the logarithm"),
        (lambda logits, targets: -picked(logits.log_softmax(0), targets).mean(), "softmax over the wrong axis"),
        (lambda logits, targets: F.cross_entropy(logits.softmax(1), targets), "softmax is taken twice"),
        (lambda logits, targets: F.nll_loss(logits, targets), "the softmax is missing"),
        (lambda logits, targets: -logits.log_softmax(1).mean(), "the targets are not used"),
        (lambda logits, targets: -logits.log_softmax(1).max(1).values.mean(), "the likeliest token"),
        (lambda logits, targets: -logits.log_softmax(1)[:, targets].mean(), "read at every target"),
        (lambda logits, targets: F.cross_entropy(logits, targets).exp(), "perplexity"),
        (lambda logits, targets: F.cross_entropy(-logits, targets), "the sign of the logits"),
        (lambda logits, targets: -picked(logits, targets).sigmoid().log().mean(), "a sigmoid"),
        (lambda logits, targets: F.cross_entropy(logits, targets).round(), "each of the 2 predictions counts once"),
        (late_logarithm, "a probability became 0 before"),
        (own_exponential, "give nan"),
        (with_a_crumb, "the surprise stops at"),
        (largest_of_all, "all exponentials of a row are 0"),
        (overflowing, "the sum of the exponentials is infinite"),
        (smallest_subtracted, "the sum of the exponentials is infinite"),
        (cut_off, "cut off from the logits"),
        (half_cut_off, "the gradient is wrong"),
        (shifted_in_place, "changes its input"),
        (lambda logits, targets: F.cross_entropy(logits, targets).item(), "returns a float"),
        (lambda logits, targets: F.cross_entropy(logits, targets)[None], "shape is (1,)"),
        (lambda logits, targets: F.cross_entropy(logits, targets).double(), "float64"),
        (lambda logits, targets: F.cross_entropy(logits, targets[:, None]), "RuntimeError"),
        (lambda logits, targets: print(end=""), "returns nothing"),
    ],
    "jumping_curve": [
        (Several(["a", FLOOR]), "no batches"),
        (Several(["c", FLOOR]), "memory would make it fall"),
        (Several(["d", FLOOR]), "the same table of zeros"),
        (Several(["e", FLOOR]), "choose one of"),
        (Several([2, FLOOR]), "choose one of"),
        (Several(["b", 0]), "something stays"),
        (Several(["b", FLOOR / 0.4]), "the other pairs count"),
        (Several(["b", FLOOR / math.log(2)]), "in bits"),
        (Several(["b", 0.43]), "compute where it leads"),
        (Several(["b", 1.61]), "where all runs begin"),
        (Several(["b", 4.16]), "the sum of all surprises"),
        (Several(["b", FLOOR * 10 / 11]), "eleven letters make ten pairs"),
        (Several(["b", 0.9]), "too high"),
        (Several(["b", "0.416"]), "a number is expected"),
    ],
    "drawn_tokens": [
        (lambda table, now, generator: table[now].argmax(dim=1), "the likeliest token"),
        (lambda table, now, generator: torch.randint(len(table), now.shape, generator=generator), "equally likely"),
        (lambda table, now, generator: by_multinomial(table, now * 0, generator), "uses row 0"),
        (lambda table, now, generator: by_multinomial(table.T, now, generator), "use columns"),
        (lambda table, now, generator: by_multinomial(table.softmax(1), now, generator), "a softmax flattens"),
        (pieces(lambda edges, r, table: ((r >= edges).sum(1) + 1).clamp(max=len(table) - 1)), "one token too far"),
        (pieces(lambda edges, r, table: ((r >= edges).sum(1) - 1).clamp(min=0)), "one token too low"),
        (pieces(lambda edges, r, table: (r >= edges).sum(1) + 1), "mind the ends"),
        (pieces(lambda edges, r, table: (r >= edges).sum(1) - 1), "token -1 was drawn"),
        (pieces(lambda edges, r, table: (r < edges).sum(1) - 1), "from the wrong end"),
        (pieces(lambda edges, r, table: (r < edges).int().argmin(1)), "token 0 is drawn every time"),
        (pieces(lambda edges, r, table: (r >= edges.diff(dim=1)).sum(1)), "come too seldom"),
        (pieces(lambda edges, r, table: (r >= edges.cumsum(0)[:, :-1]).sum(1)), "along each row"),
        (lambda table, now, generator: now.clone(), "tokens of `now`"),
        (lambda table, now, generator: by_multinomial(table**2, now, generator), "too often"),
        (shared_number, "a random number of its own"),
        (bell, "a bell curve"),
        (lambda table, now, generator: by_multinomial(table, now, None), "the generator is ignored"),
        (by_rank(descending=True), "the rank is drawn, not the token"),
        (by_rank(descending=False), "the rank is drawn, not the token"),
        (lambda *inputs: by_multinomial(*inputs).clamp(max=7), "of 20 token 8 is never drawn"),
        (own_seed, "the generator is ignored"),
        (seeded_anew, "seeded anew each time"),
        (changes_now, "in place"),
        (lambda *inputs: by_multinomial(*inputs)[:, None], "the shape is (8000, 1)"),
        (lambda *inputs: by_multinomial(*inputs).float(), "float32"),
        (lambda *inputs: by_multinomial(*inputs).tolist(), "returns a list"),
        (lambda *inputs: by_multinomial(*inputs).to("meta"), "meta"),
        (lambda *inputs: print(end=""), "returns nothing"),
        (lambda table, now: now, "TypeError"),
    ],
}
