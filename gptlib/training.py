"""Training: the loss on text that the model has not seen, the schedule, and one readable loop.

A loss is in nats a token: the mean of -ln(probability given to the token that came).

B batch · T positions · V vocabulary
"""

import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib import live
from gptlib.checkpoint import History, load_checkpoint, save_checkpoint
from gptlib.data import batch, check_length
from gptlib.files import check_file


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy: logits (B, T, V), targets (B, T) -> mean nats a token, a scalar."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, ids: Tensor, context_length: int | None = None, batch_size: int = 64) -> float:
    """Mean loss over the whole of `ids` (N,), nats a token: each of its N - 1 predictions counts once.

    The text is read in windows side by side, each `context_length` long (the model's own unless given), the last
    one shorter. Nothing is drawn at random, dropout is off, and the model is left in the mode that it came in.
    Raises ValueError when there is nothing to predict.
    """
    T = context_length or context_of(model)
    check_length(ids, 1)
    device = next(model.parameters()).device
    whole = (len(ids) - 1) // T * T  # the predictions that fill whole windows
    inputs, targets = ids[:whole].view(-1, T), ids[1 : whole + 1].view(-1, T)
    pairs = list(zip(inputs.split(batch_size), targets.split(batch_size))) if whole else []
    if whole < len(ids) - 1:
        pairs.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    was_training = model.training
    model.eval()
    try:
        total = sum(next_token_loss(model(x.to(device)), y.to(device)).double() * y.numel() for x, y in pairs)
    finally:
        model.train(was_training)
    return total.item() / (len(ids) - 1)


def context_of(model: nn.Module) -> int:
    """The model's own context length; raises ValueError when it has no configuration that says so."""
    if not hasattr(model, "config"):
        raise ValueError(f"{type(model).__name__} does not say how long its context is: pass context_length=…")
    return model.config.context_length


