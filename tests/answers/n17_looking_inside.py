"""Answers to the exercises of notebook 17 in other styles, and wrong ones that must be told apart."""

import numpy as np
import torch
from torch.nn import functional as F

import gptlib

from . import Several


def by_einsum(heads, weight, direction):
    slices = weight.unflatten(1, (heads.shape[0], -1))  # (C, H, D)
    return torch.einsum("htd, chd, c -> ht", heads, slices, direction)


def others_silenced(heads, weight, direction):
    """The layer's own projection, with the outputs of all other heads set to 0."""
    rows = []
    for h in range(heads.shape[0]):
        alone = torch.zeros_like(heads)
        alone[h] = heads[h]
        rows.append(F.linear(alone.transpose(0, 1).flatten(1), weight) @ direction)
    return torch.stack(rows)


def direction_first(heads, weight, direction):
    back = (direction @ weight).view(heads.shape[0], 1, heads.shape[2])  # what each channel of each head adds
    return (heads * back).sum(dim=-1)


def in_loops(heads, weight, direction):
    H, T, D = heads.shape
    terms = torch.zeros(H, T)
    for h in range(H):
        for t in range(T):
            for d in range(D):
                terms[h, t] += heads[h, t, d] * (weight[:, h * D + d] * direction).sum()
    return terms


def by_split_heads(qkv, n_head, head):
    return gptlib.split_heads(qkv.chunk(3, dim=-1)[2], n_head)[:, head]


def by_unflatten(qkv, n_head, head):
    return qkv.unflatten(-1, (3, n_head, -1))[:, :, 2, head]


def by_attention(qkv, n_head, head):
    values = gptlib.split_heads(qkv.chunk(3, dim=-1)[2], n_head)[:, head]
    return torch.eye(values.shape[1]) @ values  # the map of a head that attends only to itself


def centered(stream, final, new):
    mean, target = stream.mean(dim=0), final.mean(dim=0)
    return (new - mean) @ torch.linalg.lstsq(stream - mean, final - target).solution + target


def by_pseudo_inverse(stream, final, new):
    return F.pad(new, (0, 1), value=1.0) @ (torch.linalg.pinv(F.pad(stream, (0, 1), value=1.0)) @ final)


def with_numpy(stream, final, new):
    one, other = (np.column_stack([np.ones(len(part)), part.numpy()]) for part in (stream, new))
    return other @ np.linalg.lstsq(one, final.numpy(), rcond=None)[0]


def by_variance(x):
    """What is lost of feature 1 is its variance; of two features, sharing loses the smaller one twice."""
    return x[:, 1].var(correction=0), 2 * x.amin(dim=1).square().mean()


def example_by_example(x):
    constant, losses = sum(x[:, 1].tolist()) / len(x), [0.0, 0.0]
    for first, second in x.tolist():
        h = first - second
        losses[0] += (second - constant) ** 2 / len(x)
        losses[1] += ((max(h, 0) - first) ** 2 + (max(-h, 0) - second) ** 2) / len(x)
    return losses


def as_a_matrix(x):
    w = torch.tensor([[1.0, -1.0]])
    rebuilt = torch.relu(x @ w.T @ w)  # the toy model of the page, with one dimension and no bias
    kept = torch.stack([x[:, 0], x[:, 1].mean().expand(len(x))], dim=1)
    return tuple(((y - x) ** 2).sum(dim=1).mean() for y in (kept, rebuilt))


def in_numpy(x):
    x = x.numpy()
    h = x[:, 0] - x[:, 1]
    both = np.square(np.maximum(h, 0) - x[:, 0]) + np.square(np.maximum(-h, 0) - x[:, 1])
    return float(np.var(x[:, 1])), float(both.mean())


# for tests/answers/n17_looking_inside.py


def by_cross_covariance(x, labels, others):
    """LEACE's formula with one-hot labels and a pseudo-inverse, in float64."""
    mean, z = x.double().mean(0), F.one_hot(labels).double()
    centered = x.double() - mean
    cross = centered.T @ (z - z.mean(0)) / len(x)  # (C, K)
    inverse = torch.linalg.inv(torch.cov(x.double().T, correction=0))
    erase = cross @ torch.linalg.pinv(cross.T @ inverse @ cross, rtol=1e-8) @ cross.T @ inverse
    return (others - (others - mean) @ erase.T).float()


