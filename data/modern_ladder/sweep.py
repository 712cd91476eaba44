"""The runs behind the ablation ladder of notebook 13: `python data/modern_ladder/sweep.py` writes runs.json beside it.

From the GPT of notebook 07 to the modern one, one change at a time. Each rung is trained for as many steps as 07's GPT,
and again for as many CPU seconds, with two seeds. All runs together take about 18 minutes of one core.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import gptlib
from gptlib import GroupedQueryAttention, RMSNorm, SquaredReLU, SwiGLU, muon, training
from gptlib.model import init_weights

STEPS, BATCH, T, C, HEADS, LAYERS = 700, 16, 64, 64, 4, 3
HIDDEN = 171  # 8/3 of the width: a SwiGLU then has as many parameters as a feed-forward layer of 4 times the width
RATE, SEEDS = 0.01, (0, 1)
OTHER_RATE, BOTH_RATES = 0.02, ("untied", "Muon")  # the same model with AdamW and with Muon, each with two rates

LADDER = ["GPT of 07", "no biases", "RMSNorm", "rotary", "SwiGLU", "GQA", "QK-norm", "soft-cap", "untied", "Muon"]
RUNGS = {name: LADDER[1 : n + 1] for n, name in enumerate(LADDER)}
RUNGS["squared ReLU"] = [*RUNGS["rotary"], "squared ReLU"]  # the alternative to SwiGLU; GQA comes after SwiGLU

text = gptlib.load_text("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.train_val_split(tokenizer.encode(text))
V = tokenizer.vocab_size


def build(changes, seed):
    """07's GPT with these changes made to it, and then initialized as in 07."""
    torch.manual_seed(seed)
    positions = "rotary" if "rotary" in changes else "learned"
    model = gptlib.GPT(gptlib.GPTConfig(V, T, n_layer=LAYERS, n_head=HEADS, n_embd=C, position_encoding=positions))
    for block in model.blocks:
        if "SwiGLU" in changes:
            block.feed_forward = SwiGLU(C, HIDDEN)
        if "squared ReLU" in changes:
            block.feed_forward = SquaredReLU(C, 4 * C)
        if "GQA" in changes:
            block.attention = GroupedQueryAttention(C, HEADS, HEADS // 2, qk_norm="QK-norm" in changes)
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.LayerNorm) and "RMSNorm" in changes:
                setattr(parent, name, RMSNorm(C))
            elif "no biases" in changes and getattr(module, "bias", None) is not None:
                module.bias = None
    if "untied" in changes:
        model.lm_head.weight = nn.Parameter(torch.empty(V, C))
    if "soft-cap" in changes:
        model.register_forward_hook(lambda module, inputs, logits: 15 * (logits / 15).tanh())
    init_weights(model, LAYERS)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= (768 / C) ** 0.5  # from the width of GPT-2 to this one
    return model


def run(name, steps, rate, seed, warmup_steps=100):
    """Train one rung; returns the model and what the run took."""
    model = build(RUNGS[name], seed)
    make_optimizer = muon.make_optimizer if "Muon" in RUNGS[name] else training.make_optimizer
    settings = {"batch_size": BATCH, "warmup_steps": warmup_steps, "make_optimizer": make_optimizer}
    start = time.process_time()
    gptlib.train(model, train_ids, steps=steps, learning_rate=rate, seed=seed, **settings)
    seconds = round(time.process_time() - start, 4)
    return model, {"rung": name, "rate": rate, "seed": seed, "steps": steps, "seconds": seconds}


def evaluated(*settings):
    """One run and its loss on the whole validation set."""
    model, found = run(*settings)
    found["loss"] = round(gptlib.evaluate(model, val_ids), 4)
    print(*found.values(), flush=True)
    return found


def measure_steps(rounds=7, steps=15):
    """CPU seconds per training step of each rung: the median of several rounds, in which the rungs take turns."""
    measured = {name: [] for name in RUNGS}
    for _ in range(rounds):
        for name in RUNGS:
            measured[name].append(run(name, steps, RATE, seed=0, warmup_steps=1)[1]["seconds"] / steps)
    return {name: round(statistics.median(values), 5) for name, values in measured.items()}


def table(found):
    """The losses of all runs as the card shows them: per rung at equal steps, then in equal seconds, by seed."""
    rows = ["| rung | parameters | ms per step | seed 0 | seed 1 | steps | seed 0 | seed 1 |", "|---" * 8 + "|"]
    for name, cost in found["seconds per step"].items():
        alike = [run for run in found["equal steps"] if run["rung"] == name]
        long = [run for run in found["equal seconds"] if run["rung"] == name] or alike
        losses = [[f"{run['loss']:.3f}" for run in runs] for runs in (alike, long)]
        row = f"| {name} | {found['parameters'][name]:,} | {1000 * cost:.1f} | {' | '.join(losses[0])} |"
        rows.append(f"{row} {long[0]['steps']} | {' | '.join(losses[1])} |")
    return "\n".join(rows) + "\n"


def main():
    torch.set_num_threads(1)
    cost = measure_steps()
    as_long = {name: round(STEPS * cost["GPT of 07"] / cost[name]) for name in RUNGS}  # steps in as many seconds
    planned = {
        "equal steps": [(name, STEPS, RATE) for name in RUNGS],
        "equal seconds": [(name, as_long[name], RATE) for name in RUNGS if name != "GPT of 07"],
        "other rate": [(name, STEPS, OTHER_RATE) for name in BOTH_RATES],
    }
    found = {
        "seconds per step": cost,
        "parameters": {name: sum(p.numel() for p in build(RUNGS[name], 0).parameters()) for name in RUNGS},
    }
    print(found, as_long, sep="\n", flush=True)
    for kind, settings in planned.items():
        found[kind] = [evaluated(*setting, seed) for setting in settings for seed in SEEDS]
        Path(__file__).with_name("runs.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
