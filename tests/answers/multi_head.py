"""Answers to the exercises of notebook 05."""

import torch
from torch.nn import functional as F

# ---------------------------------------------------------------- right, in other styles


STAGES = {"strip": (5, 10, 72), "queries": (5, 3, 10, 8), "weights": (5, 3, 10, 10), "merged": (5, 10, 24)}
HABITS = {"one back": 3, "first place": 2, "same letter": 1, "last space": 5, "on any text": [0, 2, 3, 4]}


def put_side_by_side(x):
    return torch.cat(x.unbind(-3), dim=-1)


def moved_and_copied(x):
    x = x.movedim(-3, -2).contiguous()
    return x.view(*x.shape[:-2], -1)


def filled_in(x):
    *front, H, T, D = x.shape
    out = torch.empty(*front, T, H * D)
    for h in range(H):
        out[..., h * D : (h + 1) * D] = x[..., h, :, :]
    return out


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
    out = torch.zeros_like(q)
    D = q.shape[-1] // n_head
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            for h in range(n_head):
                own = slice(h * D, h * D + D)
                weights = (k[b, : t + 1, own] @ q[b, t, own] / D**0.5).softmax(0)
                out[b, t, own] = weights @ v[b, : t + 1, own]
    return out


def ablated(x, w_qkv, w_project, n_head):
    """Each head alone: the others' columns of the projection are set to 0."""
    gathered = fused(*F.linear(x, w_qkv).chunk(3, -1), n_head)
    D = x.shape[-1] // n_head
    parts = []
    for h in range(n_head):
        alone = torch.zeros_like(w_project)
        alone[:, h * D : (h + 1) * D] = w_project[:, h * D : (h + 1) * D]
        parts.append(gathered @ alone.T)
    return torch.stack(parts, dim=1)


