"""Checks of notebook 14: a step's operations, accumulation, merged attention, DDP, a scaling law."""

import torch
from torch import nn
from torch.nn import functional as F

from .compare import same, tensors
from .exercise import exercise, prediction
from .report import Mistake


@exercise(
    cases=[(1, 2, 3, 1, 2), (2, 3, 5, 1, 4), (4, 8, 10, 2, 4), (8, 64, 65, 3, 64), (512, 1024, 50257, 12, 768)],
    mistakes={
        "6 * in_products": {
            "2 * in_products": "this is the forward pass alone: the backward pass takes twice as many again",
            "4 * in_products": "this is the backward pass alone: the forward pass adds 2 per parameter",
            "3 * in_products": "each parameter multiplies and adds, which is 2 operations and not 1",
            "12 * in_products": "a product of matrices has 2 operations per parameter and token: 6 with both passes",
        },
        "per_token = 6 * in_products + 12": {
            "per_token = 2 * in_products + 4": "both terms are those of the forward pass: both passes take three times",
        },
        "12 * n_layer * n_embd**2 +": {
            "n_layer * (12 * n_embd**2 + 13 * n_embd) +": "biases and norms are counted: they are in no matrix product",
            "8 * n_layer * n_embd**2 +": "the four matrices of attention are missing: 4 n_embd² per block",
            "4 * n_layer * n_embd**2 +": "the two matrices of the feed-forward layer are missing: 8 n_embd² per block",
            "12 * n_embd**2 +": "this is one block: there are `n_layer`",
            "": "the blocks are left out: 12 n_embd² parameters each",
        },
        "+ vocab_size * n_embd": {
            "": "the output layer is left out: its vocab_size · n_embd parameters are in a matrix product",
            "+ 2 * vocab_size * n_embd": "the token embedding is looked up, not multiplied: count the output layer",
            "+ vocab_size * n_embd + context_length * n_embd": "the position embedding is looked up, "
            "not multiplied: it is in no matrix product",
        },
        "+ 12 * n_layer * n_embd * context_length": {
            "": "attention's scores and weighted sums are left out: they need no parameters, but operations",
            "+ 4 * n_layer * n_embd * context_length": "attention's scores and weighted sums are those of the "
            "forward pass alone: with the backward pass, 12 per layer, channel and position",
            "+ 12 * n_embd * context_length": "the scores and sums are those of one layer",
            "+ 12 * n_layer * n_embd * context_length**2": "each token attends to context_length positions, and not to "
            "their square",
            "+ 6 * n_layer * n_embd * context_length": "the scores are one product and the weighted sum is another: "
            "12 per layer, channel and position",
        },
        "batch_size * context_length * per_token": {
            "per_token": "these are the operations for one token: a step has batch_size · context_length",
            "batch_size * per_token": "each of the windows has `context_length` tokens",
            "context_length * per_token": "these are the operations for one window: a step has `batch_size`",
        },
    },
    said="6 operations per parameter in a product, 12 per layer, channel and position, for every token of the step.",
)
def step_flops(batch_size, context_length, vocab_size, n_layer, n_embd):
    in_products = 12 * n_layer * n_embd**2 + vocab_size * n_embd
    per_token = 6 * in_products + 12 * n_layer * n_embd * context_length
    return batch_size * context_length * per_token


def moved(answer, micro_batches):
    """How one step of a table of logits changes it, and the loss that is returned; gradients are left from before."""
    torch.manual_seed(0)
    model = nn.Embedding(3, 3)
    model.weight.data.copy_(torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 0.0], [0.5, 0.0, 3.0]]))
    before = model.weight.detach().clone()
    model(torch.tensor([0, 2])).square().sum().backward()
    loss = answer(model, torch.optim.SGD(model.parameters(), lr=1.0), micro_batches)
    if loss is None:
        return None
    if (change := model.weight.detach() - before).any():
        return {"change": change, "loss": loss}
    raise Mistake("no parameter moves: does the optimizer step, and are there gradients when it does?")


