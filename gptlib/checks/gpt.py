"""Checks of notebook 07: a whole GPT, its training, its maps."""

import math
from itertools import combinations

import torch
from torch import nn
from torch.nn import functional as F

from gptlib.checks.judge import Mistake, choice, examine, exercise, number, plain


def explained(mistake, find, *given):
    """The same mistake; where no known one fits and no more is said than that the result differs, what `find` finds."""
    words = str(mistake)
    return Mistake(words.replace("the result differs", find(*given))) if "the result differs" in words else mistake


@exercise
def parameter_count(answer):
    """A number: the parameters of a GPT with V = 50, T = 9, L = 2, H = 2, C = 10."""
    tokens, positions, block, norm = 50 * 10, 9 * 10, 12 * 10**2 + 13 * 10, 2 * 10
    total = tokens + positions + 2 * block + norm
    mistakes = {
        total + tokens: "the head shares the token table: one matrix, counted once",
        total + 50: "the head has no bias",
        total + tokens + 50: "the head shares the token table and has no bias",
        total - positions: "the position table is left out: nine rows of ten",
        total - block: "there are two blocks",
        total - norm: "the last norm is left out: a gain and a shift for each channel",
        total - norm / 2: "the last norm has a gain and a shift for each channel",
        total - positions - norm: "the position table and the last norm are left out",
        total - 2 * 130: "the biases and norms of the blocks are left out: 13 C in each block",
        total - 2 * 130 - norm: "the biases and the norms are left out",
        total - 4 * 10: "each block has two norms",
        total - 8 * 10: "4 C are missing in each block: the two norms of each block, or the biases of its attention",
        total - 10 * 10: "5 C are missing in each block, the biases of its feed-forward; or all norms are left out",
        total - 18 * 10: "the biases of the matrices are left out: 9 C in each block",
        total - 130: "each of the two blocks has its biases and norms: 13 C in each",
        total + norm: "the last norm stands after all blocks, not after each of them: it is counted once",
        total - 2 * 10**2: "attention has four matrices: the fourth writes back into the path",
        total - 2 * (10**2 + 10): "attention has four matrices: the fourth writes back into the path",
        total + 2 * block: "the heads of a block share its matrices: more heads are not more parameters",
        tokens + positions + 2 * (6 * 10**2 + 10 * 10) + norm: "the feed-forward widens four times, and narrows again",
        2 * block: "these are the blocks alone: the tables and the last norm come on top",
        12 * 2 * 10**2: "12 C² a block is a good estimate for large models; here everything counts",
    }
    number(answer, total, mistakes, tolerance=0.4)
    return "two tables, two blocks and a norm; the head is the token table, counted once."


@exercise
def parting_curves(answer):
    """A letter: why a validation loss climbs above the uniform line while the training loss falls."""
    reasons = {
        "a": "with steps that are too long the training loss would jump or climb as well, and it falls all the way",
        "b": "a model that is too small to learn its text keeps a high training loss; this one falls below 1",
        "d": "a mean of surprises has no such ceiling: who gives a character 1 in 1,000 pays 6.9 when it comes",
    }
    choice(answer, "c", reasons)
    return "it is as sure of itself on new text as on its own, and pays for every time that it is wrong."


# --- a training step ----------------------------------------------------------------------------------------------


class Loud(nn.Module):
    """A table of logits, made louder so that its gradients are long, and a bias."""

    def __init__(self, loudness):
        super().__init__()
        self.table = nn.Parameter(torch.tensor([[0.5, -1.0, 0.0], [1.0, 0.5, -0.5], [0.0, -0.5, 1.0]]))
        self.bias = nn.Parameter(torch.tensor([0.0, 0.5, -0.5]))
        self.loudness, self.modes = loudness, set()

    def forward(self, idx):
        if idx.shape[1:] == ():
            raise ValueError(f"this model reads idx of shape (B, T), got {tuple(idx.shape)}")
        self.modes.add(self.training)
        return self.loudness * (self.table[idx] + self.bias)


