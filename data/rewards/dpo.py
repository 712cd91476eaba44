"""Pairs of answers for preference optimization, and the runs that notebook 16 compares: pairs.json and dpo.json.

A prompt is a line of Shakespeare of 40 characters, and shakespeare-gpt continues it twice, with 40 characters each. The
files hold no preferences: of two answers, the one with fewer letters e is preferred. A seed shuffles the pairs, so that
each has its own held-out pairs. `python data/rewards/dpo.py` makes what is missing.
"""

import json
import time
from pathlib import Path

import torch

import gptlib
from gptlib.files import atomic_write
from gptlib.rewards import dpo_loss, join_answers, join_pairs, token_logprobs

HERE = Path(__file__).parent
LENGTH, PROMPTS, STEPS, BATCH, RATE = 40, 560, 40, 8, 2e-4
METHODS = [("DPO", beta) for beta in (0.03, 0.1, 0.3, 1.0)]
METHODS += [("no reference", 0.1), ("no reference", 1.0), ("fine-tuning", None)]
SEEDS = (1, 2, 3)


def load():
    return gptlib.pretrained.load("shakespeare-gpt")


def write(path, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    atomic_write(path, lambda new: new.write_text(f"[\n{lines}\n]\n", encoding="utf-8", newline="\n"))


def make_pairs():
    """Prompts of the training set, in random order, each with two sampled answers: [prompt, answer, answer]."""
    model, tokenizer = load()
    train_ids, _ = gptlib.train_val_split(tokenizer.encode(gptlib.load_text("shakespeare")))
    text, generator = tokenizer.decode(train_ids.tolist()), torch.Generator().manual_seed(0)
    lines = sorted({line + "\n" for line in text.split("\n") if len(line) == LENGTH - 1})
    prompts = [lines[i] for i in torch.randperm(len(lines), generator=generator)[:PROMPTS].tolist()]
    ids = torch.tensor([tokenizer.encode(prompt) for prompt in prompts for _ in range(2)])
    answers = torch.cat([gptlib.generate(model, some, LENGTH, generator)[:, LENGTH:] for some in ids.split(160)])
    answers = [tokenizer.decode(answer.tolist()) for answer in answers]
    return [list(row) for row in zip(prompts, answers[::2], answers[1::2])]


def ordered(pairs):
    """Prompt, chosen answer (fewer letters e), rejected answer; pairs with equally many are left out."""
    pairs = [(prompt, *sorted(answers, key=lambda answer: answer.count("e"))) for prompt, *answers in pairs]
    return [pair for pair in pairs if pair[1].count("e") < pair[2].count("e")]


def logprobs(model, x, y):
    """Summed log-probability of each answer: x and y (2N, T), the chosen first -> (2, N)."""
    parts = zip(x.split(64), y.split(64))
    return torch.cat([token_logprobs(model, *part).sum(dim=1) for part in parts]).view(2, -1)


def trained(pairs, before, method, beta, seed):
    """One run of STEPS steps, each with BATCH pairs that occur once, and what is measured after it.

    pairs: ids of prompts, chosen and rejected answers, each (N, LENGTH); before (2, N): their log-probabilities under
    the reference model.
    """
    (model, tokenizer), generator = load(), torch.Generator().manual_seed(seed)
    order, began = torch.randperm(len(pairs[0]), generator=generator), time.process_time()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    for step, batch in enumerate(order[: STEPS * BATCH].split(BATCH)):
        x, y = join_pairs(*(column[batch] for column in pairs))
        if method == "fine-tuning":
            loss = -token_logprobs(model, x[:BATCH], y[:BATCH]).sum(dim=1).mean() / LENGTH
        else:
            reference = before[:, batch] if method == "DPO" else torch.zeros(2, BATCH)
            loss, _ = dpo_loss(*logprobs(model, x, y), *reference, beta)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 5)
        optimizer.step()
    seconds, held_out = time.process_time() - began, order[STEPS * BATCH :]
    with torch.no_grad():
        change = logprobs(model, *join_pairs(*(column[held_out] for column in pairs))) - before[:, held_out]
        texts = gptlib.generate(model, pairs[0][held_out[:100]], LENGTH, generator)
        x, y = join_answers(texts[:, :LENGTH], texts[:, LENGTH:])
        own, base = (token_logprobs(each, x, y).sum(dim=1).mean().item() for each in (model, load()[0]))
    letters = tokenizer.decode(texts[:, LENGTH:].flatten().tolist()).count("e") / len(texts)
    numbers = {
        "accuracy": round((change[0] > change[1]).float().mean().item(), 4),
        "chosen": round(change[0].mean().item(), 2),
        "rejected": round(change[1].mean().item(), 2),
        "letters": round(letters, 2),
        "kl": round(own - base, 2),
        "loss": round(-base / LENGTH, 3),
        "seconds": round(seconds, 1),
    }
    return {"method": method, "beta": beta, "seed": seed} | numbers


def main():
    torch.set_num_threads(1)
    files = {name: HERE / f"{name}.json" for name in ("pairs", "dpo")}
    if not files["pairs"].exists():
        write(files["pairs"], make_pairs())
    model, tokenizer = load()
    columns = zip(*ordered(json.loads(files["pairs"].read_text(encoding="utf-8"))))
    pairs = [torch.tensor([tokenizer.encode(text) for text in column]) for column in columns]
    with torch.no_grad():
        before = logprobs(model, *join_pairs(*pairs))
    runs = json.loads(files["dpo"].read_text(encoding="utf-8")) if files["dpo"].exists() else []
    done = {(run["method"], run["beta"], run["seed"]) for run in runs}
    for seed in SEEDS:
        for method, beta in METHODS:
            if (method, beta, seed) not in done:
                runs.append(trained(pairs, before, method, beta, seed))
                write(files["dpo"], runs)


if __name__ == "__main__":
    main()
