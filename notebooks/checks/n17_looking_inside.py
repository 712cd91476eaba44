"""The exercises of notebook 17."""

import torch

from .compare import tensors
from .exercise import exercise, prediction

ONE_LETTER = torch.tensor([[[2.0]], [[3.0]]]), torch.tensor([[1.0, 0.0], [4.0, 1.0]]), torch.tensor([1.0, 10.0])


@exercise(
    cases=[
        ONE_LETTER,
        tensors(1, (2, 1, 2), (4, 4), (4,)),
        tensors(2, (3, 4, 2), (6, 6), (6,)),
        tensors(3, (1, 3, 5), (5, 5), (5,)),
        tensors(4, (4, 4, 1), (4, 4), (4,)),
    ],
    mistakes={
        "weight[:, h * D : (h + 1) * D].mT": {
            "weight[h * D : (h + 1) * D]": "a slice of the rows is taken: `nn.Linear` multiplies by the transposed "
            "weight, so the channels of a head meet columns",
            "weight[:, h :: len(heads)].mT": "the columns of a head are next to each other: the first D belong to head "
            "0, the next D to head 1",
            "weight[:, h : h + D].mT": "the columns begin at h: those of head 1 begin after the D columns of head 0",
            "weight[:, :D].mT": "every head is multiplied by the columns of head 0",
            "weight[:, (len(heads) - 1 - h) * D : (len(heads) - h) * D].mT": "the columns are in the reverse order of "
            "heads",
        },
        "@ direction": {
            "@ (direction - direction.mean())": "the mean of the direction is subtracted: the direction is given with "
            "everything that the norm does",
            "@ direction.sign()": "only the signs of the direction are used",
            "@ direction / len(direction)": "the products are averaged: a dot product is their sum",
            "@ (direction / direction.norm())": "the direction is normalized: its length counts",
        },
        "heads[h] @ weight[:, h * D : (h + 1) * D].mT @ direction": {
            "heads[h] @ direction[h * D : (h + 1) * D]": "the projection is left out: the channels of the direction "
            "are those of the residual stream, and not those of a head",
        },
        "torch.stack(terms)": {
            "torch.stack(terms).mT": "the dimensions are exchanged: the heads come first, then the positions",
            "torch.stack(terms).sum(dim=0)": "the heads are added: return one row per head",
            "torch.stack(terms).sum(dim=1)": "the positions are added: return one column per position",
            "torch.stack(terms)[:, -1]": "this is the last position alone: return all of them",
            "torch.stack(terms).abs()": "a head may also lower the logit: keep the sign",
            "torch.stack(terms) - torch.stack(terms).mean(dim=0)": "the mean over the heads is subtracted",
        },
        "D = heads.shape[-1]": {
            "D = heads.shape[1]": "D is taken from dimension 1, which is T: the channels of a head are the last one",
        },
    },
    said="each head through its own columns, one row per head and one column per position.",
)
def head_terms(heads, weight, direction):
    D = heads.shape[-1]
    terms = [heads[h] @ weight[:, h * D : (h + 1) * D].mT @ direction for h in range(len(heads))]
    return torch.stack(terms)  # (H, T)


QKV = torch.arange(24.0).view(1, 2, 12)  # two positions, C = 4
VERDICTS = {
    "a": "compare the two numbers of L0H3 again: with its own values alone the loss hardly changes",
    "b": "compare the two numbers of L0H3 again: the first is not near one half of the second",
}


