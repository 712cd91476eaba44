"""The runs behind notebook 15: `python data/finetuning/sweep.py` writes runs.json beside it, and resumes where it was.

shakespeare-gpt is trained on with the speeches of Lincoln: all its parameters, with several learning rates and shares
of old text, or LoRA of several ranks; each ends with its losses on Lincoln and on Shakespeare. A model of the same size
is trained from scratch for comparison. All runs together take about 25 minutes of one core.
"""

import json
import re
import time
from pathlib import Path

import torch

import gptlib
from gptlib import lora
from gptlib.files import atomic_write

BATCH, T, STEPS, LONG = 4, 128, 60, 200
RATES = 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1
BETWEEN, PRETRAINING = 2e-4, 6e-3  # two more rates; the second is the peak rate with which shakespeare-gpt was trained
SHARES = 0.1, 0.25, 0.5
RANKS = {"all": (1, 2, 4, 8, 16), "attention": (4, 16)}
TARGETS = {"all": None, "attention": {"qkv_proj", "out_proj"}}
SEEDS = 1, 2, 3  # seed 0 chooses the learning rates, and these are reported
FILE = Path(__file__).with_name("runs.json")


def load_lincoln(tokenizer):
    """Lincoln's speeches in the 65 characters of shakespeare-gpt: each digit becomes 3, the only one among them."""
    text = re.sub(r"\d", "3", gptlib.load_text("lincoln")).replace('"', "'")
    return "".join(character for character in text if character in tokenizer.vocabulary)


pretrained, tokenizer = gptlib.pretrained.load("shakespeare-gpt")
old_ids, old_val = gptlib.train_val_split(tokenizer.encode(gptlib.load_text("shakespeare")))
new_ids, new_val = gptlib.train_val_split(tokenizer.encode(load_lincoln(tokenizer)))
old_val = old_val[: len(new_val)]


def mix(new_ids, old_ids, share, length=1000):
    """The new text, and as many pieces of the old one, evenly spaced, as make up this `share` of the whole."""
    pieces, n = old_ids.split(length), round(share / (1 - share) * len(new_ids) / length)
    return torch.cat([new_ids, *pieces[:: len(pieces) // n][:n]]) if n else new_ids


def trained(*, method="full", rate=None, seed=0, steps=STEPS, share=0.0, rank=None, layers=None):
    """One run, unless it is in the file already -> what is recorded: its settings, its cost, and both losses."""
    settings = {"method": method, "rank": rank, "layers": layers, "share": share, "steps": steps}
    settings |= {"rate": rate, "seed": seed}
    for run in runs:
        if settings.items() <= run.items():
            return run
    torch.manual_seed(seed)  # chooses the initial parameters (from scratch, or of LoRA) and the dropout
    if method == "scratch":
        model = gptlib.GPT(pretrained.config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 2 if parameter.ndim == 2 else 1  # as shakespeare-gpt was initialized
    else:
        model, _ = gptlib.pretrained.load("shakespeare-gpt")
    if method == "lora":
        lora.add_lora(model, rank, targets=TARGETS[layers], seed=seed)
    trains = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    start, ids = time.process_time(), mix(new_ids, old_ids, share)
    if steps:
        decay = 0.0 if method == "lora" else 0.1
        others = {"batch_size": BATCH, "context_length": T, "weight_decay": decay}
        gptlib.train(model, ids, steps=steps, learning_rate=rate, seed=seed, **others)
    seconds = round(time.process_time() - start, 1)
    losses = {name: round(gptlib.evaluate(model, ids, T), 4) for name, ids in (("new", new_val), ("old", old_val))}
    runs.append({**settings, "parameters": trains if steps else 0, "seconds": seconds, **losses})
    print(*runs[-1].values(), flush=True)
    content = "[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n"
    atomic_write(FILE, lambda file: file.write_text(content, encoding="utf-8"))
    return runs[-1]


def tuned(rate, **settings):
    """The best of RATES with seed 0, where its two neighbors are worse; the search begins at `rate`."""
    while True:
        at = RATES.index(rate)
        tried = [trained(rate=other, **settings) for other in RATES[at - 1 : at + 2]]
        best = min(tried, key=lambda run: run["new"])["rate"]
        if best == rate:
            return rate
        rate = best


def table(runs):
    """The runs as the card shows them: one row per setting, with both losses of each seed but 0."""
    names = ["method", "rank", "layers", "share", "steps", "rate", "parameters"]
    rows = {}
    for run in runs:
        if run["seed"]:
            row = [run["method"], run["rank"] or "", run["layers"] or "", f"{run['share']:.0%}", run["steps"]]
            row += [f"{run['rate']:f}".rstrip("0"), f"{run['parameters']:,}"]
            rows.setdefault(tuple(row), []).append([f"{run[name]:.3f}" for name in ("new", "old")])
    lines = [f"| {' | '.join(names)} | Lincoln, seeds 1 to 3 | Shakespeare |", "|---" * 9 + "|"]
    for row, losses in rows.items():
        lines.append(f"| {' | '.join(map(str, row))} | {' | '.join(map(', '.join, zip(*losses)))} |")
    return "\n".join(lines) + "\n"


def main():
    torch.set_num_threads(1)
    trained(method="none", steps=0)
    best = tuned(3e-4)
    for seed in SEEDS:
        for rate in (*RATES[:2], BETWEEN, *RATES[2:5], PRETRAINING):
            trained(rate=rate, seed=seed)
    for rate in (best, RATES[RATES.index(best) - 1]):
        for share in SHARES:
            for seed in SEEDS:
                trained(rate=rate, share=share, seed=seed)
    scratch = tuned(1e-3, method="scratch")
    for seed in SEEDS:
        trained(method="scratch", rate=scratch, seed=seed)
    for seed in SEEDS:
        trained(rate=best, steps=LONG, seed=seed)
        trained(method="scratch", rate=scratch, steps=LONG, seed=seed)
    for layers, ranks in RANKS.items():
        for rank in ranks:
            settings = {"method": "lora", "rank": rank, "layers": layers}
            rate = tuned(3e-3, **settings)
            for seed in SEEDS:
                trained(rate=rate, seed=seed, **settings)
    for rank in (1, 16):
        for rate in (3e-4, 1e-3):
            for seed in SEEDS:
                trained(method="lora", rank=rank, layers="all", rate=rate, seed=seed)


runs = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []
if __name__ == "__main__":
    main()