def train(step, x, y, loudness, steps):
    """The weights after `steps` steps, each on its own batch, and the losses that `step` has returned."""
    model = Loud(loudness)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    taken = []
    optimizer.register_step_post_hook(lambda *_: taken.append(1))
    losses = [step(model, optimizer, (x + s) % 3, (y + s) % 3) for s in range(steps)]
    return torch.cat([model.table.detach(), model.bias.detach()[None]]), losses, model, len(taken)


def one_step(model, optimizer, x, y, clear="first", clip="all", loss="all", order="step last"):
    """A right step, or one with faults: each setting has its right value as default."""
    if order == "step first":
        optimizer.step()
    if clear == "first":
        optimizer.zero_grad()
    x, y = {"inputs": (x, x), "exchanged": (y, x), "two on": (x[:, :-1], y[:, 1:])}.get(loss, (x, y))
    logits = model(x)
    if loss == "last":
        value = F.cross_entropy(logits[:, -1], y[:, -1])
    elif loss == "first":
        value = F.cross_entropy(logits[:, 0], y[:, 0])
    elif loss == "one window":
        value = F.cross_entropy(logits[0], y[0])
    elif loss == "mixed":
        value = F.cross_entropy(logits.reshape(len(x), 3, -1), y)
    elif loss == "probabilities":
        value = F.cross_entropy(logits.softmax(-1).flatten(0, 1), y.flatten())
    else:
        value = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum" if loss == "sum" else "mean")
    (-value if loss == "negative" else value).backward()
    if clear == "too late":
        optimizer.zero_grad()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if clip == "all":
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    elif clip == "each":
        for parameter in model.parameters():
            nn.utils.clip_grad_norm_([parameter], 1.0)
    elif clip == "values":
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
    elif clip == "always" and gradients:
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient /= length
    if order == "step last":
        optimizer.step()
    if clip == "late":
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return value.item()


FAULTS = {
    "the gradients of earlier steps are not cleared, so they add up": {"clear": "never"},
    "nothing is learned: when the optimizer steps, the gradients are cleared already, or not made yet": {
        "clear": "too late"
    },
    "the optimizer reads gradients that are not clipped: the clip is missing, or it comes too early or too late": {
        "clip": "never"
    },
    "the clip comes after the optimizer has read the gradients": {"clip": "late"},
    "each parameter is clipped alone: the length is that of all gradients together": {"clip": "each"},
    "each number of the gradient is clipped, which bends its direction: clip the length": {"clip": "values"},
    "short gradients are stretched to length 1: a clip only shortens": {"clip": "always"},
    "only the last position of each window is learned from: all have a target": {"loss": "last"},
    "only the first position of each window is learned from: all have a target": {"loss": "first"},
    "only the first window of the batch is learned from": {"loss": "one window"},
    "targets equal inputs: the model learns to repeat, nothing is predicted": {"loss": "inputs"},
    "inputs and targets are exchanged: the model learns to look back": {"loss": "exchanged"},
    "the targets are moved on twice: y is already the next token": {"loss": "two on"},
    "a sum of losses, not their mean: the step grows with the batch": {"loss": "sum"},
    "the loss goes up: the sign is wrong": {"loss": "negative"},
    "the logits are reshaped so that tokens and positions mix: `cross_entropy` scores the second axis": {
        "loss": "mixed"
    },
    "cross_entropy takes logits: here the softmax is taken twice": {"loss": "probabilities"},
    "the optimizer steps before the gradients of this batch are there": {"order": "step first"},
}


def faulty(faults):
    """A function that trains with some of the FAULTS."""
    settings = {key: value for fault in faults for key, value in FAULTS[fault].items()}
    return lambda *inputs: train(lambda *given: one_step(*given, **settings), *inputs)[0]


