"""The runs behind the scaling laws of notebook 14: `python data/scaling/sweep.py` writes runs.json beside it.

GPTs that differ only in their width are trained with equally many tokens, and then with equally many FLOPs. For
each of them the learning rate is halved or doubled until the best one has a worse one on both sides. All runs together
take about 20 minutes of one core.
"""

import json
import time
from pathlib import Path

import torch

import gptlib
from gptlib import scaling

LAYERS, HEADS, T, BATCH = 2, 2, 64, 16
STEPS = 400  # of the runs with equally many tokens
SIZES, LARGEST = (8, 12, 16, 24, 32, 48, 64), 96
WIDTHS = {
    6e9: (4, 8, 12, 16, 24),
    2e10: (8, 12, 16, 24, 32, 48),
    6e10: (12, 16, 24, 32, 48, 64),
    2e11: (24, 32, 48, 64, 96),
}
NEXT_BUDGET, NEXT_WIDTHS = 6e11, (24, 32, 48, 64, 96, 128)
SEEDS = 1, 2  # seed 0 chooses the learning rate, and these are what the laws are fitted to

text = gptlib.load_text("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.train_val_split(tokenizer.encode(text))
V = tokenizer.vocab_size


def build(width, seed):
    """A GPT of this width, with GPT-2's initialization scaled from width 768 to this one."""
    torch.manual_seed(seed)
    config = gptlib.GPTConfig(V, T, n_layer=LAYERS, n_head=HEADS, n_embd=width, position_encoding="rotary")
    model = gptlib.GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= (768 / width) ** 0.5
    return model


def trained(budget, width, steps, rate, seed):
    """One run, and its loss on the whole validation set."""
    model, start = build(width, seed), time.process_time()
    gptlib.train(model, train_ids, steps=steps, batch_size=BATCH, learning_rate=rate, seed=seed)
    seconds = round(time.process_time() - start, 2)
    sizes = {"width": width, "parameters": sum(p.numel() for p in model.parameters()), "embedding": V * width}
    run = {"budget": budget, **sizes, "steps": steps, "rate": rate, "seed": seed, "seconds": seconds}
    run["loss"] = round(gptlib.evaluate(model, val_ids), 4)
    print(*run.values(), flush=True)
    runs.append(run)
    Path(__file__).with_name("runs.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    return run["loss"]


def tuned(budget, width, steps, rate):
    """The learning rate, among powers of two times `rate`, that is better with seed 0 than its half and its double."""
    losses = {}
    while True:
        for other in (rate, rate / 2, rate * 2):
            if other not in losses:
                losses[other] = trained(budget, width, steps, other, seed=0)
        best = min(losses, key=losses.get)
        if best == rate:
            return rate
        rate = best


def steps_for(budget, width):
    """As many steps as take `budget` floating-point operations."""
    return round(budget / scaling.flops_per_token(build(width, 0).config) / (BATCH * T))


def table(runs):
    """The runs as the card shows them: one row per budget and width, with the losses of both seeds."""
    names = ["FLOPs", "width", "parameters", "without embedding", "steps", "passes", "rate", "seed 1", "seed 2"]
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for run in runs:
        if run["seed"] == SEEDS[0]:
            (other,) = [
                r for r in runs if {**r, "seconds": 0, "loss": 0} == {**run, "seed": 2, "seconds": 0, "loss": 0}
            ]
            row = [f"{run['budget']:.0e}" if run["budget"] else "", run["width"], f"{run['parameters']:,}"]
            row += [f"{run['parameters'] - run['embedding']:,}", f"{run['steps']:,}"]
            row += [f"{run['steps'] * BATCH * T / len(train_ids):.2f}", run["rate"]]
            rows.append(f"| {' | '.join(map(str, [*row, run['loss'], other['loss']]))} |")
    return "\n".join(rows) + "\n"


def main():
    torch.set_num_threads(1)
    planned = [(None, width) for width in SIZES]
    planned += [(budget, width) for budget, widths in WIDTHS.items() for width in widths]
    planned.append((None, LARGEST))
    best, rate = {4: 0.08, 8: 0.04}, 0.04  # where the search begins; for a new width, where it ended for the one before
    for budget, width in planned:
        steps = steps_for(budget, width) if budget else STEPS
        rate = best[width] = tuned(budget, width, steps, best.get(width, rate))
        for seed in SEEDS:
            trained(budget, width, steps, rate, seed)
    for seed in SEEDS:
        for width in NEXT_WIDTHS:  # not tuned: with the rate that was best before for this width, or for the one below
            rate = best.get(width, rate)
            trained(NEXT_BUDGET, width, steps_for(NEXT_BUDGET, width), rate, seed)


runs = []
if __name__ == "__main__":
    main()
