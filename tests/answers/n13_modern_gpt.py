"""Answers to the exercises of notebook 13."""

import numpy as np
import torch
from torch.nn import functional as F

from . import Several


def one_by_one(memory, n_layer, n_kv_head, head_size, bytes_per_number):
    keys = n_layer * n_kv_head * head_size * bytes_per_number
    return int(memory / (keys + keys))


def by_index(q, k, v):
    shared = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    return F.scaled_dot_product_attention(q, k[:, shared], v[:, shared])


def by_group(q, k, v):
    q = q.unflatten(1, (k.shape[1], -1))  # (B, G, n, T, D)
    scores = torch.einsum("bgntd,bgsd->bgnts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bgnts,bgsd->bgntd", scores.softmax(-1), v).flatten(1, 2)


def by_row(weights, bits):
    codes, scales = torch.zeros(weights.shape, dtype=torch.long), []
    for row, group in zip(codes, weights):
        scales.append([max(map(abs, group.tolist())) / (2 ** (bits - 1) - 1)])
        if scales[-1][0]:
            row[:] = torch.round(group / scales[-1][0])
    return codes, torch.tensor(scales)


def in_numpy(weights, bits):
    scale = np.abs(weights.numpy()).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.rint(np.divide(weights.numpy(), scale, where=scale > 0, out=np.zeros(weights.shape))).astype(int), scale


def from_the_end(messages, limit):
    kept, left, turn = [], limit - messages[0][1], []
    for message in messages[:0:-1]:
        turn.insert(0, message)
        left -= message[1]
        if left < 0:
            break
        if message[0] == "user":
            kept, turn = turn + kept, []
    return messages[:1] + kept


def by_dropping(messages, limit):
    messages = list(messages)
    while len(messages) > 1 and (messages[1][0] != "user" or sum(n for _, n in messages) > limit):
        del messages[1]
    return tuple(messages)


def by_svd(x, steps):
    u, s, vh = torch.linalg.svd(x / x.square().sum().sqrt(), full_matrices=False)
    for _ in range(steps):
        s = s * (3 - s**2) / 2
    return u @ torch.diag(s) @ vh


def factored(x, steps):
    x = x / torch.linalg.norm(x)
    for _ in range(steps):
        x = x @ (3 * torch.eye(x.shape[1]) - x.mT @ x) / 2
    return x


RIGHT = {
    "positions_that_fit": [one_by_one, lambda *sizes: torch.tensor(one_by_one(*sizes))],
    "grouped_attention": [by_index, by_group],
    "quantize_symmetric": [by_row, in_numpy],
    "kept_messages": [from_the_end, by_dropping],
    "newton_schulz": [Several([by_svd, 5]), Several([factored, 5.0])],
}
WRONG = {
    "positions_that_fit": {
        "every result is 2 times": lambda *sizes: 2 * one_by_one(*sizes),
        "it is a float": lambda *sizes: float(one_by_one(*sizes)),
    },
    "grouped_attention": {
        "query head 0 uses key and value head 1": lambda q, k, v: by_index(q, k.flip(1), v.flip(1)),
        "as many heads as q": lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v,
        "without `dim` makes one row": {"k.repeat_interleave(n, dim=1)": "k.repeat_interleave(n)"},
    },
    "quantize_symmetric": {
        "an axis of size 1 is lost": {"keepdim=True": "keepdim=False"},
        "integers (int64) are expected": {".to(torch.int8)": ""},
        "a group of zeros are not 0": {"scale.clamp(min=1e-12)).round()": "scale).nan_to_num(1).round()"},
        "scale of a group of zeros is not 0": {"return codes, scale": "return codes, scale + (scale == 0)"},
        "with 8 bits": {".round()": ".round().clamp(-100, 100)"},
    },
    "kept_messages": {"the result is empty": lambda messages, limit: []},
    "newton_schulz": {
        "what 1 step would give": Several([lambda x, steps: by_svd(x, min(steps, 1)) if steps else None, 5]),
        "the order is x @ x.mT @ x": Several([lambda x, steps: by_svd(x, steps) + 0 * x @ x, 5]),
        "its loss is the highest": Several([by_svd, 0]),
        "enter one of the four": Several([by_svd, 3]),
        "they differ by more than 0.15": Several([by_svd, 2]),
        "fewer steps come within": Several([factored, 10]),
    },
}