@exercise(
    cases=[
        (QKV, 2, 1),
        (QKV, 2, 0),
        (QKV, 1, 0),
        (*tensors(0, (2, 3, 18)), 3, 2),
        (*tensors(1, (1, 5, 36)), 2, 1),
        (*tensors(2, (3, 2, 24)), 4, 1),
    ],
    mistakes={
        "[2]": {
            "[1]": "these are the keys: the head returns an average of values, the last third of the channels",
            "[0]": "these are the queries: the values are the last third of the channels",
        },
        "values = qkv.chunk(3, dim=-1)[2]": {
            "values = qkv": "the values are only the last third of the channels",
            "values = qkv.chunk(3, dim=-1)[2].cumsum(dim=1)": "values of earlier positions are added: each position "
            "returns its own value alone",
            "values = qkv.chunk(3, dim=-1)[2].flip(1)": "the positions are in the reverse order",
            "values = qkv.unflatten(-1, (n_head, 3, -1))[..., 2, :].flatten(-2)": "each head's queries, keys and "
            "values are taken to lie next to each other: all queries come first, then all keys, then all values",
        },
        "values.shape[-1] // n_head": {
            "qkv.shape[-1] // n_head": "D is a share of all 3 C channels: a head has C / n_head of them",
        },
        "values[..., head * D : (head + 1) * D]": {
            "values[..., head::n_head]": "a head's channels are next to each other: head 0 has the first D, head 1 the "
            "next D",
            "values[..., : (head + 1) * D]": "the channels of the heads before are there too: a head has D of them",
            "values[..., :D]": "`head` is not used: these are the channels of head 0",
            "values[..., head : head + D]": "the channels begin at `head`: those of head 1 begin after the D channels "
            "of head 0",
            "values": "these are the values of all heads: return those of one",
        },
    },
    value=prediction({"verdict": "c"}, {"verdict": VERDICTS}, "", clue=lambda _: "enter one of the three letters"),
    said="each position returns its own value, and L0H3 does not need the other positions.",
)
def own_values(qkv, n_head, head):
    values = qkv.chunk(3, dim=-1)[2]  # (B, T, C)
    D = values.shape[-1] // n_head
    return values[..., head * D : (head + 1) * D]


def nearly_affine(seed, N, C, M):
    """Streams of N positions, final streams that are an affine map of them plus noise, and M new streams."""
    stream, A, b, noise, new = tensors(seed, (N, C), (C, C), (C,), (N, C), (M, C))
    return stream + 1, (stream + 1) @ A + b + 0.3 * noise, new


BY_HAND = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[10.0]])


@exercise(
    cases=[BY_HAND, nearly_affine(1, 8, 2, 3), nearly_affine(2, 12, 3, 12), nearly_affine(3, 40, 5, 1)],
    mistakes={
        "": {
            "def affine_lens(stream, final, new):\n    return new @ torch.linalg.lstsq(stream, final).solution": "the "
            "map has no bias: add a column of ones to the streams, and its row of the solution is the bias",
            "def affine_lens(stream, final, new):\n    return new + (final - stream).mean(dim=0)": "this adds the same "
            "vector to every stream: the matrix is missing",
            "def affine_lens(stream, final, new):\n"
            "    a, b = stream - stream.mean(dim=0), final - final.mean(dim=0)\n"
            "    return (new - stream.mean(dim=0)) @ torch.linalg.lstsq(a, b).solution": "the mean of `final` is "
            "subtracted before the fit, and has to be added again at the end",
            "def affine_lens(stream, final, new):\n"
            "    a, b = stream - stream.mean(dim=0), final - final.mean(dim=0)\n"
            "    return new @ torch.linalg.lstsq(a, b).solution + final.mean(dim=0)": "the mean of `stream` is "
            "subtracted before the fit, so it has to be subtracted from `new` too",
            "def affine_lens(stream, final, new):\n"
            "    a, b = stream - stream.mean(dim=0), final - final.mean(dim=0)\n"
            "    return (new - new.mean(dim=0)) @ torch.linalg.lstsq(a, b).solution + final.mean(dim=0)": "the mean of "
            "`new` is subtracted: it has to be the mean of `stream`, with which the map was fitted",
        },
        "ones], dim=1), final)": {
            "ones], dim=1), final - stream)": "the map is fitted to the difference of `final` and `stream`: then `new` "
            "has to be added to what it gives",
        },
        "torch.cat([new, torch.ones(len(new), 1)], dim=1) @ fitted": {
            "torch.cat([stream, ones], dim=1) @ fitted": "the map is applied to the streams that it was fitted to: "
            "apply it to `new`",
            "torch.cat([new, torch.zeros(len(new), 1)], dim=1) @ fitted": "the bias is fitted, but not added to the "
            "result: the column for `new` is of ones too",
            "fitted": "this is the fitted matrix with its bias: apply it to `new`",
            "torch.cat([torch.ones(len(new), 1), new], dim=1) @ fitted": "the column of ones is the last one for "
            "`stream` and the first one for `new`: put it on the same side",
        },
        "len(stream), 1": {"1, len(stream)": "the ones are a row: they have to be a column, one for each position"},
    },
    value=prediction(
        {"layer": 1},
        {
            "layer": {
                0: "after layer 0, the loss is 2.62, still above 2.50",
                2: "that is right for the logit lens; the affine lens gets below 2.50 earlier",
                **dict.fromkeys((3, 4, 5), "after layer 1, the loss is already below 2.50"),
            }
        },
        "",
    ),
    said="the map with the smallest squared error, applied to the new streams; it gets below the bigram after layer 1.",
)
def affine_lens(stream, final, new):
    ones = torch.ones(len(stream), 1)
    fitted = torch.linalg.lstsq(torch.cat([stream, ones], dim=1), final).solution  # (C + 1, C)
    return torch.cat([new, torch.ones(len(new), 1)], dim=1) @ fitted