def micro(*rows):
    """Rows of targets as a micro-batch: each input is the target of the position before, and the first is 0."""
    y = torch.tensor(rows)
    return torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1].clamp(min=0)], dim=1), y


ONE = micro([1, 2])
FULL, LONG, SHORT = micro([2, 1, 1]), micro([1, 2, 2, 0, 1]), micro([2, -100, -100, -100])
PADDED, WIDE = micro([0, -100, -100], [2, 1, -100]), micro([1, 1, 0, 2], [2, 2, -100, -100])


def which(result, micro_batches):
    """A clue: whether the change or the loss is wrong."""
    if same(result["change"], moved(accumulated_step.solution, micro_batches)["change"]):
        return "the step is right, but what is returned is not the mean loss over all targets"
    return "the table of logits moves in another way than if all micro-batches came as one batch"


LOSS, COUNT = ', reduction="sum") / n_targets', "sum((y != -100).sum() for _, y in micro_batches)"
BROKEN = """def accumulated_step(model, optimizer, micro_batches):
    losses = []
    for x, y in micro_batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        losses.append(loss.item())
    optimizer.step()
    return sum(losses) / len(losses)"""


@exercise(
    cases=[([ONE],), ([micro([1]), micro([2])],), ([FULL, SHORT],), ([LONG, PADDED],), ([SHORT, WIDE, FULL],)],
    pairs=True,
    mistakes={
        LOSS: {
            ") / len(micro_batches)": "a mean of means: a target counts more in a micro-batch with few of them",
            ")": "the means of the micro-batches are added: divide by the number of all targets",
            ', reduction="sum")': "the losses are added up and never divided",
            ', reduction="sum") / len(micro_batches)': "the sum is divided by the number of micro-batches: divide by "
            "that of all targets",
            ") * y.numel() / sum(y.numel() for _, y in micro_batches)": "the means are weighted by the sizes of the "
            "micro-batches, padding included: count targets",
            ") / n_targets": "the mean of each micro-batch is divided again: divide its sum, `reduction='sum'`",
            ', reduction="sum") / y.numel() / len(micro_batches)': "each micro-batch is divided by its own size, "
            "padding included, and the means are averaged: divide by the number of all targets",
        },
        COUNT: {
            "sum(y.numel() for _, y in micro_batches)": "padding is counted too, and it has no loss",
            "sum(len(y) for _, y in micro_batches)": "rows are counted, and not targets",
            "(micro_batches[-1][1] != -100).sum()": "only the targets of the last micro-batch are counted",
            "(micro_batches[0][1] != -100).sum()": "only the targets of the first micro-batch are counted",
        },
        "optimizer.zero_grad()": {"pass": "the gradients from before are still there: `zero_grad` is missing"},
        "loss = F.cross": {
            "optimizer.zero_grad(); loss = F.cross": "the gradients are cleared for each micro-batch: only the last "
            "one counts",
        },
        "loss.backward()": {
            "loss.backward(); optimizer.step()": "the optimizer steps after each micro-batch, and once more at the end",
            "loss.backward(); optimizer.step(); optimizer.zero_grad()": "each micro-batch makes a step of its own: "
            "their gradients belong to one step",
        },
        "return total": {
            "return loss.item()": "what is returned is the share of the last micro-batch alone",
            "return total / len(micro_batches)": "the returned loss is divided again, by the number of micro-batches",
            "return total * n_targets.item()": "what is returned is the sum of the losses: return their mean",
        },
        "": {BROKEN: "this is the step that is to be repaired"},
    },
    call=moved,
    clues=[which],
    said="every target counts once, padding does not count, and all micro-batches make one step.",
)
def accumulated_step(model, optimizer, micro_batches):
    n_targets = sum((y != -100).sum() for _, y in micro_batches)
    optimizer.zero_grad()
    total = 0.0
    for x, y in micro_batches:
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") / n_targets
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def part(scores, values):
    """The maximum, the sum of exponentials and the weighted sum of values of scores (T, S) and values (S, D)."""
    m = scores.amax(dim=-1, keepdim=True)
    exponentials = (scores - m.clamp(min=-1e30)).exp()
    return m, exponentials.sum(dim=-1, keepdim=True), exponentials @ values


