"""Training: the loss, its estimate on a whole text, the learning-rate schedule, and one readable loop.

Losses are cross-entropies in nats per token.

B batch · T positions · V vocabulary
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.data import check_length, get_batch
from gptlib.sampling import evaluating


@dataclass
class History:
    """What a training run measured, in nats per token."""

    train: list[float] = field(default_factory=list)  # the loss of each step's batch
    val: list[tuple[int, float]] = field(default_factory=list)  # (steps done, loss on the validation set)
    interrupted: bool = False
    seconds: float = field(default=0.0, compare=False)


@dataclass
class Run:
    """A training run as `on_step` sees it; its steps done are `len(run.history.train)`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # chooses the batches
    settings: dict  # all that decides the course of the run
    history: History = field(default_factory=History)
    checkpoint: Path | None = None  # the last one written, or resumed from

    @property
    def steps(self) -> int:
        return self.settings["steps"]


class Diverged(FloatingPointError):
    """The loss or the gradient is no longer finite. The `history` up to that step comes with it."""

    def __init__(self, run: Run):
        self.history = run.history
        where = f"the last checkpoint is {run.checkpoint}" if run.checkpoint else "no checkpoint was written"
        super().__init__(
            f"the loss, its gradient or a parameter is not finite at step {len(self.history.train)}: training stopped "
            f"({where}). Try a lower learning rate or a longer warm-up"
        )


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy: logits (B, T, V), targets (B, T) -> a scalar, the mean in nats per token."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def context_of(model: nn.Module) -> int:
    """The model's own context length; raises ValueError when it has no configuration that says so."""
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no config.context_length: pass context_length=…")
    return config.context_length


@torch.no_grad()
def evaluate(model: nn.Module, ids: Tensor, context_length: int | None = None, batch_size: int | None = None) -> float:
    """Mean loss over all of `ids` (N,) in nats per token: each of the N - 1 predictions counts once.

    The text is cut into consecutive windows of `context_length`, the last one shorter. Dropout is off. Batches hold at
    most 64 windows, fewer where their logits would take more than 256 MB.
    """
    T = context_length or context_of(model)
    check_length(ids, 1)
    config: Any = getattr(model, "config", None)
    size = batch_size or min(64, max(1, 2**26 // (T * config.vocab_size)) if config else 64)
    device = next(model.parameters()).device
    n = (len(ids) - 1) // T * T  # the predictions that fill whole windows
    inputs, targets = ids[:n].view(-1, T), ids[1 : n + 1].view(-1, T)
    batches = [*zip(inputs.split(size), targets.split(size)), (ids[None, n:-1], ids[None, n + 1 :])]
    with evaluating(model):
        losses = [
            next_token_loss(model(x.to(device)), y.to(device)).item() * y.numel() for x, y in batches if y.numel()
        ]
    return sum(losses) / (len(ids) - 1)


def cosine_schedule(step: int, steps: int, learning_rate: float, warmup_steps: int, floor: float) -> float:
    """Linear warm-up to `learning_rate`, then half a cosine down to `floor` (Loshchilov & Hutter 2017, equation 5).

    >>> [round(cosine_schedule(step, 6, learning_rate=1.0, warmup_steps=2, floor=0.0), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return floor + (learning_rate - floor) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with weight decay on matrices, not on biases and LayerNorm parameters."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=fused)


def train(
    model: nn.Module, train_ids: Tensor, val_ids: Tensor | None = None, *, steps: int, batch_size: int = 32,
    context_length: int | None = None, learning_rate: float = 1e-3, warmup_steps: int | None = None,
    weight_decay: float = 0.1, clip: float = 1.0, seed: int = 0, eval_every: int | None = None,
    mixed_precision: bool | None = None, on_step: Callable[[Run], None] | Sequence[Callable[[Run], None]] = (),
    make_optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] = make_optimizer,
) -> History:  # fmt: skip
    """Train `model` to predict `train_ids` (N,) and return the losses.

    Unless given, warm-up takes 1/20 of the steps and `val_ids` are evaluated every 1/10 of them. The learning rate ends
    at a tenth of its peak. `seed` chooses the batches. `mixed_precision` computes in bfloat16, by default where a GPU
    has it in hardware. `on_step`, a callback or several, is called before the first step and after each one:
    `live.progress()` shows the losses, `checkpoint.Saver(path)` saves and resumes. Ctrl-C or the stop button ends
    training, and the model keeps what it has learned; it stays in training mode. `make_optimizer(model, learning_rate,
    weight_decay)` chooses another optimizer. Raises Diverged when the loss is no longer finite.
    """
    T = context_length or context_of(model)
    check_length(train_ids, T)
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1")
    device = next(model.parameters()).device
    warmup_steps = max(1, steps // 20) if warmup_steps is None else warmup_steps
    eval_every = eval_every or max(1, steps // 10)
    if mixed_precision is None:
        mixed_precision = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    optimizer = make_optimizer(model, learning_rate, weight_decay)
    run = Run(
        model,
        optimizer,
        torch.Generator().manual_seed(seed),
        settings={
            "steps": steps, "batch_size": batch_size, "context_length": T, "learning_rate": learning_rate,
            "warmup_steps": warmup_steps, "weight_decay": weight_decay, "clip": clip, "seed": seed,
            "eval_every": eval_every, "mixed_precision": mixed_precision, "tokens": len(train_ids),
            "model": str(getattr(model, "config", type(model).__name__)), "optimizer": type(optimizer).__name__,
        },
    )  # fmt: skip
    history, train_ids = run.history, train_ids.to(device)
    callbacks = [on_step] if callable(on_step) else on_step

    def report() -> None:
        for callback in callbacks:
            callback(run)

    model.train()
    try:
        report()
        start = time.perf_counter() - history.seconds
        for step in range(len(history.train), steps):
            if val_ids is not None and step % eval_every == 0:
                history.val.append((step, evaluate(model, val_ids, T)))
            x, y = get_batch(train_ids, batch_size, T, run.generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                loss = next_token_loss(model(x), y)
            run.optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
            if not (loss + norm).isfinite():
                raise Diverged(run)
            for group in run.optimizer.param_groups:
                group["lr"] = cosine_schedule(step, steps, learning_rate, warmup_steps, learning_rate / 10)
            run.optimizer.step()
            history.train.append(loss.item())
            if val_ids is not None and step + 1 == steps:
                history.val.append((steps, evaluate(model, val_ids, T)))
            history.seconds = time.perf_counter() - start
            report()
    except KeyboardInterrupt:
        history.interrupted = True
        report()
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise Diverged(run)
    return history
