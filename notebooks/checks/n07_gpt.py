"""Checks of notebook 07: a whole GPT, its training, its attention maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .compare import Reader, same, tensors
from .exercise import exercise, prediction
from .report import Mistake

parameter_count = prediction(
    3270,
    {
        3770: "the output layer shares the matrix of the token embedding: count it once",
        3180: "the position embedding is left out: nine rows of ten",
        1940: "there are two blocks",
        3250: "the final norm is left out: a scale and a shift for each channel",
        3050: "attention has four matrices: the fourth is the output projection",
        5930: "the heads of a block share its matrices: more heads are not more parameters",
        2660: "these are the blocks alone: the two embeddings and the final norm are parameters too",
    },
    said="two embeddings, two blocks and a norm; the output layer is the token embedding, counted once.",
)

confident_loss = prediction(
    4.611,
    {
        0.946: "the logarithm of the mean probability: the loss is the mean of the negative logarithms",
        2.116: "the 0.03 is shared by 64 characters, so each of them has 0.03 / 64",
        3.084: "the shares are exchanged: the favorite comes next at 40 % of the positions",
        7.665: "this is the loss where the favorite does not come next: at 40 % of the positions it does",
        0.0305: "this is the loss where the favorite comes next: at 60 % of the positions it does not",
        6.652: "these are bits: use the natural logarithm",
    },
    said="it is above ln 65 = 4.17, because every confident mistake has a loss of 7.67.",
)


@exercise(
    cases=[(16,), (4,), (64,), (1,), (48,), (300,)],
    mistakes={
        "300 * 16 // batch_size": {
            "300 * batch_size // 16": "the larger the batch, the fewer steps are needed to read as much",
            "300 * 16 * 64 // batch_size": "these are characters, 64 per window: count the windows",
            "300 // batch_size": "the 300 steps read 16 windows each",
        },
    },
    value=prediction(
        {"best": 4}, {16: "train with 4 too, and compare", 64: "with 75 steps it has the highest loss"}, ""
    ),
    said="4,800 windows whatever the batch size; and the smallest batch, with the most steps, has the lowest loss.",
)
def steps_for(batch_size):
    return 300 * 16 // batch_size


def moved(answer, x, y, scale, steps):
    """How the parameters of a small model move in some steps; a large scale makes the gradients long."""
    torch.manual_seed(steps)
    model = nn.Sequential(nn.Embedding(3, 3), nn.Linear(3, 3))
    model[0].weight.data *= scale
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    model(x).sum().backward()  # gradients that are left from before
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = [answer(model, optimizer, (x + s) % 3, (y + s) % 3) for s in range(steps)]
    change = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    if not change.any() and None not in losses:
        raise Mistake("no parameter moves: does the optimizer step, and are there gradients when it does?")
    return None if None in losses else change


def returned(answer):
    """A demand: a step returns its loss."""
    right = F.cross_entropy((model := nn.Embedding(3, 3))(X).flatten(0, 1), Y.flatten()).item()
    loss = answer(model, torch.optim.SGD(model.parameters()), X, Y)
    if isinstance(loss, Tensor):
        return "the step is right, but the loss is a tensor, which may hold its autograd graph: return a plain number"
    return None if same(loss, right) else "the step is right, but what is returned is not the loss of this batch"


X, Y = torch.tensor([[0, 1]]), torch.tensor([[1, 2]])
WIDE = torch.tensor([[0, 1, 1, 2], [2, 0, 1, 0]]), torch.tensor([[1, 1, 2, 2], [0, 1, 0, 0]])
CLIP = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"


@exercise(
    cases=[(X, Y, 0.5, 1), (X, Y, 0.5, 2), (X, Y, 8.0, 1), (*WIDE, 0.3, 2), (*WIDE, 8.0, 3)],
    pairs=True,
    mistakes={
        "logits.flatten(0, 1), y.flatten()": {
            "logits[:, -1], y[:, -1]": "only the last position of each window is learned from: all have a target",
            "logits.flatten(0, 1), x.flatten()": "the targets equal the inputs: the model learns to repeat the token",
            "logits.flatten(0, 1).softmax(-1), y.flatten()": "cross_entropy takes logits: the softmax is taken twice",
            "logits, y": "`cross_entropy` takes classes on axis 1: flatten logits to (B·T, V) and targets to (B·T,)",
        },
        "optimizer.zero_grad()": {"pass": "the gradients of earlier steps are not cleared, so they add up"},
        CLIP: {
            "pass": "the gradients that the step reads are not clipped: the clip is missing, too early or too late",
            "nn.utils.clip_grad_value_(model.parameters(), 1.0)": "each number is clipped by itself: clip the norm",
        },
        f"optimizer.zero_grad()\n    loss.backward()\n    {CLIP}\n    optimizer.step()": {
            f"loss.backward(); optimizer.step(); {CLIP}": "gradients are not cleared, and the clip comes too late",
            f"optimizer.step(); optimizer.zero_grad(); loss.backward(); {CLIP}": "the step comes before its gradients",
            f"loss.backward(); {CLIP}; optimizer.step(); optimizer.zero_grad()": "gradients are cleared too late",
        },
    },
    call=moved,
    demands=[returned],
    said="clear, backward, clip, step: the parameters agree after one, two and three steps.",
)
def training_step(model, optimizer, x, y):
    logits = model(x)  # (B, T, V)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


HEADS = tensors(9, (1, 3, 4, 4), (2, 3, 5, 5), (3, 2, 6, 6), (4, 3, 7, 7), (3, 5, 8, 8))


@exercise(
    cases=[
        *[(F.normalize(scores.exp().tril(), p=1, dim=-1),) for scores in HEADS],
        *[(scores.softmax(dim=-1),) for scores in HEADS[1:3]],  # without a mask
    ],
    mistakes={
        "offset=-1": {
            "offset=0": "this head attends to itself: the diagonal, not the line below it",
            "offset=1": "this is the line above the diagonal, the position after: a causal map holds only zeros there",
        },
        "divmod(share.argmax().item(), maps.shape[1])": {
            "divmod(share.argmax().item(), maps.shape[1])[::-1]": "layer and head are exchanged",
            "divmod(share.argmax().item(), maps.shape[0])": "divided by the number of layers: a layer holds H heads",
            "tuple(i + 1 for i in divmod(share.argmax().item(), maps.shape[1]))": "counted from 1: the first is 0",
            "(share.mean(1).argmax().item(), share.mean(0).argmax().item())": "layer and head are chosen separately",
        },
    },
    clues=[lambda found, maps: f"the position before gets {maps[found].diagonal(-1).mean():.2f}, and elsewhere more"],
    said="of all heads, this one gives the position before the largest weight on average, on seven sets of maps.",
)
def previous_head(maps):
    share = maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)  # (L, H)
    return divmod(share.argmax().item(), maps.shape[1])


def tokens_read(answer, ids, T):
    """A probe: how many tokens the model is given."""
    answer(model := Reader(T), ids, T)
    read, right = sum(map(len, model.windows)), len(ids) - 1
    return None if read == right else f"the model is given {read} tokens, and {right} are followed by another"


def left_as_it_was(answer):
    """A demand: the model keeps its mode, and no graph is built."""
    for training, now in ((True, "training mode is off"), (False, "its dropout is on")):
        answer(model := Reader(4).train(training), IDS, 4)
        if model.training != training:
            return f"the loss is right, but the model is not left in the mode in which it came: now {now}"
    return "the loss is right, but every pass builds an autograd graph, which takes memory" if model.grad else None


MEANS = "sum(right(model, ids[s : s + T + 1], T) for s in range(0, len(ids) - 1, T)) / len(range(0, len(ids) - 1, T))"
BORDERS = "sum(right(model, w, T) * (len(w) - 1) for w in ids.split(T) if len(w) > 1) / (len(ids) - len(ids.split(T)))"
IDS = torch.tensor([0, 1, 3, 2, 2, 1, 0, 3, 1, 1, 2, 0, 3])


@exercise(
    cases=[(IDS[:6], 3), (IDS[1:9], 3), (IDS, 5), (IDS[:9], 4), (IDS, 4)],
    also={"right for several windows, wrong for a text of one window": [(IDS[:2], 1), (IDS[:3], 8)]},
    mistakes={
        "model(x[None])[0]": {"model(x[None])[0].softmax(-1)": "the softmax is taken twice"},
        "total / (len(ids) - 1)": {
            "total": "a sum, not a mean: divide by the number of predictions",
            "total / len(ids)": "divided by the number of tokens, and the first is never predicted",
        },
        "ids[start + 1 : start + 1 + T]": {"ids[start : start + T][: len(ids) - 1 - start]": "y is equal to x"},
        "": {
            "right(model, ids[: (len(ids) - 1) // T * T + 1], T)": "the last, shorter window is left out",
            MEANS: "the last, shorter window counts as much as the others: a mean of means is not the mean",
            BORDERS: "the prediction across each border is lost: a window of T inputs needs T + 1 tokens",
        },
    },
    call=lambda answer, ids, T: answer(Reader(T), ids, T),
    probes=[tokens_read],
    demands=[left_as_it_was],
    plain_number=True,
    said="every prediction counts once, dropout is off, and the model is left in the mode in which it came.",
)
@torch.no_grad()
def whole_loss(model, ids, T):
    was_training = model.training
    model.eval()
    total = 0.0
    for start in range(0, len(ids) - 1, T):
        y = ids[start + 1 : start + 1 + T]  # shorter at the end
        x = ids[start : start + len(y)]
        total += F.cross_entropy(model(x[None])[0], y, reduction="sum").item()
    model.train(was_training)
    return total / (len(ids) - 1)
