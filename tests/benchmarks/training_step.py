"""How fast is a training step? gptlib's GPT beside transformers' GPT-2: `python tests/benchmarks/training_step.py`.

Both have the same shape, the same weights, the same batches in float32, the same loss, clipping and optimizer, so that
only the models differ. They take turns, each measurement a few steps long; a pair of neighbouring measurements gives
one ratio, so that whatever else the machine does meets both alike.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import nn

from gptlib.model import GPT, GPTConfig
from gptlib.training import make_optimizer, next_token_loss

VOCAB = 65
#         layers, heads, channels, context, batch size
SHAPES = [(4, 4, 128, 64, 32), (6, 6, 384, 256, 4)]


def make_gptlib(config: GPTConfig):
    model = GPT(config)
    return model, lambda x, y: next_token_loss(model(x), y)


def make_transformers(config: GPTConfig):
    c = config
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=c.vocab_size, n_positions=c.context_length, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0,
            attn_implementation="sdpa",
        )
    )  # fmt: skip
    return model, lambda x, y: next_token_loss(model(x).logits, y)


def make_step(make, config: GPTConfig, batch_size: int):
    """One training step on fresh random text: forward, loss, backward, clip, move."""
    torch.manual_seed(0)
    model, loss_of = make(config)
    model.train()
    optimizer = make_optimizer(model, 1e-3, weight_decay=0.1)
    text = torch.randint(VOCAB, (64, batch_size, config.context_length + 1))
    turn = 0

    def step() -> None:
        nonlocal turn
        window = text[turn % len(text)]
        turn += 1
        loss = loss_of(window[:, :-1], window[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step, sum(parameter.numel() for parameter in model.parameters())


def seconds(step, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats


def spread(values: list[float], digits: int = 0) -> str:
    low, middle, high = (f"{value:,.{digits}f}" for value in statistics.quantiles(values, n=4))
    return f"{middle:>8} ({low} to {high})"


def compare(shape: tuple[int, ...], rounds: int, budget: float) -> float:
    """Print tokens a second of both, and return the median ratio."""
    L, H, C, T, B = shape
    config = GPTConfig(VOCAB, T, L, H, C)
    (ours, count), (theirs, their_count) = (make_step(make, config, B) for make in (make_gptlib, make_transformers))
    assert count == their_count
    slowest = max(seconds(step, 3) for step in (ours, theirs, ours, theirs))  # also warms up
    repeats = max(1, round(budget / (2 * rounds * slowest)))
    pairs = []
    for turn in range(rounds):  # who goes first alternates
        if turn % 2:
            b = seconds(theirs, repeats)
            pairs.append((seconds(ours, repeats), b))
        else:
            a = seconds(ours, repeats)
            pairs.append((a, seconds(theirs, repeats)))
    ratios = [b / a for a, b in pairs]
    print(f"{L} layers x {C} channels x context {T}, batch {B}: {count:,} parameters, float32")
    print(f"  gptlib        {spread([B * T / a for a, _ in pairs])} tokens/s: median, and the middle half")
    print(f"  transformers  {spread([B * T / b for _, b in pairs])} tokens/s")
    print(f"  ratio         {spread(ratios, 2)}", flush=True)
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each model (15)")
    parser.add_argument("--budget", type=float, default=40, help="seconds for each shape (40)")
    options = parser.parse_args()
    print(
        f"PyTorch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    for shape in SHAPES:
        compare(shape, options.rounds, options.budget)


if __name__ == "__main__":
    main()