def pair_of_features(seed, N, p):
    """N examples of two features, each of which is present with probability p."""
    generator = torch.Generator().manual_seed(seed)
    value, threshold = torch.rand(2, N, 2, generator=generator)
    return value * (threshold < p)


def two_numbers(answer, x):
    """A tensor of two numbers counts as two numbers."""
    found = answer(x)
    return tuple(found) if isinstance(found, torch.Tensor) and found.shape == (2,) else found


@exercise(
    cases=[
        (torch.tensor([[0.8, 0.5]]),),
        (torch.tensor([[0.8, 0.0], [0.8, 0.5]]),),
        (torch.tensor([[0.0, 0.5], [0.4, 0.2], [0.3, 0.9], [0.0, 0.0]]),),
        (pair_of_features(0, 12, 0.5),),
        (pair_of_features(1, 30, 1.0),),
        (pair_of_features(2, 50, 0.2),),
    ],
    mistakes={
        "x[:, 1] - x[:, 1].mean()": {
            "x[:, 1]": "the model that keeps one feature reconstructs the other as 0: its mean is the better constant",
            "x[:, 0] - x[:, 0].mean()": "feature 0 is the one that is kept: its error is 0, and feature 1 has one",
            "x[:, 1] - 0.5": "0.5 is the mean of a feature that is always present: take the mean of the examples",
            "x[:, 1] - x.mean()": "this is the mean of both features: take that of feature 1",
            "x[:, 1] - x[:, 1][x[:, 1] > 0].mean()": "this is the mean of the examples in which feature 1 is present: "
            "take that of all",
            "x[:, 1] - x[:, 1].median()": "the constant with the smallest squared error is the mean, not the median",
        },
        "h = x[:, 0] - x[:, 1]": {
            "h = x[:, 0] + x[:, 1]": "the two features are added: their difference is what tells which is present",
            "h = x[:, 1] - x[:, 0]": "the sign of h is reversed: it is positive when feature 0 is the larger one",
        },
        "h.relu() - x[:, 0]": {
            "h - x[:, 0]": "the ReLU is missing in the reconstruction of feature 0",
            "h.abs() - x[:, 0]": "feature 0 is reconstructed as the absolute value of h: for negative h it is 0",
        },
        "(-h).relu() - x[:, 1]": {
            "-h - x[:, 1]": "the ReLU is missing in the reconstruction of feature 1",
            "h.relu() - x[:, 1]": "both features are reconstructed as ReLU(h): feature 1 is ReLU(−h)",
            "-h.relu() - x[:, 1]": "feature 1 is reconstructed as −ReLU(h), which is never positive: take ReLU(−h)",
        },
        " + ((-h).relu() - x[:, 1]) ** 2": {
            "": "the second loss is half of what it should be: add the squared errors of both features",
        },
        "one.mean().item(), both.mean().item()": {
            "both.mean().item(), one.mean().item()": "the two losses are exchanged: keeping one feature comes first",
            "one.sum().item(), both.sum().item()": "the examples are added up: take their mean",
            "one.sum().item() / (len(x) - 1 or float('nan')), both.mean().item()": "the first loss is divided by N - "
            "1, as `var` does unless it is told not to: take the mean",
            "one.mean().item() / 2, both.mean().item() / 2": "the errors of the two features are averaged: add them",
            "one.mean().item() ** 0.5, both.mean().item() ** 0.5": "roots are taken: the loss is the squared error",
        },
    },
    value=prediction(
        {"largest": 0.5},
        {
            "largest": {
                4 / 7: "there the two losses are about equal: enter the largest of the printed probabilities below it",
                0.4: "sharing has the smaller loss at 0.5, too",
                0.6: "at 0.6, keeping one feature has the smaller loss",
                0.1: "sharing has the smaller loss at larger probabilities, too",
                1.0: "at 1, keeping one feature has the smaller loss",
            }
        },
        "",
    ),
    call=two_numbers,
    said="sharing has the smaller loss up to p = 0.5, and the two losses are equal at p = 4/7.",
)
def two_losses(x):
    one = (x[:, 1] - x[:, 1].mean()) ** 2
    h = x[:, 0] - x[:, 1]
    both = (h.relu() - x[:, 0]) ** 2 + ((-h).relu() - x[:, 1]) ** 2
    return one.mean().item(), both.mean().item()