def schedule(step: int, steps: int, peak: float, warmup_steps: int, floor: float) -> float:
    """Straight up to `peak` in `warmup_steps`, then half a cosine down to `floor` at `steps`.

    Loshchilov & Hutter 2017, equation 5, without restarts. Step 0 already learns, at peak / warmup_steps.

    >>> [round(schedule(step, 6, peak=1.0, warmup_steps=2, floor=0.0), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / (steps - warmup_steps)
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(model: nn.Module, peak: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); only matrices decay: a bias or a norm's gain has no reason to be small."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99), fused=fused)


def train(
    model: nn.Module,
    train_ids: Tensor,
    val_ids: Tensor | None = None,
    *,
    steps: int,
    batch_size: int = 32,
    context_length: int | None = None,
    learning_rate: float = 1e-3,
    warmup_steps: int | None = None,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    seed: int = 0,
    eval_every: int | None = None,
    mixed_precision: bool | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    baselines: dict[str, float] | None = None,
    progress: Callable[[History], None] | str | None = "auto",
) -> History:
    """Teach `model` to predict `train_ids` (N,), and return the losses on the way.

    Each step draws a batch with a generator seeded by `seed`, clips the gradient to length `clip`, and moves at
    `learning_rate` (the peak; warm-up takes a twentieth of `steps` unless given, the floor is a tenth of the peak).
    `val_ids` are evaluated whole, every `eval_every` steps (a tenth of `steps` unless given) and at the end.
    `mixed_precision` computes in bfloat16 where that is safe; unless given, on a GPU that gains from it.
    `progress` is called with the history every ten steps: 'auto' draws the growing loss curve over the `baselines`
    in a notebook, or a bar in a terminal; None is silent.
    `checkpoint` names a file that is written whole at each evaluation and at the end; `resume=True` continues it,
    bit for bit as if it had never stopped. Dropout draws from PyTorch's own generator (`torch.manual_seed`).
    The model is left in training mode: call `model.eval()` before you use it by hand.

    An interrupt (Ctrl-C, the stop button) ends the step in hand, then returns what there is, with
    `history.interrupted` set. Raises Diverged when the loss is no longer a number, and ValueError for ids that do
    not fit or a checkpoint of another run.
    """
    T = context_length or context_of(model)
    check_length(train_ids, T)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if checkpoint is not None:
        check_file(checkpoint)  # now, not after an hour of training
    device = next(model.parameters()).device
    warmup_steps = max(1, steps // 20) if warmup_steps is None else warmup_steps
    eval_every = eval_every or max(1, steps // 10)
    if mixed_precision is None:
        mixed_precision = device.type == "cuda" and torch.cuda.is_bf16_supported()

    optimizer = make_optimizer(model, learning_rate, weight_decay)
    generator = torch.Generator().manual_seed(seed)
    history = History()
    # Whatever decides the course of the run: a checkpoint continues only under the same settings.
    settings = {
        "steps": steps, "batch_size": batch_size, "context_length": T, "learning_rate": learning_rate,
        "warmup_steps": warmup_steps, "weight_decay": weight_decay, "clip": clip, "seed": seed,
        "eval_every": eval_every, "mixed_precision": mixed_precision,
        "model": str(getattr(model, "config", type(model).__name__)),
        "training text (CRC-32)": zlib.crc32(train_ids.cpu().numpy().tobytes()),
    }  # fmt: skip
    if resume:
        history = load_checkpoint(checkpoint, model, optimizer, generator, settings)
    report = live.choose(steps, baselines) if progress == "auto" else progress or (lambda history: None)

    train_ids = train_ids.to(device)
    began = time.perf_counter() - history.seconds
    good = snapshot(model)
    unread = []  # losses still on the device: reading each one at once would make the processor wait for it
    model.train()
    with deferred_interrupt() as interrupted:
        for step in range(len(history.train), steps):
            if val_ids is not None and step % eval_every == 0:
                history.val.append((step, evaluate(model, val_ids, T)))

            x, y = batch(train_ids, batch_size, T, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                loss = next_token_loss(model(x), y)

            unread.append(loss.detach())
            if step % 10 == 0 or step == steps - 1:
                read(unread, history, model, good)
                good = snapshot(model)  # this very state has made a finite loss
                history.seconds = time.perf_counter() - began
                report(history)

            for group in optimizer.param_groups:
                group["lr"] = schedule(step, steps, learning_rate, warmup_steps, learning_rate / 10)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()

            done = step + 1
            history.interrupted = interrupted() and done < steps
            if history.interrupted or done == steps or done % eval_every == 0:
                read(unread, history, model, good)
                # Only a look shows what this very step has done, and a broken model must not reach the checkpoint.
                stop_unless_finite(evaluate(model, train_ids[: T + 1], T), history, model, good)
                if done == steps and val_ids is not None:
                    history.val.append((done, evaluate(model, val_ids, T)))
                history.seconds = time.perf_counter() - began
                if checkpoint is not None:
                    save_checkpoint(checkpoint, model, optimizer, generator, settings, history)
            if history.interrupted:
                break
    report(history)
    return history


class Diverged(FloatingPointError):
    """The loss became infinite or not a number; the model is back in its last good state. Holds the `history`."""

    def __init__(self, history: History):
        self.history = history
        super().__init__(
            f"the loss is not a finite number at step {len(history.train)}: training stopped, and the model is back "
            "in its last good state (at most ten steps earlier). Try a lower learning rate or a longer warm-up"
        )


def read(unread: list[Tensor], history: History, model: nn.Module, good: dict[str, Tensor]) -> None:
    """Move losses from the device into the history, as long as they are finite."""
    losses = torch.stack(unread).tolist() if unread else []
    unread.clear()
    for loss in losses:
        stop_unless_finite(loss, history, model, good)
        history.train.append(loss)


def stop_unless_finite(loss: float, history: History, model: nn.Module, good: dict[str, Tensor]) -> None:
    """Put the `good` state back and raise Diverged when `loss` is not a finite number."""
    if not math.isfinite(loss):
        model.load_state_dict(good)
        raise Diverged(history)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights that training will not change."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Note an interrupt instead of raising it, so that the step in hand is finished; a second one raises as usual."""
    seen = []

    def note(signum, frame):
        seen.append(signum)
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
