"""Answers to the exercises of notebook 07."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import Several


def by_hand(model, optimizer, x, y):
    """The loss and the clip written out."""
    for parameter in model.parameters():
        parameter.grad = None
    loss = -model(x).softmax(-1).gather(-1, y[..., None]).log().mean()
    loss.backward()
    norm = torch.sqrt(sum(parameter.grad.square().sum() for parameter in model.parameters()))
    for parameter in model.parameters():
        parameter.grad /= max(norm, 1)
    optimizer.step()
    return loss.item()


def transposed(model, optimizer, x, y):
    model.zero_grad()
    loss = F.cross_entropy(model(x).mT, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    return loss.detach().numpy().item()


def looped_search(maps):
    best, found = -1.0, None
    for layer in range(maps.shape[0]):
        for head in range(maps.shape[1]):
            weights = [maps[layer, head, t, t - 1].item() for t in range(1, maps.shape[-1])]
            if sum(weights) > best:
                best, found = sum(weights), (layer, head)
    return found


def summed_search(maps):
    share = torch.einsum("lhts,ts->lh", maps, torch.ones(maps.shape[-2:]).tril(-1).triu(-1))
    return list((share == share.max()).nonzero()[0])


@torch.no_grad()
def batched_loss(model, ids, T):
    was_training, whole, total = model.training, (len(ids) - 1) // T * T, 0.0
    model.eval()
    if whole:
        logits = model(ids[:whole].view(-1, T))
        total += F.cross_entropy(logits.flatten(0, 1), ids[1 : whole + 1], reduction="sum").item()
    if whole < len(ids) - 1:
        total += F.cross_entropy(model(ids[None, whole:-1])[0], ids[whole + 1 :], reduction="sum").item()
    model.train(was_training)
    return total / (len(ids) - 1)


def looped_loss(model, ids, T, recorded=False):
    before, total = model.training, 0.0
    model.eval()
    with torch.set_grad_enabled(recorded):
        for x, y in zip(ids[:-1].split(T), ids[1:].split(T)):
            total -= sum(math.log(row[target]) for row, target in zip(model(x[None])[0].detach().softmax(-1), y))
    model.train(before)
    return total / (len(ids) - 1)


def counted_steps(batch_size):
    return len(range(0, 4800, batch_size))


RIGHT = {
    "parameter_count": [3270.0, torch.tensor(3270), np.int64(3270)],
    "confident_loss": [4.61, 0.4 * -math.log(0.97) - 0.6 * math.log(0.03 / 64)],
    "steps_for": [Several([counted_steps, 4]), Several([lambda batch_size: 4800 / batch_size, 4.0])],
    "training_step": [by_hand, transposed],
    "previous_head": [looped_search, summed_search, lambda maps: np.array(looped_search(maps)).tolist()],
    "whole_loss": [batched_loss, looped_loss],
}
WRONG = {
    "parameter_count": {"100 is about 30 times too small": 100},
    "confident_loss": {"too": 5.5},
    "steps_for": {
        "best: 16: train with 4 too": Several([counted_steps, 16]),
        "best: 64: with 75 steps": Several([counted_steps, 64]),
        "returns the same in each": Several([lambda batch_size: 300, 4]),
        "every result is 2 times": Several([lambda batch_size: 2 * counted_steps(batch_size), 4]),
    },
    "training_step": {
        "every number is 0.5 times what it should be": {"F.cross": "0.5 * F.cross"},
        "no parameter moves": {"loss.backward()": "loss.backward(), optimizer.zero_grad()"},
        "it returns nothing": {"return loss.item()": "loss.item()"},
        "which may hold its autograd graph": {"loss.item()": "loss.detach()"},
        "not the loss of this batch": {"loss.item()": "loss.item() / 2"},
    },
    "previous_head": {"the position before gets": {"share.argmax()": "share[:, :2].argmax()"}},
    "whole_loss": {
        "called in training mode": {"model.eval()": "pass"},
        "the model is given 4 tokens, and 5 are": lambda model, ids, T: looped_loss(model, ids[:-1], T),
        "the model is given 0 tokens": lambda model, ids, T: 1.4 + len(ids),
        "with T ≤ 3, got (1, 5)": lambda model, ids, T: looped_loss(model, ids, len(ids)),
        "training mode is off": {"model.train(was_training)": "pass"},
        "now its dropout is on": {"model.train(was_training)": "model.train()"},
        "builds an autograd graph": lambda model, ids, T: looped_loss(model, ids, T, recorded=True),
        "wrong for a text of one window": {"total = 0.0": "total = 0.0 + (T > 5)"},
        "return a plain number": lambda model, ids, T: torch.tensor(looped_loss(model, ids, T)),
    },
}