# for notebooks/checks/n17_looking_inside.py

NOT_PREDICTED = (
    "its loss on this letter is above 5 nats: compare the losses for the letters 1, 2, 3 and 4 positions ahead"
)
UNUSED = "without this head, the loss changes by less than 0.1 nats: ablate the heads of layer 0 in turn"
FLAT = "at none of the distances from 1 to 4 does this head have a mean weight above 0.2: look for a weight near 1"

unknown_model = prediction(
    {"ahead": 2, "necessary": 3, "distance": 2, "decoy": 0},
    {
        "ahead": dict.fromkeys((0, 1, 3, 4, 5), NOT_PREDICTED),
        "necessary": {
            0: f"a high weight at a fixed distance is no proof; {UNUSED}",
            1: UNUSED,
            2: UNUSED,
        },
        "distance": {
            0: "no head of layer 0 has a mean weight above 0.2 on the current position",
            1: "a head of layer 0 attends one position back, but it is not the one on which the loss depends",
            3: "no head of layer 0 has a mean weight above 0.2 three positions back",
            4: "no head of layer 0 has a mean weight above 0.2 four positions back",
            14: "that is how far back layer 1 attends in the second block: the question is about layer 0",
        },
        "decoy": {
            1: FLAT,
            2: FLAT,
            3: "without this head, the loss rises by more than 3 nats: that is the necessary one",
        },
    },
    said="the detector finds two heads with a clear name, and only the ablation tells which of them the model uses.",
)


FOUR_VECTORS = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 1.0], [2.0, 3.0]]), torch.tensor([0, 0, 1, 1])


