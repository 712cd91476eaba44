"""Answers to the exercises of notebook 15 on instruction tuning."""

import numpy as np
import torch

from . import Several


def by_position(messages, end):
    """Targets from the back: each is kept if it lies within an answer."""
    ids, spans = [], []
    for role, tokens in messages:
        start = len(ids)
        ids.extend(tokens)
        if role == "assistant":
            ids.append(end)
            spans.append(range(start, len(ids)))
    targets = [ids[t] if any(t in span for span in spans) else -100 for t in range(1, len(ids))]
    return ids[:-1], targets


def targets_first(messages, end):
    ids, targets = [], []
    for role, tokens in messages:
        if role != "assistant":
            ids, targets = ids + tokens, targets + [-100 for _ in tokens]
        else:
            ids, targets = ids + [*tokens, end], targets + [*tokens, end]
    return ids[: len(ids) - 1], targets[1:]


def as_tensors(messages, end):
    ids = torch.tensor([i for role, tokens in messages for i in [*tokens, *([end] if role == "assistant" else [])]])
    kept = [role == "assistant" for role, tokens in messages for _ in range(len(tokens) + (role == "assistant"))]
    return ids[:-1].tolist(), ids[1:].masked_fill(~torch.tensor(kept[1:]), -100).tolist()


def by_loop(rows, n_prompt, end):
    return sum(end in row[n_prompt:] for row in rows.tolist()) / len(rows)


def in_numpy(rows, n_prompt, end):
    return float(np.mean(np.any(rows.numpy()[:, n_prompt:] == end, axis=1)))


def by_count(rows, n_prompt, end):
    found = [(row[n_prompt:] == end).sum() > 0 for row in rows]
    return torch.stack(found).float().mean()


RIGHT = {
    "chat_example": [by_position, targets_first, as_tensors],
    "share_that_ends": [Several([by_loop, "a"]), Several([in_numpy, "A"]), Several([by_count, "(a)"])],
}
WRONG = {
    "chat_example": {
        "same positions": lambda messages, end: (
            by_position(messages, end)[0],
            [-100, *by_position(messages, end)[1][:-1]],
        ),
    },
    "share_that_ends": {
        "look at its share": Several([by_loop, "b"]),
        "no end token that could be learned": Several([by_loop, "c"]),
        "choose one of 'a', 'b', 'c'": Several([by_loop, "d"]),
    },
}
