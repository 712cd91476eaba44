"""Answers to the exercises of notebook 14."""

import numpy as np
import torch
from torch.nn import functional as F

from . import Several


def by_part(batch_size, context_length, vocab_size, n_layer, n_embd):
    tokens = batch_size * context_length
    products = [(n_embd, 3 * n_embd), (n_embd, n_embd), (n_embd, 4 * n_embd), (4 * n_embd, n_embd)] * n_layer
    products += [(n_embd, vocab_size)]
    forward = sum(2 * tokens * rows * columns for rows, columns in products)
    forward += n_layer * 2 * (2 * batch_size * n_embd * context_length**2)
    return 3 * forward


def by_weight(model, optimizer, micro_batches):
    """The mean of each micro-batch, weighted with its share of the targets."""
    counts = torch.tensor([(y >= 0).sum() for _, y in micro_batches])
    model.zero_grad()
    losses = []
    for (x, y), share in zip(micro_batches, counts / counts.sum()):
        loss = F.cross_entropy(model(x).mT, y)
        (share * loss).backward()
        losses.append(share.item() * loss.item())
    optimizer.step()
    return sum(losses)


def by_scaling_the_gradients(model, optimizer, micro_batches):
    optimizer.zero_grad()
    total, count = 0.0, 0
    for x, y in micro_batches:
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
        loss.backward()
        total, count = total + loss.detach(), count + (y != -100).sum()
    for parameter in model.parameters():
        parameter.grad /= count
    optimizer.step()
    return total / count


def in_one_batch(model, optimizer, micro_batches):
    logits = torch.cat([model(x).flatten(0, 1) for x, _ in micro_batches])
    loss = F.cross_entropy(logits, torch.cat([y.flatten() for _, y in micro_batches]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def by_log_sum_exp(m1, total1, weighted1, m2, total2, weighted2):
    m = torch.where(m1 > m2, m1, m2)
    log_sum = torch.logaddexp(m1 + total1.log(), m2 + total2.log())
    weighted = torch.exp(m1 - m) * weighted1 + torch.exp(m2 - m) * weighted2
    return [m, torch.exp(log_sum - m), weighted]


def stacked(*numbers):
    (m1, total1, weighted1), (m2, total2, weighted2) = [
        [x.numpy() for x in part] for part in (numbers[:3], numbers[3:])
    ]
    maxima = np.concatenate([m1, m2], axis=1)  # (T, 2)
    factors = np.exp(maxima - maxima.max(axis=1, keepdims=True))
    total = (factors * np.concatenate([total1, total2], axis=1)).sum(axis=1, keepdims=True)
    weighted = (factors[:, :, None] * np.stack([weighted1, weighted2], axis=1)).sum(axis=1)
    return maxima.max(axis=1, keepdims=True), total, weighted


def process_by_process(micro, sync):
    p, M = len(micro), len(micro[0])
    grads, rounds = [torch.zeros_like(micro[0, 0]) for _ in range(p)], 0
    for m, synchronize in enumerate(sync):
        for r in range(p):
            grads[r] = grads[r] + micro[r][m] / M
        if synchronize:
            mean = sum(grads) / p
            grads, rounds = [mean] * p, rounds + 1
    return torch.stack(grads), rounds * 8 * micro.shape[-1] * (1 - 1 / p)


def in_numpy(micro, sync):
    p, M, N = micro.shape
    last = max((m + 1 for m in range(M) if sync[m]), default=0)  # up to here, all has been averaged
    numbers = micro.numpy()
    mean = np.broadcast_to(numbers[:, :last].sum(axis=1).mean(axis=0), (p, N))
    return (mean + numbers[:, last:].sum(axis=1)) / M, sum(sync) * 2 * (p - 1) * N * 4 / p


def divided_at_the_end(micro, sync):
    total, sent = torch.zeros_like(micro[:, 0]), 0
    for m in range(micro.shape[1]):
        total += micro[:, m]
        if sync[m]:
            total = total.mean(0, keepdim=True).repeat(len(micro), 1)
            sent += 2 * (len(micro) - 1) * total[0].nbytes / len(micro)
    return [total / micro.shape[1], torch.tensor(sent)]


def by_limit(first, second, third):
    E = (first * third - second**2) / (first + third - 2 * second)
    return E + (third - E) ** 2 / (second - E)


RIGHT = {
    "step_flops": [by_part, lambda *sizes: float(by_part(*sizes)), lambda *sizes: torch.tensor(by_part(*sizes))],
    "accumulated_step": [by_weight, by_scaling_the_gradients, in_one_batch],
    "merge": [by_log_sum_exp, stacked],
    "simulate_ddp": [
        Several([process_by_process, "b"]),
        Several([in_numpy, "B"]),
        Several([divided_at_the_end, "(b)"]),
    ],
    "next_loss": [Several([lambda a, b, c: c + (c - b) ** 2 / (b - a), 41.0]), Several([by_limit, 40.96])],
}
WRONG = {
    "step_flops": {
        "every result is 0.5 times": lambda *sizes: by_part(*sizes) / 2,
        "is too high": {"12 * n_layer * n_embd**2": "16 * n_layer * n_embd**2"},
    },
    "accumulated_step": {
        "no parameter moves": {"optimizer.step()": "optimizer.zero_grad()"},
        "it returns nothing": {"return total": "total"},
        "not the mean loss over all targets": {"total += loss.item()": "total += loss.item() * y.numel() / 3"},
        "moves in another way": {"optimizer.step()": "optimizer.step(), optimizer.step()"},
    },
    "merge": {
        "at index 0 of what it returns": {"torch.maximum(m1, m2)": "torch.cat([m1, m2], dim=1).amax(dim=1)"},
    },
    "simulate_ddp": {
        "sends four times as many bytes": Several([in_numpy, "a"]),
        "the processes differ": Several([in_numpy, "c"]),
    },
    "next_loss": {
        "nothing is repeated": Several([by_limit, 0.4]),
        "four passes over a text": Several([by_limit, 4]),
        "enter one of the three": Several([by_limit, 10]),
        "every result is": Several([lambda a, b, c: 2 * by_limit(a, b, c), 41]),
    },
}