def parts(seed, T, S, D, at, factor=1.0):
    scores, values = tensors(seed, (T, S), (S, D))
    return *part(factor * scores[:, :at], values[:at]), *part(factor * scores[:, at:], values[at:])


LOGS = torch.tensor([[1.0, 2.0, 4.0, 1.0]]).log()
FIRST = (*part(LOGS[:, :2], torch.tensor([[8.0], [4.0]])), *part(LOGS[:, 2:], torch.tensor([[2.0], [0.0]])))
MASKED = torch.tensor([[-torch.inf], [1.0]]), torch.tensor([[0.0], [1.5]]), torch.tensor([[0.0, 0.0], [3.0, -1.0]])


def swapped(m, total, weighted):
    return m, weighted, total


def output(m, total, weighted):
    return weighted / total


@exercise(
    cases=[
        *[FIRST, (*FIRST[3:], *FIRST[:3]), parts(1, 3, 5, 2, 2), parts(2, 4, 6, 3, 4), parts(3, 2, 4, 2, 1, 60.0)],
        (*MASKED, *parts(4, 2, 4, 2, 2)[:3]),
    ],
    mistakes={
        "torch.maximum(m1, m2)": {
            "m1": "the maximum of the first part is kept, even where that of the second is larger",
            "m2": "the maximum of the second part is kept, even where that of the first is larger",
            "torch.minimum(m1, m2)": "the smaller maximum is kept, so exponentials can overflow: take the larger one",
            "torch.maximum(m1, m2).max().expand(m1.shape)": "all rows share one maximum: each row has its own",
            "m1 + m2": "the maxima are added: the maximum over all keys is the larger of the two",
            "(m1 + m2) / 2": "the maxima are averaged: the maximum over all keys is the larger of the two",
            "m1.exp().add(m2.exp()).log()": "this adds the exponentials of the maxima: take the larger of the two",
        },
        "(m1 - m).exp(), (m2 - m).exp()": {
            "torch.ones_like(m), torch.ones_like(m)": "nothing is rescaled: each part's sums are relative to its own "
            "maximum",
            "(m1 - m).exp(), torch.ones_like(m)": "the second part is never rescaled: its maximum may be smaller",
            "torch.ones_like(m), (m2 - m).exp()": "the first part is never rescaled: its maximum may be smaller",
            "(m - m1).exp(), (m - m2).exp()": "the factors are inverted: a part with a smaller maximum is scaled down",
            "(m1 - m2).exp(), torch.ones_like(m)": "this is right only where the second maximum is the larger one",
            "torch.ones_like(m), (m2 - m1).exp()": "this is right only where the first maximum is the larger one",
            "(m2 - m).exp(), (m1 - m).exp()": "each part is rescaled with the maximum of the other",
            "(m1 - m), (m2 - m)": "the differences are not exponentiated",
            "m1.exp(), m2.exp()": "rescaled to a maximum of 0, and the maximum returned is another",
            "(m1.exp() / m.exp()), (m2.exp() / m.exp())": "exponentials of large scores overflow: subtract first",
        },
        "f1 * total1 + f2 * total2": {
            "total1 + total2": "the sums of exponentials are not rescaled, only the values",
            "torch.maximum(f1 * total1, f2 * total2)": "once both sums are rescaled, they are added",
        },
        "f1 * weighted1 + f2 * weighted2": {
            "weighted1 + weighted2": "the weighted sums are not rescaled, only the sums of exponentials",
            "(f1 * weighted1 + f2 * weighted2) / (f1 * total1 + f2 * total2)": "this is the output, already divided: a "
            "further part could not be merged",
            "f1 * total1 * weighted1 + f2 * total2 * weighted2": "the weighted sums are not divided yet, so they are "
            "not multiplied by the sums of exponentials",
            "(weighted1 / total1 + weighted2 / total2) / 2": "the outputs of the parts are averaged: rescale and add "
            "the weighted sums",
        },
        "": {
            "swapped(*right(m1, total1, weighted1, m2, total2, weighted2))": "the sum of exponentials comes before "
            "the weighted sum",
            "output(*right(m1, total1, weighted1, m2, total2, weighted2))": "this is the output alone: the merged "
            "maximum and both sums are expected",
        },
    },
    said="both parts are rescaled to the larger maximum, row by row, and can be merged with a further part.",
)
def merge(m1, total1, weighted1, m2, total2, weighted2):
    m = torch.maximum(m1, m2)
    f1, f2 = (m1 - m).exp(), (m2 - m).exp()
    return m, f1 * total1 + f2 * total2, f1 * weighted1 + f2 * weighted2


