"""Answers to the exercises of notebook 05."""

import torch
from torch.nn import functional as F

SHAPES = {"packed": (5, 10, 72), "queries": (5, 3, 10, 8), "weights": (5, 3, 10, 10), "merged": (5, 10, 24)}
HABITS = {"one back": 3, "first position": 2, "same letter": 1, "last space": 5, "on any text": [0, 2, 3, 4]}


def concatenated(x):
    return torch.cat(x.unbind(-3), dim=-1)


def moved_and_copied(x):
    x = x.movedim(-3, -2).contiguous()
    return x.view(*x.shape[:-2], -1)


def four_axes_only(x):
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


def split(x, H):
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def fused(q, k, v, n_head):
    mixed = F.scaled_dot_product_attention(*(split(part, n_head) for part in (q, k, v)), is_causal=True)
    return mixed.transpose(1, 2).reshape(q.shape)


def summed(q, k, v, n_head):
    B, T, C = q.shape
    q, k, v = (part.reshape(B, T, n_head, -1) for part in (q, k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * (C // n_head) ** -0.5
    scores = scores + torch.full((T, T), -torch.inf).triu(1)
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(2)


def position_by_position(q, k, v, n_head):
    out, D = torch.zeros_like(q).double().numpy(), q.shape[-1] // n_head
    for b, t, h in ((b, t, h) for b in range(len(q)) for t in range(q.shape[1]) for h in range(n_head)):
        own = slice(h * D, h * D + D)
        out[b, t, own] = (k[b, : t + 1, own] @ q[b, t, own] / D**0.5).softmax(0) @ v[b, : t + 1, own]
    return out


def ablated(x, w_qkv, w_out, n_head):
    """Each head alone: the others' columns of the projection are set to 0."""
    gathered, head = fused(*F.linear(x, w_qkv).chunk(3, -1), n_head), torch.arange(len(w_out)) * n_head // len(w_out)
    return torch.stack([gathered @ (w_out * (head == h)).T for h in range(n_head)], dim=1)


def in_one_sum(x, w_qkv, w_out, n_head):
    q, k, v = (split(part, n_head) for part in (x @ w_qkv.T).split(x.shape[-1], dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.einsum("bhtd,chd->bhtc", mixed, w_out.reshape(len(w_out), n_head, -1))


RIGHT = {
    "stages": [SHAPES, {name: list(sizes) for name, sizes in SHAPES.items()}],
    "merged_heads": [concatenated, moved_and_copied],
    "habits": [HABITS, {**HABITS, "on any text": {4, 3, 2, 0}}, {**HABITS, "one back": torch.tensor(3)}],
    "repaired_heads": [fused, summed, position_by_position],
    "contributions": [ablated, in_one_sum, lambda x, *more: in_one_sum(x.requires_grad_(), *more)],
    "without_projection": [{"no skip": 2.227, "skip": 2.168}],
}


def evenly(x, w_qkv, w_out, n_head):
    parts = ablated(x, w_qkv, w_out, n_head)
    return parts.sum(1, keepdim=True) * torch.arange(1.0, n_head + 1)[:, None, None] / sum(range(n_head + 1))


WRONG = {
    "stages": {"(10, 5, 24) holds the right sizes in the wrong order": {**SHAPES, "merged": (10, 5, 24)}},
    "habits": {
        "head 1 looks for certain letters": {**HABITS, "on any text": [0, 1, 2, 3, 4]},
        "a head is missing": {**HABITS, "on any text": (2, 3, 4)},
        "numbered from 0 to 5": {**HABITS, "last space": 6},
    },
    "merged_heads": {
        "`view` refuses after `transpose`": lambda x: x.transpose(1, 2).view(x.shape[0], x.shape[2], -1),
        "an axis of size 1 is lost": lambda x: concatenated(x).squeeze(0),
        "a row holds numbers of other positions": lambda x: concatenated(x).flip(1),
        "windows are mixed": lambda x: concatenated(x).flip(0),
        "do not come one after another": lambda x: concatenated(x).roll(1, -1),
        "count axes from the end: it stops with ValueError": four_axes_only,
    },
    "repaired_heads": {
        "the last channels are not used; and scaled by C, not": {
            "slice(h * D, (h + 1) * D)": "slice(h, h + D)",
            "q[..., own], k": "q[..., own] / n_head**0.5, k",
        },
        "when channel 0 of v changes, channels [0, 1] of": lambda q, k, v, n_head: fused(q, k, v.cumsum(-1), n_head),
        "when channel 0 of q changes, channels [0, 1] of": lambda q, *more: fused(q + q.sum(-1, keepdim=True), *more),
        "row 0 of the result must be row 0 of v": lambda q, k, v, n_head: fused(q, k, v.tanh(), n_head),
    },
    "contributions": {
        "a head has D channels, not C": lambda x, w_qkv, w_out, n_head: x @ w_qkv,
        "two stacks of matrices do not fit": {"columns.mT": "columns"},
        "which columns are its own?": evenly,
    },
}