@exercise
def training_step(answer):
    """A function model, optimizer, x, y -> loss that makes one training step."""
    x, y = torch.tensor([[0, 1]]), torch.tensor([[1, 2]])
    wide_x, wide_y = torch.tensor([[0, 1, 1, 2], [2, 0, 1, 0]]), torch.tensor([[1, 1, 2, 2], [0, 1, 0, 0]])

    def use(answer, x, y, loudness, steps):
        weights, losses, model, taken = train(answer, x, y, loudness, steps)
        if None in losses:
            raise Mistake("Not yet: it returns nothing. Is the `return` missing?")
        if not model.modes:
            raise Mistake("Not yet: the model is never asked: no logits, no loss.")
        if model.modes != {True}:
            raise Mistake("Not yet: the model learns in evaluation mode: its dropout is off in this step.")
        if taken == 0:
            raise Mistake("Not yet: the optimizer makes no step, so it moves no weight.")
        if taken != steps:
            raise Mistake(f"Not yet: the optimizer makes {taken / steps:g} steps for each batch, and one is right.")
        return weights

    def direction(weights, x, y, loudness, steps):
        before = train(one_step, x, y, loudness, 0)[0]
        moved, right = weights - before, train(one_step, x, y, loudness, steps)[0] - before
        if F.cosine_similarity(moved.flatten(), right.flatten(), dim=0) > 0.999:
            times = (moved.norm() / right.norm()).item()
            return f"the step has the right direction and {times:.2g} times the right length: look at clip and factors"
        return "the weights do not move down the mean loss: look whether it holds the batch, each logit with its target"

    combined = [faults for count in (1, 2, 3) for faults in combinations(FAULTS, count)]
    combined = [faults for faults in combined if len({next(iter(FAULTS[fault])) for fault in faults}) == len(faults)]
    examine(
        answer,
        cases=[(x, y, 0.5, 1), (x, y, 0.5, 2), (x, y, 8, 1), (wide_x, wide_y, 0.3, 2), (wide_x, wide_y, 8, 3)],
        expected=lambda x, y, loudness, steps: train(one_step, x, y, loudness, steps)[0],
        mistakes={"; and ".join(faults): faulty(faults) for faults in combined},
        clues=[direction],
        call=use,
    )
    returned, right = (train(step, wide_x, wide_y, 8, 2)[1] for step in (answer, one_step))
    for value, loss in zip(returned, right):
        if plain(value) is None or isinstance(value, bool):
            raise Mistake("Not yet: the weights are right; what is returned is not the loss as a number.")
        if isinstance(value, torch.Tensor) and value.requires_grad:
            raise Mistake(
                "Not yet: the loss still holds the graph behind it, and a list of such losses fills the memory."
            )
        if abs(plain(value) - loss) > 1e-3:
            raise Mistake(
                f"Not yet: the weights are right; the loss returned is {plain(value):.2f}, and the one that "
                f"this step has used is {loss:.2f}."
            )
    return "clear, predict, measure, go back, clip, step: the weights agree after one, two and three steps."


# --- a head that looks one back -----------------------------------------------------------------------------------