HEAD = """def simulate_ddp(micro, sync):
    p, M, N = micro.shape
    gradient, sent, each = torch.zeros(p, N), 0, 2 * (p - 1) / p * 4 * N
"""
NEW_ONLY = f"""{HEAD}    for m in range(M):
        new = micro[:, m] / M
        gradient = gradient + (new.mean(dim=0) if sync[m] else new)
        sent += each if sync[m] else 0
    return gradient, sent"""
AT_THE_END = f"""{HEAD}    gradient = micro.mean(dim=1)
    if any(sync):
        gradient = gradient.mean(dim=0).expand(p, N)
    return gradient, sent + sum(sync) * each"""
SYNCED_ONLY = f"""{HEAD}    for m in range(M):
        if sync[m]:
            gradient = gradient + micro[:, m].mean(dim=0) / M
            sent += each
    return gradient, sent"""
KINDS = {
    "a": "right in every process, but it sends four times as many bytes as necessary",
    "c": "it sends as few bytes, but the last three micro-batches are not averaged: the processes differ",
}


@exercise(
    cases=[
        (torch.tensor([[[4.0], [8.0]], [[2.0], [6.0]]]), [False, True]),
        *[(tensors(1, (2, 3, 4))[0], [m in sync for m in range(3)]) for sync in ({2}, {0}, {0, 1, 2})],
        (tensors(2, (4, 2, 3))[0], [True, False]),
        (tensors(3, (3, 4, 6))[0], [False, True, False, False]),
        (tensors(4, (1, 2, 5))[0], [True, True]),
        (tensors(5, (3, 2, 2))[0], [False, False]),
    ],
    mistakes={
        "gradient + micro[:, m] / M": {
            "gradient + micro[:, m]": "no micro-batch is divided by M, so the gradient is M times too large",
            "gradient + micro[:, m] / p": "divided by the number of processes: each micro-batch is 1/M of its process",
            "gradient + micro[:, m] / (p * M)": "divided by the processes here, and again by the mean over them",
            "gradient + micro[:, m] / max(1, sum(sync))": "divided by the number of all-reduces, not of micro-batches",
            "micro[:, m] / M": "each micro-batch replaces the gradients before it: add them, as `backward` does",
        },
        "if sync[m]:": {
            "if True:": "it averages after every micro-batch, whatever `sync` says",
            "if m == M - 1:": "it averages after the last micro-batch only, whatever `sync` says",
            "if not sync[m]:": "it averages where `sync` is False",
            "if sync[m] and m == M - 1:": "it averages after no micro-batch but the last",
        },
        "gradient.mean(dim=0)": {
            "gradient.sum(dim=0)": "this is the sum over the processes, p times too large: DDP takes the mean",
            "(micro[:, m] / M).mean(dim=0)": "what had been added up before the all-reduce is lost",
            "gradient.mean()": "the mean runs over the parameters too: take it over the processes, dim=0",
            "gradient[0]": "every process gets the gradient of process 0: take the mean over the processes",
        },
        "2 * (p - 1) / p * 4 * N": {
            "2 * (p - 1) / p * N": "these are numbers, not bytes: a gradient takes 4",
            "2 * (p - 1) / p * 8 * N": "a number in float32 has 4 bytes",
            "2 * (p - 1) * 4 * N": "this is what all processes send together: a chunk has N / p numbers",
            "(p - 1) / p * 4 * N": "half of the bytes are missing: the all-gather sends as much as the reduce-scatter",
            "(p - 1) * 4 * N": "the whole vector to every other process: a ring sends 2 (p - 1) / p of it",
            "4 * N": "the whole vector once, which is right for two processes only",
            "2 * 4 * N": "this is what the formula approaches for many processes",
            "2 * (p - 1) / p * 4 * N * M": "one all-reduce sends one gradient, not M of them",
        },
        "            sent +=": {
            "        sent +=": "bytes are counted for every micro-batch: only an all-reduce sends any",
            "            sent =": "the bytes of the last all-reduce only: add them up",
        },
        "return gradient, sent": {
            "return gradient[0], sent": "the gradient of one process: return those of all, (p, N)",
            "return sent, gradient": "gradient and bytes are exchanged: the gradients come first",
            "return gradient": "the bytes are missing: return the gradients and the bytes",
        },
        "": {
            NEW_ONLY: "it averages the new gradient alone: DDP averages all that has been added up in `.grad`",
            AT_THE_END: "it averages at the end: what is added after an all-reduce is not averaged",
            SYNCED_ONLY: "micro-batches without an all-reduce are left out: they are added to `.grad` all the same",
        },
    },
    value=prediction({"fewest": "b"}, {"fewest": KINDS}, "", clue=lambda _: "enter one of the three letters"),
    said="what is added after an all-reduce stays in its process, and the bytes count the all-reduces.",
)
def simulate_ddp(micro, sync):
    p, M, N = micro.shape
    gradient, sent = torch.zeros(p, N), 0
    for m in range(M):
        gradient = gradient + micro[:, m] / M
        if sync[m]:
            gradient = gradient.mean(dim=0).expand(p, N)
            sent += 2 * (p - 1) / p * 4 * N
    return gradient, sent


