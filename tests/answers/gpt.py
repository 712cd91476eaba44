"""Answers to the exercises of notebook 07."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# ---------------------------------------------------------------- a training step


def packaged_step(model, optimizer, x, y):
    """Another order of the same lines: the gradients are cleared for the next step."""
    logits = model(x)
    loss = F.cross_entropy(logits.mT, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    model.zero_grad()
    return loss.detach()


def step_by_hand(model, optimizer, x, y):
    """The loss and the clip written out."""
    for parameter in model.parameters():
        parameter.grad = None
    chances = model(x).softmax(-1)  # (B, T, V)
    loss = -chances.gather(-1, y[..., None]).log().mean()
    loss.backward()
    length = torch.sqrt(sum(parameter.grad.square().sum() for parameter in model.parameters()))
    if length > 1:
        for parameter in model.parameters():
            parameter.grad /= length
    optimizer.step()
    return loss.item()


def a_step(clear=True, clip="before", loss=None, gives=lambda loss, logits: loss.item()):
    def step(model, optimizer, x, y):
        if clear:
            optimizer.zero_grad()
        logits = model(x)
        value = (loss or next_loss)(logits, x, y)
        value.backward()
        if clip == "before":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if clip == "after":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return gives(value, logits)

    return step


def next_loss(logits, x, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def last_loss(logits, x, y):
    return F.cross_entropy(logits[:, -1], y[:, -1])


def repeating_loss(logits, x, y):
    return F.cross_entropy(logits.flatten(0, 1), x.flatten())


def mixed_loss(logits, x, y):
    B, T, V = logits.shape
    return F.cross_entropy(logits.view(B, V, T), y)


def clears_in_between(model, optimizer, x, y):
    loss = next_loss(model(x), x, y)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


def steps_first(model, optimizer, x, y):
    optimizer.step()
    optimizer.zero_grad()
    loss = next_loss(model(x), x, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss.item()


def own_optimizer(model, optimizer, x, y):
    return packaged_step(model, torch.optim.AdamW(model.parameters()), x, y)


def evaluates(model, optimizer, x, y):
    model.eval()
    return packaged_step(model, optimizer, x, y)


def without_gradients(model, optimizer, x, y):
    with torch.no_grad():
        return packaged_step(model, optimizer, x, y)


def clips_too_early(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = next_loss(model(x), x, y)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    loss.backward()
    optimizer.step()
    return loss.item()


def clips_values(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = next_loss(model(x), x, y)
    loss.backward()
    nn.utils.clip_grad_value_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def clips_each(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = next_loss(model(x), x, y)
    loss.backward()
    for parameter in model.parameters():
        nn.utils.clip_grad_norm_(parameter, 1.0)
    optimizer.step()
    return loss.item()


def steps_twice(model, optimizer, x, y):
    packaged_step(model, optimizer, x, y)
    return packaged_step(model, optimizer, x, y)


# ---------------------------------------------------------------- a head that looks one back


def looped_search(maps):
    best, place = -1.0, None
    for layer in range(maps.shape[0]):
        for head in range(maps.shape[1]):
            weights = [maps[layer, head, t, t - 1].item() for t in range(1, maps.shape[-1])]
            if sum(weights) > best:
                best, place = sum(weights), (layer, head)
    return place


def indexed_search(maps):
    T = maps.shape[-1]
    share = maps[..., torch.arange(1, T), torch.arange(T - 1)].mean(dim=-1)
    return tuple(np.unravel_index(share.argmax().item(), share.shape))


def summed_search(maps):
    below = torch.ones(maps.shape[-2:]).tril(-1).triu(-1)
    share = torch.einsum("lhts,ts->lh", maps, below)
    return list((share == share.max()).nonzero()[0])


def by_diagonal(maps, offset=-1):
    share = maps.diagonal(offset=offset, dim1=-2, dim2=-1).mean(-1)
    return divmod(int(share.argmax()), maps.shape[1])


def forgets_the_layers(maps):
    return divmod(int(maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1).argmax()), maps.shape[0])


def most_often(maps):
    hits = maps.argmax(-1)[..., 1:] == torch.arange(maps.shape[-1] - 1)
    return divmod(int(hits.sum(-1).argmax()), maps.shape[1])


def overwrites(maps):
    maps[..., 0] = 0
    return by_diagonal(maps)


# ---------------------------------------------------------------- the loss on a whole text


@torch.no_grad()
def batched_loss(model, ids, T):
    was_training = model.training
    model.eval()
    whole = (len(ids) - 1) // T * T
    total = 0.0
    if whole:
        logits = model(ids[:whole].view(-1, T))
        total = F.cross_entropy(logits.flatten(0, 1), ids[1 : whole + 1], reduction="sum")
    if whole < len(ids) - 1:
        total = total + F.cross_entropy(model(ids[None, whole:-1])[0], ids[whole + 1 :], reduction="sum")
    model.train(was_training)
    return total / (len(ids) - 1)


def looped_loss(model, ids, T, quiet=True, back=True, recorded=False):
    before, total, count = model.training, 0.0, 0
    if quiet:
        model.eval()
    with torch.set_grad_enabled(recorded):
        for start in range(0, len(ids) - 1, T):
            y = ids[start + 1 : start + 1 + T]
            chances = model(ids[None, start : start + len(y)])[0].softmax(-1)
            for row, target in zip(chances, y):
                total, count = total - math.log(row[target].item()), count + 1
    model.train(before if back else True)
    return total / count


def from_pairs(cut, join=lambda losses: torch.cat(losses).mean().item()):
    @torch.no_grad()
    def loss(model, ids, T):
        before = model.training
        model.eval()
        pairs = [(x, y) for x, y in cut(ids, T) if len(x)]
        losses = [F.cross_entropy(model(x[None])[0], y, reduction="none") for x, y in pairs]
        model.train(before)
        return join(losses)

    return loss


def side_by_side(ids, T):
    return list(zip(ids[:-1].split(T), ids[1:].split(T)))


def mean_of_means(losses):
    return sum(loss.mean().item() for loss in losses) / len(losses)


def all_at_once(model, ids, T):
    model.eval()
    return next_loss(model(ids[None, :-1]), None, ids[None, 1:]).item()


def one_axis(model, ids, T):
    model.eval()
    return F.cross_entropy(model(ids[:T]), ids[1 : T + 1]).item()


def random_windows(model, ids, T):
    model.eval()
    starts = torch.randint(len(ids) - T, (8,))
    x, y = torch.stack([ids[s : s + T] for s in starts]), torch.stack([ids[s + 1 : s + T + 1] for s in starts])
    return next_loss(model(x), x, y).item()


def shuffled_targets(ids, T):
    return [(x, y.flip(0)) for x, y in side_by_side(ids, T)]


RIGHT = {
    "parameter_count": [3270, 3270.0, torch.tensor(3270), np.int64(3270)],
    "parting_curves": ["c", "C", " (c) "],
    "training_step": [packaged_step, step_by_hand, a_step()],
    "previous_head": [looped_search, indexed_search, summed_search, by_diagonal],
    "whole_loss": [batched_loss, looped_loss, from_pairs(side_by_side)],
}

WRONG = {
    "parameter_count": [
        (3770, "counted once"),
        (3180, "position table"),
        (1940, "two blocks"),
        (3250, "last norm"),
        (3010, "biases and norms"),
        (5930, "more heads are not more"),
        (2660, "the blocks alone"),
        (3050, "the fourth writes back"),
        (3190, "two norms of each block"),
        (3170, "all norms"),
        (3090, "9 C in each block"),
        (3140, "13 C in each"),
        (3290, "counted once"),
        (100, "too low"),
        (124_000_000, "too high"),
        ("3270", "a number is expected"),
        ([3270], "a number is expected"),
    ],
    "parting_curves": [
        ("a", "jump or climb"),
        ("b", "too small"),
        ("d", "no such ceiling"),
        ("e", "choose one of"),
        (3, "choose one of"),
        ("", "choose one of"),
    ],
    "training_step": [
        (a_step(clear=False), "not cleared"),
        (a_step(clip="after"), "too early or too late"),
        (a_step(clip=None), "missing, or it comes too early"),
        (clips_too_early, "too early or too late"),
        (a_step(clear=False, clip="after"), "not cleared, so they add up; and the clip comes after"),
        (a_step(clear=False, clip="after", loss=last_loss), "add up; and the clip comes after"),
        (a_step(loss=last_loss), "only the last position"),
        (a_step(clear=False, loss=last_loss), "only the last position"),
        (a_step(loss=repeating_loss), "targets equal inputs"),
        (lambda model, optimizer, x, y: packaged_step(model, optimizer, y, x), "inputs and targets are exchanged"),
        (lambda model, optimizer, x, y: packaged_step(model, optimizer, x[:, :-1], y[:, 1:]), "moved on twice"),
        (a_step(loss=lambda logits, x, y: 0.5 * next_loss(logits, x, y)), "0.5 times the right length"),
        (a_step(loss=lambda logits, x, y: next_loss(logits, x, y.flip(1))), "with its target"),
        (a_step(loss=mixed_loss), "tokens and positions mix"),
        (a_step(loss=lambda logits, x, y: next_loss(logits.softmax(-1), x, y)), "softmax is taken twice"),
        (a_step(loss=lambda logits, x, y: -next_loss(logits, x, y)), "the loss goes up"),
        (a_step(loss=lambda logits, x, y: y.numel() * next_loss(logits, x, y)), "a sum of losses"),
        (a_step(loss=lambda logits, x, y: next_loss(logits.mT, x, y)), "ValueError"),
        (a_step(gives=lambda loss, logits: None), "returns nothing"),
        (a_step(gives=lambda loss, logits: logits), "not the loss as a number"),
        (a_step(gives=lambda loss, logits: loss), "holds the graph"),
        (a_step(gives=lambda loss, logits: loss.item() / 2), "the loss returned is"),
        (clears_in_between, "nothing is learned"),
        (steps_first, "steps before the gradients"),
        (clips_values, "bends its direction"),
        (clips_each, "clipped alone"),
        (own_optimizer, "the optimizer makes no step"),
        (steps_twice, "2 steps for each batch"),
        (evaluates, "in evaluation mode"),
        (without_gradients, "RuntimeError"),
        (lambda model, optimizer, x, y: 0.0, "never asked"),
        (lambda model: model, "TypeError"),
        (None, "not a function"),
    ],
    "previous_head": [
        (lambda maps: by_diagonal(maps)[::-1], "other way round"),
        (forgets_the_layers, "divided by the layers"),
        (lambda maps: by_diagonal(maps, 0), "looks at itself"),
        (lambda maps: by_diagonal(maps, 1), "one ahead"),
        (lambda maps: by_diagonal(maps.mT), "one ahead"),
        (lambda maps: divmod(int(maps.diagonal(-1).mean(-1).argmax()), maps.shape[1]), "other axes than the last two"),
        (lambda maps: divmod(int(maps.diagonal(-1, -2, -1).mean(-1).argmax()), 4), "divided by 4"),
        (lambda maps: by_diagonal(maps, -2), "two back"),
        (lambda maps: divmod(int(maps[..., 0].mean(-1).argmax()), maps.shape[1]), "first place"),
        (lambda maps: divmod(int(maps.amax(-1).mean(-1).argmax()), maps.shape[1]), "the sharpest"),
        (most_often, "in how many rows"),
        (lambda maps: divmod(int(maps.diagonal(-1, -2, -1).amax(-1).argmax()), maps.shape[1]), "one row decides"),
        (lambda maps: divmod(int(maps.diagonal(-1, -2, -1).median(-1).values.argmax()), maps.shape[1]), "middle row"),
        (lambda maps: tuple(i + 1 for i in by_diagonal(maps)), "counted from 1"),
        (lambda maps: (int(maps.diagonal(-1, -2, -1).mean((1, 2)).argmax()), 0), "of its weight to the place one back"),
        (lambda maps: (0, 1), "of its weight to the place one back"),
        (lambda maps: (9, 9), "there is no layer 9"),
        (lambda maps: int(maps.diagonal(-1, -2, -1).mean(-1).argmax()), "an int, and a tuple"),
        (lambda maps: maps.diagonal(-1, -2, -1).mean(-1), "a tensor, and a tuple"),
        (lambda maps: (*by_diagonal(maps), 0.5), "3 things, expected 2"),
        (overwrites, "in place"),
        (lambda maps: print(end=""), "returns nothing"),
        (lambda maps: by_diagonal(maps[0, 0, 0]), "IndexError"),
    ],
    "whole_loss": [
        (from_pairs(side_by_side, mean_of_means), "a mean of means"),
        (from_pairs(lambda ids, T: [p for p in side_by_side(ids, T) if len(p[0]) == T]), "left out"),
        (from_pairs(lambda ids, T: [(c[:-1], c[1:]) for c in ids.split(T)]), "across each border is lost"),
        (from_pairs(lambda ids, T: [(x, x) for x, _ in side_by_side(ids, T)]), "targets equal inputs"),
        (from_pairs(shuffled_targets), "look at their targets"),
        (from_pairs(lambda ids, T: side_by_side(ids, T)[:1]), "only the first window"),
        (from_pairs(lambda ids, T: side_by_side(ids, T)[:2]), "are left out"),
        (from_pairs(lambda ids, T: zip(ids.unfold(0, T, 1)[:-1], ids.unfold(0, T, 1)[1:])), "the windows overlap"),
        (from_pairs(side_by_side, lambda losses: torch.cat(losses).sum().item()), "a sum, not a mean"),
        (from_pairs(side_by_side, lambda losses: torch.cat(losses)[::2].mean().item()), "become one mean"),
        (from_pairs(side_by_side, lambda losses: torch.cat(losses).mean().exp().item()), "perplexity"),
        (from_pairs(side_by_side, torch.cat), "a tensor, and a number"),
        (from_pairs(side_by_side, lambda losses: None), "returns nothing"),
        (from_pairs(lambda ids, T: side_by_side(ids.clamp_(max=2), T)), "in place"),
        (lambda model, ids, T: looped_loss(model, ids, T, quiet=False), "training mode"),
        (lambda model, ids, T: looped_loss(model, ids, T, back=False), "its dropout is now on"),
        (lambda model, ids, T: (looped_loss(model, ids, T), model.eval())[0], "would have no dropout"),
        (lambda model, ids, T: looped_loss(model, ids, T, recorded=True), "recorded for gradients"),
        (lambda model, ids, T: looped_loss(model, ids[:-1], T), "are left out"),
        (all_at_once, "at most 3 positions"),
        (one_axis, "shape (B, T)"),
        (random_windows, "do windows overlap"),
        (lambda model, ids, T: 1.4, "never asked"),
        (lambda model, ids: 1.4, "TypeError"),
    ],
}
