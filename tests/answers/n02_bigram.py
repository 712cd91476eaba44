"""Answers to the exercises of notebook 02."""

import math
from collections import Counter

import numpy as np
import torch
from torch.nn import functional as F

from answers import Several

LOWEST = 0.4 * (0.5 * math.log(2) + 0.5 * math.log(4))


def by_loop(ids, V):
    counts = torch.ones(V, V)
    for now, then in zip(ids.tolist(), ids.tolist()[1:]):
        counts[now, then] += 1
    return counts / counts.sum(1)[:, None]


def by_numpy(ids, V):
    counts = np.ones((V, V))
    np.add.at(counts, (ids[:-1].numpy(), ids[1:].numpy()), 1)
    return torch.from_numpy(counts / counts.sum(axis=1, keepdims=True))  # float64


def by_einsum(ids, V):
    counts = torch.einsum("ni,nj->ij", F.one_hot(ids[:-1], V).float(), F.one_hot(ids[1:], V).float())
    return F.normalize(counts + 1, p=1, dim=1)


def broken_table(ids, V):
    counts = torch.ones(V, V)
    counts[ids[:-1], ids[1:]] += 1
    return counts / counts.sum(dim=0)


def row_by_row(logits, targets):
    differences = [row - row[target] for row, target in zip(logits, targets)]
    return sum(d.max() + (d - d.max()).exp().sum().log() for d in differences) / len(targets)


def by_difference(logits, targets):
    distance = logits - logits[torch.arange(len(targets)), targets][:, None]
    largest = distance.amax(dim=1, keepdim=True)
    return (largest[:, 0] + (distance - largest).exp().sum(dim=1).log()).mean()


def by_search(table, now, generator):
    r = torch.rand(len(now), 1, generator=generator)
    return torch.searchsorted(table[now].cumsum(1), r, right=True).squeeze(1).clamp(max=len(table) - 1)


def one_by_one(table, now, generator):
    sampled = []
    for r, row in zip(torch.rand(len(now), generator=generator).tolist(), table[now].tolist()):
        token = 0
        while token < len(row) - 1 and r >= row[token]:
            r, token = r - row[token], token + 1
        sampled.append(token)
    return sampled


def by_race(table, now, generator):
    return (table[now] / -torch.rand(len(now), len(table), generator=generator).log()).argmax(dim=1)


def by_dictionary(train, val, test, V, amounts):
    counts = Counter(zip(*(train.tolist()[i:] for i in range(3))))
    rows = Counter(zip(train.tolist(), train.tolist()[1:-1]))

    def loss(ids, a):
        grams = list(zip(*(ids.tolist()[i:] for i in range(3))))
        return -sum(math.log((counts[gram] + a) / (rows[gram[:2]] + a * V)) for gram in grams) / len(grams)

    losses = [loss(val, a) for a in amounts]
    chosen = amounts[losses.index(min(losses))]
    return [chosen, loss(test, chosen)]


def by_float64(train, val, test, V, amounts):
    counts = torch.zeros(V, V, V, dtype=torch.float64)
    counts.index_put_((train[:-2], train[1:-1], train[2:]), torch.ones(len(train) - 2).double(), accumulate=True)
    logits = {a: (counts + a).log() for a in amounts}
    losses = {a: [F.cross_entropy(logits[a][ids[:-2], ids[1:-1]], ids[2:]) for ids in (val, test)] for a in amounts}
    chosen = min(amounts, key=lambda a: losses[a][0])
    return chosen, losses[chosen][1]


RIGHT = {
    "two_losses": [Several([3.91, 1.61]), Several([torch.tensor(50.0).log(), np.log(5)])],
    "counted_table": [by_loop, by_numpy, by_einsum],
    "steady_loss": [row_by_row, by_difference],
    "jumping_curve": [Several([[50, 20, 30], LOWEST]), Several([{20.0, 30.0, 50.0}, torch.tensor(0.42)])],
    "choose_amount": [Several([by_dictionary, 0.1]), Several([by_float64, torch.tensor(0.1)])],
    "sampled_tokens": [by_search, one_by_one, by_race],
}
WRONG = {
    "two_losses": {
        "fresh: 3.89: the token that follows": Several([3.89, 1.61]),
        "4.5 is too high": Several([4.5, 1.61]),
    },
    "counted_table": {
        "two mistakes: a pair that occurs often": broken_table,
        "0.5 is added to each pair": {"+ 1\n": "+ 0.5\n"},
        "a row sums to 6.00": {"counts / counts.sum(dim=1, keepdim=True)": "counts"},
        "a row sums to 0.50": lambda ids, V: by_loop(ids, V) ** 2,
    },
    "steady_loss": {
        "the loss stops at 20.72": lambda x, y: -(x.softmax(1)[torch.arange(len(y)), y] + 1e-9).log().mean(),
        "cut off from the logits": lambda *given: row_by_row(*given).detach(),
        "but its gradient is not": {"keepdim=True).log()": "keepdim=True).log().detach()"},
        "`F.cross_entropy` is called": F.cross_entropy,
        "`torch.log_softmax` is called": lambda x, y: -x.log_softmax(1)[torch.arange(len(y)), y].mean(),
    },
    "jumping_curve": {
        "with rate 10 the loss falls in every step": Several([{10, 20, 30, 50}, LOWEST]),
        "with rate 20 the loss rises in some step": Several([[30, 50], LOWEST]),
        "is still falling": Several([{20, 30, 50}, 0.43]),
    },
    "choose_amount": {
        "only the training loss is lowest there": Several([by_dictionary, 0.01]),
        "lower with a smaller amount": Several([by_dictionary, 1]),
    },
    "sampled_tokens": {
        "is sampled, and there are only the tokens": {".sum(dim=1)": ".sum(dim=1) - 1"},
        "it changes `now` in place": {"return (r": "now[:] = 0\n    return (r"},
        "the shape is (12000, 1)": lambda *given: by_race(*given)[:, None],
        "it returns float32": lambda *given: by_race(*given).float(),
        "is sampled too often": lambda table, *given: by_race(table**2, *given),
        "is sampled too seldom": lambda table, *given: by_race(table**0.5, *given),
        "two calls with the same seed differ": lambda table, now, _: by_race(table, now, None),
        "two sizes differ": {"len(now), 1,": "len(now),"},
        "`torch.multinomial` is called": lambda table, now, g: torch.multinomial(table[now], 1, generator=g)[:, 0],
    },
}