def labeled(seed, K, C, N, M):
    """Vectors (N, C) that depend on their labels (N,), every label at least three times, and M others of that kind."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(K).repeat(3), torch.randint(K, (N - 3 * K,), generator=rng)])
    labels = labels[torch.randperm(N, generator=rng)]
    centers, mix = 2 * torch.randn(K, C, generator=rng) + 1, torch.randn(C, C, generator=rng)
    x = centers[labels] + torch.randn(N, C, generator=rng) @ mix
    others = centers[torch.randint(K, (M,), generator=rng)] + torch.randn(M, C, generator=rng) @ mix
    return x, labels, others


@exercise(
    cases=[
        (*FOUR_VECTORS, FOUR_VECTORS[0]),
        (*FOUR_VECTORS, torch.tensor([[5.0, 0.0]])),
        labeled(1, K=2, C=3, N=12, M=5),
        labeled(2, K=3, C=4, N=30, M=6),
        labeled(3, K=5, C=8, N=80, M=20),
    ],
    mistakes={
        "means[1:] - means[0]": {
            "means[1:]": "the means themselves are used as directions: take their differences from one of them",
            "means[1:2] - means[0]": "only the first difference of means is taken away, and there are K - 1 of them",
        },
        "centered = x - x.mean(dim=0)": {
            "centered = others - others.mean(dim=0)": "S is computed from `others`: what is erased has to come from x "
            "and its labels alone",
            "centered = x": "the mean is not subtracted from x before S is computed",
        },
        "torch.linalg.solve(centered.T @ centered, d.T)": {
            "d.T": "the directions are used as the weights of the probes too: the means are equal afterwards, but more "
            "is taken away than that takes. The weights are the inverse of S times the directions",
            "centered.T @ centered @ d.T": "the directions are multiplied by S: its inverse is what makes "
            "them the weights of probes",
        },
        "(others - x.mean(dim=0)) @ w": {
            "others @ w": "the mean is not subtracted from `others`: every vector is moved by a constant as well",
            "(others - means[0]) @ w": "the mean of label 0 is subtracted from `others`: m is the mean of all of x",
            "(others - means.mean(dim=0)) @ w": "the mean of the means is subtracted from `others`: m is the mean of "
            "all of x, in which some labels are more frequent than others",
            "(others - others.mean(dim=0)) @ w": "the mean of `others` is subtracted: what is erased has to come from "
            "x and its labels alone",
        },
        "@ torch.linalg.inv(d @ w)": {
            "": "the readings are not divided by what the probe reads along the directions: d @ w is missing",
            "@ (d @ w)": "the readings are multiplied by d @ w: divide by it, which for a matrix is its inverse",
            "/ (d @ w).diagonal()": "each reading is divided by its own entry of d @ w: the directions overlap, so "
            "it takes the inverse of the whole matrix",
        },
        "others - amounts @ d": {
            "others + amounts @ d": "the directions are added: take them away",
            "amounts @ d": "this is the part to take away: subtract it from `others`",
            "others - amounts @ w.T": "the weights of the probe are taken away: the probe reads along w, and d is what "
            "differs between the labels",
        },
    },
    errors={
        "singular": "the matrix has no inverse: with one direction for each of the K means they depend on each other, "
        "so take K - 1 differences"
    },
    value=prediction(
        {"later": "b"},
        {
            "later": {
                "a": "look at the last number of the first line: it is far above that of always naming one kind",
                "c": "look at the last two numbers of the first line: the second is clearly lower",
            }
        },
        "",
        clue=lambda _: "enter one of the three letters",
    ),
    said="all labels have equal means afterwards, and two layers later a probe finds some of the label again.",
)
def erase(x, labels, others):
    means = torch.stack([x[labels == k].mean(dim=0) for k in range(int(labels.max()) + 1)])  # (K, C)
    d = means[1:] - means[0]  # (K - 1, C)
    centered = x - x.mean(dim=0)
    w = torch.linalg.solve(centered.T @ centered, d.T)  # (C, K - 1)
    amounts = (others - x.mean(dim=0)) @ w @ torch.linalg.inv(d @ w)  # (M, K - 1)
    return others - amounts @ d