def in_one_sum(x, w_qkv, w_project, n_head):
    q, k, v = (split(part, n_head) for part in (x @ w_qkv.T).split(x.shape[-1], dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.einsum("bhtd,chd->bhtc", mixed, w_project.reshape(len(w_project), n_head, -1))


def with_gradients(x, w_qkv, w_project, n_head):
    return in_one_sum(x, w_qkv.clone().requires_grad_(), w_project, n_head)


RIGHT = {
    "stages": [
        STAGES,
        {name: list(sizes) for name, sizes in STAGES.items()},
        {**STAGES, "strip": torch.Size((5, 10, 72))},
    ],
    "merged_heads": [put_side_by_side, moved_and_copied, filled_in],
    "habits": [HABITS, {**HABITS, "on any text": {4, 3, 2, 0}}, {**HABITS, "one back": torch.tensor(3)}],
    "repaired_heads": [fused, summed, position_by_position],
    "contributions": [ablated, in_one_sum, with_gradients],
}

# ---------------------------------------------------------------- wrong


def from_the_page(x):
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


def in_place(x):
    return put_side_by_side(x.mul_(2)) / 2


def heads(q, k, v, n_head, scale=None, own=None, axis=-1, mask=True):
    """A loop with places for mistakes; returns the list of what the heads give."""
    B, T, C = q.shape
    D = C // n_head
    results = []
    for h in range(n_head):
        part = own(h, D) if own else slice(h * D, (h + 1) * D)
        scores = q[..., part] @ k[..., part].mT / (scale(C, D, n_head) if scale else D**0.5)
        if mask:
            scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        results.append(scores.softmax(axis) @ v[..., part])
    return results


def joined(**slips):
    return lambda q, k, v, n_head: torch.cat(heads(q, k, v, n_head, **slips), dim=-1)


def some_masked(q, k, v, n_head, masked):
    results = zip(heads(q, k, v, n_head), heads(q, k, v, n_head, mask=False))
    return torch.cat([tight if masked(h) else loose for h, (tight, loose) in enumerate(results)], dim=-1)


def every_nth(q, k, v, n_head):
    return torch.cat(heads(q, k, v, n_head, own=lambda h, D: slice(h, None, n_head)), dim=-1)


def too_narrow(q, k, v, n_head):
    return torch.cat(heads(q, k, v, n_head, own=lambda h, D: slice(h * n_head, (h + 1) * n_head)), dim=-1)


def beginning_only(q, k, v, n_head):
    return torch.cat(heads(q, k, v, n_head, own=lambda h, D: slice(h * D, h + D)), dim=-1)


def beginning_only_by_c(q, k, v, n_head):
    slips = {"own": lambda h, D: slice(h * D, h + D), "scale": scaled_by_c}
    return torch.cat(heads(q, k, v, n_head, **slips), dim=-1)


def scaled_by_c(C, D, H):
    return C**0.5


def overlapping(h, D):
    return slice(h, h + D)


def reshaped(q, k, v, n_head):
    B, T, C = q.shape
    parts = (part.reshape(B, n_head, T, C // n_head) for part in (q, k, v))
    return F.scaled_dot_product_attention(*parts, is_causal=True).reshape(B, T, C)


def merged_wrong(q, k, v, n_head):
    parts = (split(part, n_head) for part in (q, k, v))
    return F.scaled_dot_product_attention(*parts, is_causal=True).reshape(q.shape)


def louder_queries(q, k, v, n_head):
    return fused(q.mul_(1.5), k, v, n_head)


def softened(q, k, v, n_head):
    return fused(q.tanh(), k, v, n_head)


def gathered(x, w_qkv, n_head):
    return F.scaled_dot_product_attention(
        *(split(part, n_head) for part in F.linear(x, w_qkv).chunk(3, -1)), is_causal=True
    )


def by_rows(x, w_qkv, w_project, n_head):
    return gathered(x, w_qkv, n_head) @ torch.stack(w_project.chunk(n_head, dim=0))


def silenced_rows(x, w_qkv, w_project, n_head):
    D = x.shape[-1] // n_head
    out = torch.zeros(x.shape[0], n_head, *x.shape[1:])
    for h in range(n_head):
        own = slice(h * D, (h + 1) * D)
        out[:, h, :, own] = fused(*F.linear(x, w_qkv).chunk(3, -1), n_head) @ w_project[own].T
    return out


def not_turned(x, w_qkv, w_project, n_head):
    return gathered(x, w_qkv, n_head) @ torch.stack(w_project.chunk(n_head, dim=1))


def columns_of_heads(x, w_qkv, w_project, n_head):
    columns = w_project.split(n_head, dim=1)  # not n_head columns each, but n_head groups
    return torch.stack([gathered(x, w_qkv, n_head)[:, h] @ columns[h].mT for h in range(n_head)], dim=1)


def by_c(x, w_qkv, w_project, n_head):
    q, k, v = (split(part, n_head) for part in F.linear(x, w_qkv).chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=x.shape[-1] ** -0.5)
    return mixed @ torch.stack(w_project.chunk(n_head, dim=1)).mT


def unmasked(x, w_qkv, w_project, n_head):
    mixed = F.scaled_dot_product_attention(*(split(part, n_head) for part in F.linear(x, w_qkv).chunk(3, -1)))
    return mixed @ torch.stack(w_project.chunk(n_head, dim=1)).mT


def keys_first(x, w_qkv, w_project, n_head):
    k, q, v = w_qkv.chunk(3)
    return ablated(x, torch.cat([q, k, v]), w_project, n_head)


def without(x, w_qkv, w_project, n_head):
    parts = ablated(x, w_qkv, w_project, n_head)
    return parts.sum(1, keepdim=True) - parts


def evenly(x, w_qkv, w_project, n_head):
    parts = ablated(x, w_qkv, w_project, n_head)
    shares = torch.arange(1.0, n_head + 1)[:, None, None] / sum(range(n_head + 1))
    return parts.sum(1, keepdim=True) * shares


WRONG = {
    "stages": [
        ({**STAGES, "strip": (5, 10, 24)}, "strip: (5, 10, 24): that holds one of the three"),
        ({**STAGES, "queries": (5, 10, 3, 8)}, "after the `view`"),
        ({**STAGES, "queries": (5, 3, 10, 24)}, "its share of the 24"),
        ({**STAGES, "queries": (3, 5, 10, 8)}, "windows come first"),
        ({**STAGES, "weights": (5, 10, 10)}, "each head has a map"),
        ({**STAGES, "weights": (3, 5, 10, 10)}, "windows come first"),
        ({**STAGES, "weights": (5, 10, 10, 3)}, "the heads stand before"),
        ({**STAGES, "weights": (5, 3, 10, 8)}, "not for each channel"),
        ({**STAGES, "merged": (5, 10, 8)}, "as narrow as one head"),
        ({**STAGES, "merged": (5, 24, 10)}, "exchanged"),
        ({**STAGES, "merged": (10, 5, 24)}, "merged: (10, 5, 24) holds the right sizes in the wrong order"),
        ({**STAGES, "weights": "(5, 3, 10, 10)"}, "a shape is expected"),
        ({"strip": (5, 10, 72)}, "'queries' is missing"),
        ((5, 10, 72), "keep the names"),
    ],
    "merged_heads": [
        (lambda x: x.reshape(len(x), x.shape[2], -1), "`view` without `transpose`"),
        (lambda x: x.contiguous().view(x.shape[0], x.shape[2], -1), "`view` without `transpose`"),
        (lambda x: x.transpose(1, 2).view(x.shape[0], x.shape[2], -1), "`transpose` without `contiguous`"),
        (lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2], -1), "interleaved"),
        (lambda x: put_side_by_side(x.flip(1)), "order of the heads is reversed"),
        (lambda x: x.mean(dim=1), "averaged"),
        (lambda x: x.sum(dim=-3), "added up"),
        (lambda x: torch.cat(x.unbind(1), dim=1), "along the positions"),
        (lambda x: x.transpose(1, 2), "not merged yet"),
        (lambda x: x, "still have an axis"),
        (lambda x: put_side_by_side(x).transpose(0, 1), "(T, B, C)"),
        (lambda x: put_side_by_side(x).mT, "(B, C, T)"),
        (lambda x: x.transpose(2, 3).reshape(x.shape[0], x.shape[2], -1), "wrong axes change places"),
        (lambda x: x.mT.flatten(-2), "heads and positions that must"),
        (lambda x: x.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1), "one row a head"),
        (lambda x: put_side_by_side(x).squeeze(0), "size 1 is dropped"),
        (lambda x: put_side_by_side(x).flip(1), "heads are mixed with positions"),
        (lambda x: put_side_by_side(x).flip(0), "windows are mixed"),
        (lambda x: put_side_by_side(x).roll(1, -1), "do not come in order"),
        (lambda x: put_side_by_side(x) / x.shape[1], "changes none"),
        (lambda x: put_side_by_side(x[:, :1].expand_as(x)), "the others are lost"),
        (from_the_page, "count the axes from the end"),
        (lambda x: put_side_by_side(x.reshape(-1, *x.shape[-3:])), "goes out with one, of size 1"),
        (lambda x: put_side_by_side(x).flatten(0, max(0, x.ndim - 4)), "have become one"),
        (in_place, "in place"),
        (lambda x: put_side_by_side(x).double(), "float64"),
        (lambda x: put_side_by_side(x).to("meta"), "device meta"),
        (lambda x: put_side_by_side(x).tolist(), "returns a list"),
        (lambda x: print(end=""), "returns nothing"),
        (lambda x: x.merge(), "AttributeError"),
        (put_side_by_side(torch.ones(1, 2, 3, 2)), "not a function"),
    ],
    "habits": [
        ({**HABITS, "one back": 4}, "two steps below"),
        ({**HABITS, "first place": 5}, "short columns"),
        ({**HABITS, "same letter": 0}, "one even shade"),
        ({**HABITS, "last space": 1}, "scattered"),
        ({**HABITS, "last space": 6}, "0 to 5"),
        ({"one back": 4, "first place": 3, "same letter": 2, "last space": 6, "on any text": [1]}, "one too high"),
        ({**HABITS, "one back": "3"}, "the number of one head"),
        ({**HABITS, "on any text": [0, 1, 2, 3, 4]}, "not head 1: it looks for certain letters"),
        ({**HABITS, "on any text": [2, 3, 4]}, "a head is missing"),
        ({**HABITS, "on any text": 3}, "a list of heads"),
        ([3, 2, 1, 5, [0, 2, 3, 4]], "keep the names"),
        ({"one back": 3}, "is missing"),
    ],
    "repaired_heads": [
        (joined(scale=scaled_by_c, own=overlapping), "two things: scaled by C"),
        (joined(scale=scaled_by_c), "scaled by C, not by the head size"),
        (lambda q, k, v, n_head: fused(q[:, :8], k[:, :8], v[:, :8], n_head), "shape is (3, 8, 12)"),
        (joined(own=overlapping), "the heads overlap"),
        (joined(own=lambda h, D: slice(0, D)), "the first head's channels"),
        (joined(scale=lambda C, D, H: 1), "not scaled"),
        (joined(scale=lambda C, D, H: D), "not by its square root"),
        (joined(scale=lambda C, D, H: H**0.5), "number of heads, not by their size"),
        (joined(axis=-2), "over the queries"),
        (joined(mask=False), "the future leaks"),
        (every_nth, "every H-th channel"),
        (beginning_only, "it ends at (h + 1) * D"),
        (beginning_only_by_c, "two things: the heads get narrower"),
        (too_narrow, "the number of heads are exchanged"),
        (lambda q, k, v, n_head: fused(q, k, v, n_head) + v, "v is added"),
        (lambda q, k, v, n_head: 2 * fused(q, k, v, n_head), "2 times what it should be"),
        (reshaped, "two things: `view` without `transpose` in the split"),
        (merged_wrong, "in the merge"),
        (lambda q, k, v, n_head: sum(heads(q, k, v, n_head)) / n_head, "averaged"),
        (lambda q, k, v, n_head: torch.cat(heads(q, k, v, n_head), dim=1), "along the positions"),
        (lambda q, k, v, n_head: torch.cat(heads(q, k, v, n_head)[::-1], dim=-1), "reversed"),
        (lambda q, k, v, n_head: torch.stack(heads(q, k, v, n_head)), "stacked"),
        (lambda q, k, v, n_head: fused(q, k, v, 1), "one head as wide as the model"),
        (lambda q, k, v, n_head: fused(k, q, v, n_head), "queries and keys are exchanged"),
        (lambda *inputs: some_masked(*inputs, lambda h: h == 0), "only head 0 is masked"),
        (lambda *inputs: some_masked(*inputs, lambda h: h > 0), "wrong in head 0, and right everywhere else"),
        (lambda *inputs: some_masked(*inputs, lambda h: h < 2), "wrong in the last head (2), and right"),
        (lambda *inputs: fused(*inputs).round(decimals=1), "rounded to 1 decimal"),
        (softened, "position 0 is right and a later one is not"),
        (lambda q, k, v, n_head: fused(q, k, v.tanh(), n_head), "position 0 sees only itself"),
        (louder_queries, "in place"),
        (lambda q, k, v, n_head: fused(q, k, v, n_head).half(), "float16"),
        (lambda q, k, v, n_head: fused(q, k, v, n_head).to("meta"), "device meta"),
        (lambda q, k, v, n_head: heads(q, k, v, n_head), "returns a list"),
        (lambda q, k, v, n_head: print(end=""), "returns nothing"),
        (lambda q, k, v: fused(q, k, v, 2), "TypeError"),
    ],
    "contributions": [
        (by_rows, "these are rows"),
        (silenced_rows, "the projection's rows"),
        (not_turned, "or columns the wrong way round"),
        (lambda x, w_qkv, w_project, n_head: gathered(x, w_qkv, n_head) @ w_project.T, "the whole projection, or"),
        (columns_of_heads, "its share is 4 columns"),
        (by_c, "scaled by C, not by the head size"),
        (unmasked, "the future leaks"),
        (keys_first, "queries and keys are exchanged"),
        (without, "*without* each head"),
        (lambda *inputs: ablated(*inputs).sum(1), "all heads added up"),
        (lambda *inputs: ablated(*inputs).transpose(0, 1), "the first axis"),
        (lambda *inputs: ablated(*inputs).mT, "positions and channels are exchanged"),
        (lambda *inputs: ablated(*inputs) / inputs[-1], "divided by the number of heads"),
        (lambda x, w_qkv, w_project, n_head: gathered(x, w_qkv, n_head), "the projection is missing"),
        (lambda x, w_qkv, w_project, n_head: ablated(x, w_qkv, w_project.T, n_head), "the wrong way round|are rows"),
        (lambda x, w_qkv, w_project, n_head: x @ w_qkv, "stores its weight as (out, in)"),
        (evenly, "the shares are not theirs"),
        (lambda x, w_qkv, w_project, n_head: ablated(x.tanh(), w_qkv, w_project, n_head), "position 0 is wrong"),
        (lambda x, w_qkv, w_project, n_head: ablated(x.mul_(2), w_qkv, w_project, n_head), "in place"),
        (lambda *inputs: ablated(*inputs).double(), "float64"),
        (lambda *inputs: ablated(*inputs).to("meta"), "device meta"),
        (lambda *inputs: list(ablated(*inputs)), "returns a list"),
        (lambda *inputs: print(end=""), "returns nothing"),
        (lambda x: x, "TypeError"),
    ],
}