def by_regression(x, labels, others):
    """The probe is fitted by least squares, and the directions lead from the mean of all to those of the labels."""
    inputs = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    w = torch.linalg.lstsq(inputs, F.one_hot(labels).float()[:, 1:]).solution[:-1]  # (C, K - 1)
    d = torch.stack([x[labels == k].mean(0) - x.mean(0) for k in labels.unique().tolist()[1:]])
    readings = (others - x.mean(0)) @ w
    return others - torch.linalg.solve((d @ w).T, readings.T).T @ d


def whitened(x, labels, others):
    """White vectors have the identity as covariance: there, the directions are projected out."""
    x, others = x.numpy().astype(np.float64), others.numpy().astype(np.float64)
    mean = x.mean(axis=0)
    root = np.linalg.cholesky(np.cov(x.T, bias=True))
    white, rest = (np.linalg.solve(root, (v - mean).T).T for v in (x, others))
    means = np.stack([white[labels.numpy() == k].mean(axis=0) for k in range(labels.max() + 1)])
    _, sizes, basis = np.linalg.svd(means, full_matrices=False)
    basis = basis[sizes > 1e-9]
    return torch.tensor((rest - rest @ basis.T @ basis) @ root.T + mean, dtype=torch.float32)


def all_means(x, labels, others):
    """A mistake: K directions, which depend on each other."""
    centered = x - x.mean(0)
    d = torch.stack([centered[labels == k].mean(0) for k in labels.unique()])
    w = torch.linalg.solve(centered.T @ centered, d.T)
    return others - (others - x.mean(0)) @ w @ torch.linalg.inv(d @ w) @ d


RIGHT = {
    "head_terms": [by_einsum, others_silenced, direction_first, in_loops],
    "own_values": [Several([by_split_heads, "c"]), Several([by_unflatten, "C"]), Several([by_attention, "(c)"])],
    "affine_lens": [Several([centered, 1]), Several([by_pseudo_inverse, 1.0]), Several([with_numpy, torch.tensor(1)])],
    "two_losses": [
        Several([by_variance, 0.5]),
        Several([example_by_example, 1 / 2]),
        Several([as_a_matrix, torch.tensor(0.5)]),
        Several([in_numpy, np.float64(0.5)]),
        Several([lambda x: torch.stack(as_a_matrix(x)), 0.5]),
    ],
    "unknown_model": [
        {"ahead": 2, "necessary": 3, "distance": 2, "decoy": 0},
        {"ahead": torch.tensor(2), "necessary": torch.tensor(3), "distance": 2.0, "decoy": 0},
    ],
    "erase": [
        Several([by_cross_covariance, "b"]),
        Several([by_regression, "(b)"]),
        Several([whitened, "B"]),
    ],
}
WRONG = {
    "head_terms": {
        "a slice of the rows": lambda heads, weight, direction: by_einsum(heads, weight.mT, direction),
        "the heads come first": lambda *inputs: by_einsum(*inputs).mT,
        "one row per head": lambda *inputs: by_einsum(*inputs).sum(dim=0),
        "the projection is left out": lambda heads, weight, direction: (heads * direction.view(len(heads), 1, -1)).sum(
            dim=2
        ),
        "keep the sign": lambda *inputs: direction_first(*inputs).abs(),
    },
    "own_values": {
        "hardly changes": Several([by_unflatten, "a"]),
        "not near one half": Several([by_unflatten, "b"]),
        "all queries come first": lambda qkv, n_head, head: qkv.unflatten(-1, (n_head, 3, -1))[:, :, head, 2],
        "these are the keys": lambda qkv, n_head, head: qkv.unflatten(-1, (3, n_head, -1))[:, :, 1, head],
    },
    "affine_lens": {
        "the map has no bias": lambda stream, final, new: new @ (torch.linalg.pinv(stream) @ final),
        "mean of `final` is subtracted before the fit": lambda *inputs: centered(*inputs) - inputs[1].mean(dim=0),
        "still above": Several([centered, 0]),
        "that is right for the logit lens": Several([centered, 2]),
    },
    "two_losses": {
        "0.4: sharing has": Several([by_variance, 0.4]),
        "divided by N - 1": lambda x: (x[:, 1].var() if len(x) > 1 else torch.nan, by_variance(x)[1]),
        "about equal": Several([by_variance, 0.57]),
    },
    "erase": {
        "take K - 1 differences": Several([all_means, "b"]),
        "clearly lower": Several([by_cross_covariance, "c"]),
        "far above that of always": Several([whitened, "a"]),
    },
}