def some_maps(L, H, T, seed):
    """Random causal maps (L, H, T, T), in which a few heads at random places have each a habit."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(L * H, T, T, generator=generator)
    maps = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    rows = torch.arange(T)
    often = torch.where(rows % 3 == 1, 0.98, 0.3)
    once = torch.where(rows == T - 1, 0.98, 0.0)
    habits = [(1, often), (0, 0.9), (1, 0.5), ((rows + 1) // 2, 0.99), (T, 0.9), (2, 0.9), (1, once)]  # back, share
    for head, (back, share) in zip(torch.randperm(L * H, generator=generator).tolist(), habits):
        place = F.one_hot((rows - back).clamp(min=0), T).float()
        share = torch.as_tensor(share).expand(T)[:, None]
        maps[head] = (1 - share) * maps[head] + share * place
    return maps.view(L, H, T, T)


def one_back(maps):
    return maps.diagonal(offset=-1, dim1=-2, dim2=-1)  # (L, H, T - 1)


def place_of(scores):
    """Where the largest of `scores` (L, H) is: layer, head."""
    return divmod(int(scores.argmax()), scores.shape[1])


@exercise
def previous_head(answer):
    """A function maps (L, H, T, T) -> (layer, head): the head that looks most at the place one back."""

    def diagonal(maps, offset):
        return maps.diagonal(offset=offset, dim1=-2, dim2=-1).mean(-1)

    def of(maps):
        return one_back(maps).mean(-1)

    def how_often(maps):
        return (maps.argmax(-1)[..., 1:] == torch.arange(maps.shape[-1] - 1)).float().mean(-1)

    mistakes = {
        "the order is (layer, head), and here it is the other way round": lambda maps: place_of(of(maps))[::-1],
        "the number of the head in the whole row is divided by the layers: a layer holds H heads": lambda maps: divmod(
            int(of(maps).argmax()), len(maps)
        ),
        "layers and heads are counted from 1: the first is 0": lambda maps: tuple(i + 1 for i in place_of(of(maps))),
        "this head looks at itself: the diagonal, not the line below it": lambda maps: place_of(diagonal(maps, 0)),
        "the number of the head is divided by 4, and a layer need not hold 4: ask the maps": lambda maps: divmod(
            int(of(maps).argmax()), 4
        ),
        "always layer 0, head 0, as when it looks one ahead, where a causal map holds only zeros, or along other axes "
        "than the last two": lambda maps: place_of(diagonal(maps, 1)),
        "this head looks two back": lambda maps: place_of(diagonal(maps, -2)),
        "this head looks at the first place": lambda maps: place_of(maps[..., 0].mean(-1)),
        "this is the sharpest head, wherever it looks": lambda maps: place_of(maps.amax(-1).mean(-1)),
        "this is the largest single weight anywhere": lambda maps: place_of(maps[..., 1:, :].amax((-2, -1))),
        "one row decides: take the mean over all rows": lambda maps: place_of(one_back(maps).amax(-1)),
        "the last row decides: take the mean over all rows": lambda maps: place_of(maps[..., -1, -2]),
        "it counts in how many rows the place one back has the most, and the weight itself is asked for": (
            lambda maps: place_of(how_often(maps))
        ),
        "the middle row decides: take the mean over all rows": lambda maps: place_of(one_back(maps).median(-1).values),
        "this head looks least at the place one back": lambda maps: place_of(-of(maps)),
        "layer and head are chosen apart: the best layer on average need not hold the best head": lambda maps: (
            int(of(maps).mean(1).argmax()),
            int(of(maps).mean(0).argmax()),
        ),
        "only the first layer is searched": lambda maps: (0, int(of(maps)[0].argmax())),
        "only the last layer is searched": lambda maps: (len(maps) - 1, int(of(maps)[-1].argmax())),
    }
    cases = [
        (some_maps(*sizes),) for sizes in [(1, 3, 4, 17), (2, 3, 5, 6), (3, 2, 6, 13), (4, 3, 7, 15), (3, 5, 8, 3)]
    ]

    def use(answer, maps):
        result = answer(maps)
        if isinstance(result, (tuple, list)) and len(result) == 2:
            return tuple(result)
        return result

    try:
        examine(answer, cases, expected=lambda maps: place_of(of(maps)), mistakes=mistakes, call=use)
    except Mistake as mistake:
        raise explained(mistake, instead, answer, cases, of) from None
    return "the mean weight one place back is the largest of all heads, on five sets of maps."


def instead(answer, cases, score):
    """What can be said of the first wrong head: how much it looks one back."""
    for (maps,) in cases:
        layer, head = (plain(part) for part in answer(maps.clone()))
        L, H = maps.shape[:2]
        if layer not in range(L) or head not in range(H):
            return f"there is no layer {layer}, head {head}: the maps have {L} layers of {H} heads, counted from 0"
        here, best = score(maps)[int(layer), int(head)].item(), score(maps).max().item()
        if here < best:
            return f"this head gives {here:.2f} of its weight to the place one back, and another gives {best:.2f}"
    return "the result differs"


# --- the loss on a whole text -------------------------------------------------------------------------------------


class Reader(nn.Module):
    """A small model with dropout that uses all of its window, and remembers how it was used."""

    def __init__(self, most):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))
        self.dropout = nn.Dropout(0.5)
        self.most, self.read, self.states = most, [], set()

    def forward(self, idx):
        if idx.ndim != 2:
            raise ValueError(f"this model reads idx of shape (B, T), got {tuple(idx.shape)}")
        if idx.shape[1] > self.most:
            raise ValueError(f"this model reads at most {self.most} positions at once, got {idx.shape[1]}")
        self.read += idx.tolist()
        self.states.add((self.training, torch.is_grad_enabled()))
        rows = self.table[idx]  # (B, T, V)
        return self.dropout(rows + rows.cumsum(dim=1) / 2)


def windows(ids, T):
    """Inputs and targets side by side, the last pair shorter."""
    return [(ids[s : s + T][: len(ids) - 1 - s], ids[s + 1 : s + 1 + T]) for s in range(0, len(ids) - 1, T)]


def losses(pairs, again=False):
    """The losses of the predictions in each window, a list of (T,)."""
    found = []
    for x, y in pairs:
        with torch.no_grad():
            logits = Reader(len(x)).eval()(x[None])[0]
        found.append(F.cross_entropy(logits.softmax(-1) if again else logits, y, reduction="none"))
    return found


def pooled(pairs, again=False):
    return torch.cat(losses(pairs, again)).mean().item()


def mean_of_means(pairs):
    return torch.stack([found.mean() for found in losses(pairs)]).mean().item()


def mean_of_lasts(pairs):
    return torch.stack([found[-1] for found in losses(pairs)]).mean().item()


def right_loss(ids, T):
    return pooled(windows(ids, T))


def full_windows(ids, T):
    return [(x, y) for x, y in windows(ids, T) if len(x) == T]


def chunks(ids, T):
    return [(chunk[:-1], chunk[1:]) for chunk in ids.split(T) if len(chunk) > 1]


def moved_back(ids, T):
    """The last window is moved back until it is as long as the others."""
    return [*windows(ids, T)[:-1], (ids[-T - 1 : -1], ids[-T:])]


def at_every_place(ids, T):
    return [(ids[s : s + T], ids[s + 1 : s + 1 + T]) for s in range(len(ids) - T)]


def up_to_every_place(ids, T):
    return [(ids[max(0, t - T) : t], ids[max(0, t - T) + 1 : t + 1]) for t in range(1, len(ids))]


LOSS_MISTAKES = {
    "the last window is shorter and counts as much as the others: a mean of means is not the mean": (
        lambda ids, T: mean_of_means(windows(ids, T))
    ),
    "the last, shorter window is left out": lambda ids, T: pooled(full_windows(ids, T)),
    "the prediction across each border is lost: a window of T inputs needs T + 1 tokens": (
        lambda ids, T: pooled(chunks(ids, T))
    ),
    "predictions across the borders are lost, and a mean of means is taken": lambda ids, T: mean_of_means(
        chunks(ids, T)
    ),
    "targets equal inputs: nothing is predicted": lambda ids, T: pooled([(x, x) for x, _ in windows(ids, T)]),
    "the windows overlap: one starts at every place": lambda ids, T: pooled(at_every_place(ids, T)),
    "each prediction has a window of its own: here the windows lie side by side": (
        lambda ids, T: mean_of_lasts(up_to_every_place(ids, T))
    ),
    "the last window is moved back to be full, so that some predictions count twice": (
        lambda ids, T: pooled(moved_back(ids, T))
    ),
    "the last window is moved back to be full; here it begins where the one before it ends": lambda ids, T: (
        torch.cat([*losses(windows(ids, T)[:-1]), losses(moved_back(ids, T))[-1][-len(windows(ids, T)[-1][0]) :]])
        .mean()
        .item()
    ),
    "a sum, not a mean: divide by the number of predictions": lambda ids, T: right_loss(ids, T) * (len(ids) - 1),
    "divided by the number of tokens: the first is never predicted, so there is one prediction less": (
        lambda ids, T: right_loss(ids, T) * (len(ids) - 1) / len(ids)
    ),
    "divided by the number of windows: divide by the number of predictions": (
        lambda ids, T: right_loss(ids, T) * (len(ids) - 1) / len(windows(ids, T))
    ),
    "divided as if every window were full: the last one is shorter": (
        lambda ids, T: right_loss(ids, T) * (len(ids) - 1) / (T * len(windows(ids, T)))
    ),
    "only the first window is read": lambda ids, T: pooled(windows(ids, T)[:1]),
    "only the last window counts": lambda ids, T: pooled(windows(ids, T)[-1:]),
    "only the last position of each window counts: all have a target": lambda ids, T: mean_of_lasts(windows(ids, T)),
    "the softmax is taken twice: `cross_entropy` takes logits": lambda ids, T: pooled(windows(ids, T), again=True),
    "this is the perplexity, e to the loss": lambda ids, T: math.exp(right_loss(ids, T)),
    "these are bits, not nats": lambda ids, T: right_loss(ids, T) / math.log(2),
    "the sign is wrong": lambda ids, T: -right_loss(ids, T),
}


@exercise
def whole_loss(answer):
    """A function model, ids, T -> loss: the mean over every prediction of a text, in windows side by side."""
    ids = torch.tensor([0, 1, 3, 2, 2, 1, 0, 3, 1, 1, 2, 0, 3])
    cases = [(ids[:6], 3), (ids[1:9], 3), (ids, 5), (ids[:9], 4), (ids, 4)]

    def use(answer, ids, T):
        model = Reader(T)
        result = answer(model, ids, T)
        if not model.read:
            raise Mistake("Not yet: the model is never asked.")
        if any(training for training, _ in model.states):
            raise Mistake(
                "Not yet: the model reads in training mode: its dropout is on, and the loss is left to chance."
            )
        return result

    short = [(ids[:2], 1), (ids[:3], 8)]  # a text of one window
    for some, mistakes in ((cases, LOSS_MISTAKES), (short, {})):
        try:
            examine(answer, some, expected=right_loss, mistakes=mistakes, call=use)
        except Mistake as mistake:
            raise explained(mistake, reading, answer, some) from None
    for training in (True, False):
        model = Reader(4).train(training)
        answer(model, ids, 4)
        if model.training != training:
            raise Mistake(
                "Not yet: the number is right, and the model is left in another mode than it came in: "
                + ("the training that goes on would have no dropout." if training else "its dropout is now on.")
            )
    if any(grad for _, grad in model.states):
        raise Mistake(
            "Not yet: the number is right, and every pass is recorded for gradients that nobody asks for: it "
            "takes memory and time."
        )
    return "every prediction counts once, the short window too; dropout is off, and the model is left as it came."


def reading(answer, cases):
    """How the text of the first wrong case was read: what a wrong mean can come from."""
    for ids, T in cases:
        model = Reader(T)
        value = plain(answer(model, ids.clone(), T))
        if abs(value - right_loss(ids, T)) <= 1e-3:
            continue
        expected = [x.tolist() for x, _ in windows(ids, T)]
        made, needed = sum(map(len, model.read)), len(ids) - 1
        if made < needed:
            return f"the model reads {made} tokens, and {needed} are followed by another: some predictions are left out"
        if made > needed:
            return f"the model reads {made} tokens, and only {needed} are followed by another: do windows overlap?"
        if sorted(model.read) != sorted(expected):
            return f"the windows are not the text cut side by side: {model.read}, expected {expected}"
        return "the windows are right: look at their targets, and at how the losses of all windows become one mean"
    return "the result differs"