TIMES = {
    0.4: "nothing is repeated in this run, and the trained loss is close to the prediction: compare the others",
    4.1: "four passes over a text are still as good as new text here: compare the two losses again",
}


@exercise(
    cases=[(3.0, 2.5, 2.25), (4.0, 3.0, 2.2), (2.6, 2.36, 2.17), (5.0, 3.0, 2.0), (2.5, 2.4, 2.35)],
    mistakes={
        "(third - second) / (second - first)": {
            "(second - first) / (third - second)": "the ratio is inverted: the second fall over the first",
            "1": "the loss is continued with the same fall: each fall is smaller than the one before",
            "0.5": "the fall is always halved: that is right for the example, and the ratio comes from the losses",
            "(third - first) / (second - first)": "the second fall is from `second` to `third`",
            "((third - second) / (second - first)) ** 2": "this is the fall after the next one: the ratio counts once",
        },
        "third + (third - second) * ratio": {
            "third - (third - second) * ratio": "the loss rises: what is added is negative, as both falls are",
            "third * ratio": "the losses themselves have no fixed ratio: their falls have",
            "third * third / second": "this is the ratio of two losses, as if E were 0: take that of two falls",
            "(third - second) * ratio": "this is the fall and not yet the loss: add it to the third loss",
            "second + (third - second) * ratio": "the next fall starts at `third`",
            "third + ratio": "the ratio is added: it multiplies the last fall",
            "third + (third - second) * ratio / (1 - ratio)": "this is E, the loss after endlessly many doublings",
        },
    },
    value=prediction({"fails": 41}, {"fails": TIMES}, "", clue=lambda n: "enter one of the three: 0.4, 4.1 or 41"),
    said="each fall is the one before times a fixed ratio; and 41 passes over a short text break the law.",
)
def next_loss(first, second, third):
    ratio = (third - second) / (second - first)
    return third + (third - second) * ratio
