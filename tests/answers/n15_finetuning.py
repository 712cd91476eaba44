"""Answers to the exercises of notebook 15."""

import codecs
import itertools
import re

import numpy as np
import torch
from torch.nn import functional as F

from gptlib.finetuning import answer_loss
from gptlib.sampling import evaluating

from . import Several


def byte_of(token):
    found = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return int(found[1], 16) if found else None


def by_runs(tokens):
    text = ""
    for is_byte, group in itertools.groupby(tokens, key=lambda token: byte_of(token) is not None):
        run = list(group)
        text += bytes(map(byte_of, run)).decode(errors="replace") if is_byte else "".join(run)
    text = text.replace("▁", " ")
    return text[1:] if text.startswith(" ") else text


def as_a_stream(tokens):
    decoder, text = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for token in tokens:
        byte = byte_of(token)
        text += decoder.decode(token.encode() if byte is None else byte.to_bytes(1, "big"))
    return re.sub("^ ", "", (text + decoder.decode(b"", final=True)).replace("▁", " "))


def by_substitution(tokens):
    """Each byte token becomes the byte that Latin-1 writes; the text around it is escaped in the same way."""
    joined = "\0".join(tokens).replace("▁", " ").encode("utf-8").split(b"\0")
    return (
        b"".join(re.sub(rb"^<0x(..)>$", lambda m: bytes.fromhex(m[1].decode()), part) for part in joined)
        .decode("utf-8", "replace")
        .removeprefix(" ")
    )


def by_list(tokens):
    found = bytearray()
    for token in tokens:
        found.extend([int(token[1:-1], 16)] if token[:3] == "<0x" and token[-1] == ">" else token.encode())
    text = str(found, "utf-8", "replace")
    return (text[1:] if text[:1] == "▁" else text).replace("▁", " ")


def first_token_first(tokens):
    if tokens and tokens[0].startswith("▁"):
        tokens = [tokens[0][1:], *tokens[1:]]
    parts = [
        token.replace("▁", " ").encode() if byte_of(token) is None else bytes([byte_of(token)]) for token in tokens
    ]
    return b"".join(parts).decode("utf-8", errors="replace")


def by_merging(x, W, b, A, B, alpha):
    return F.linear(x, W + alpha * B @ A / A.shape[0], b)


def by_layers(x, W, b, A, B, alpha):
    change = F.linear(F.linear(x, A), B)
    return F.linear(x, W, b) + change * (alpha / B.shape[1])


def with_numpy(x, W, b, A, B, alpha):
    x, W, b, A, B = (value.numpy() for value in (x, W, b, A, B))
    return x @ W.T + b + np.einsum("...i,ri,or->...o", x, A, B) * alpha / len(A)


def by_columns(x, W, b, A, B, alpha):
    y = torch.einsum("...i,oi->...o", x, W) + b
    for row, column in zip(A, B.T):
        y = y + alpha / len(A) * (x * row).sum(-1, keepdim=True) * column
    return y


def with_the_package(model, x, y):
    with torch.no_grad(), evaluating(model):
        return answer_loss(model, x, y)


def part_by_part(model, x, y):
    modes = {part: part.training for part in model.modules()}
    for part in modes:
        part.training = False
    logprobs = model(x).log_softmax(-1)
    for part, training in modes.items():
        part.training = training
    counts = y != -100
    return -logprobs[counts].gather(-1, y[counts][:, None]).mean().item()


@torch.no_grad()
def by_try(model, x, y):
    was = model.training
    try:
        return float(F.cross_entropy(model.eval()(x).mT, y))
    finally:
        model.train(mode=was)


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


def one_by_one(losses):
    kept = []
    for i in range(len(losses)):
        beaten = False
        for j in range(len(losses)):
            no_worse = losses[j][0] <= losses[i][0] and losses[j][1] <= losses[i][1]
            if no_worse and tuple(losses[j]) != tuple(losses[i]):
                beaten = True
        if not beaten:
            kept.append(i)
    return kept


def with_tensors(losses):
    losses = torch.tensor(losses)
    other, own = losses[:, None], losses[None]
    beats = (other <= own).all(dim=-1) & (other < own).any(dim=-1)
    return (~beats.any(dim=0)).nonzero().flatten().tolist()


def as_an_array(losses):
    losses = np.array(losses)
    return [i for i, own in enumerate(losses) if not ((losses <= own).all(1) & (losses != own).any(1)).any()]


RIGHT = {
    "to_text": [by_runs, as_a_stream, by_substitution, by_list, first_token_first],
    "lora_output": [by_merging, by_layers, with_numpy, by_columns],
    "held_out_loss": [with_the_package, part_by_part, by_try],
    "chat_example": [by_position, targets_first, as_tensors],
    "share_that_ends": [Several([by_loop, "a"]), Several([in_numpy, "A"]), Several([by_count, "(a)"])],
    "unbeaten": [Several([one_by_one, [0, 1]]), Several([with_tensors, (1, 0)]), Several([as_an_array, {0, 1}])],
}
WRONG = {
    "to_text": {
        "is a byte": {'len(token) == 6 and token.startswith("<0x")': 'token.startswith("<")'},
        "such as half of a character": {', errors="replace"': ""},
    },
    "lora_output": {"every number is 2 times": lambda *inputs: 2 * by_merging(*inputs)},
    "held_out_loss": {
        "it returns nothing": {"return loss.item()": "loss.item()"},
        "afterwards the model is in another mode": {"model.train(training)": "model[1].train()"},
        "still holds its graph": {"with torch.no_grad():": "if True:", "return loss.item()": "return loss"},
        "the gradients are not as before": {
            "with torch.no_grad():": "if True:",
            "    model.train(": "    loss.backward()\n    model.train(",
        },
        "the loss is another one": {"return loss.item()": "return loss.item() + 1"},
    },
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
    "unbeaten": {
        "empty in every case": {"(n < new or o < old)": "True"},
        "number 3 has higher losses": Several([one_by_one, [0, 1, 3]]),
        "lowest loss on Shakespeare is missing": Several([one_by_one, [1]]),
        "numbers from 0 to 3": Several([one_by_one, [4]]),
        "only the losses on Lincoln are compared": Several(
            [lambda losses: [i for i, x in enumerate(losses) if x[0] == min(losses)[0]], [0, 1]]
        ),
    },
}
