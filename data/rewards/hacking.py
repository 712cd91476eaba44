"""Reward hacking on notebook 16: `python data/rewards/hacking.py` writes hacking.json beside it.

`shakespeare-gpt` is trained by group-relative policy gradient on rewards that a program computes from its text: how
often the word "thee" occurs, for several weights of the divergence from the untouched model, and two mended rewards.
With one core, all runs together take about 6 CPU minutes. Runs that are in the file are not repeated.
"""

import copy
import json
import re
import time
from functools import partial
from pathlib import Path

import torch

import gptlib
from gptlib import rewards
from gptlib.files import atomic_write
from gptlib.finetuning import IGNORE

PROMPT, ANSWERS, LENGTH, STEPS, RATE = "JULIET:\n", 16, 48, 24, 5e-4
WEIGHTS, SEEDS, BASE_ANSWERS = (0, 0.03, 0.1, 0.3, 1), (0, 1, 2), 1024
FILE = Path(__file__).with_name("hacking.json")
base, tokenizer = gptlib.pretrained.load("shakespeare-gpt")
prompt = torch.tensor([tokenizer.encode(PROMPT)])


def words(text):
    """The words of a text in lower case; an apostrophe is part of a word."""
    return re.findall("[a-z']+", text.lower())


def count(text):
    """How often "thee" occurs."""
    return words(text).count("thee")


def spaced(text):
    """How often "thee" occurs where none of the three words before it is "thee"."""
    found = words(text)
    return sum(word == "thee" and "thee" not in found[max(0, i - 3) : i] for i, word in enumerate(found))


def varied(text):
    """The number of occurrences times the share of different words."""
    found = words(text)
    return count(text) * len(set(found)) / max(1, len(found))


REWARDS = {"count": count, "spaced": spaced, "varied": varied}
KNOWN = set(words(gptlib.load_text("shakespeare")))


def measured(texts, given, logprobs, ref, mask):
    """What is noted of the answers of one step; kl and loss in nats per character. A last word may be cut off."""
    spoken = [words(text)[:-1] for text in texts]
    return {
        "reward": round(given.mean().item(), 3),
        "thee": round(sum(map(count, texts)) / len(texts), 3),
        "kl": round((logprobs - ref)[mask].mean().item(), 3),
        "loss": round(-ref[mask].mean().item(), 3),
        "real": round(sum(word in KNOWN for some in spoken for word in some) / max(1, sum(map(len, spoken))), 3),
        "different": round(sum(len(set(some)) / max(1, len(some)) for some in spoken) / len(spoken), 3),
        "text": texts[0],
    }


def run(reward, weight, seed, steps=STEPS):
    """Train a copy of the model; one entry of "steps" per step, and one for the trained model."""
    began = time.process_time()
    torch.manual_seed(seed)
    model, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    prompts, noted = prompt.expand(ANSWERS, -1), []
    for step in range(steps + 1):
        answers = gptlib.generate(model, prompts, LENGTH, generator)[:, prompts.shape[1] :]
        texts = [tokenizer.decode(answer.tolist()) for answer in answers]
        given = torch.tensor([float(REWARDS[reward](text)) for text in texts])
        x, y = rewards.join_answers(prompts, answers)
        logprobs, mask = rewards.token_logprobs(model, x, y), y != IGNORE
        with torch.no_grad():
            ref = rewards.token_logprobs(base, x, y)
        noted.append(measured(texts, given, logprobs.detach(), ref, mask))
        if step == steps:
            break
        loss = rewards.policy_loss(logprobs, None, rewards.group_advantages(given[None])[0], mask)
        loss += weight * rewards.masked_mean(rewards.kl_to_reference(logprobs, ref), mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = round(time.process_time() - began, 1)
    print(reward, weight, seed, seconds, noted[-1], flush=True)
    return {"reward": reward, "weight": weight, "seed": seed, "seconds": seconds, "steps": noted}


def base_counts():
    """How many of the untouched model's answers hold "thee" 0, 1, 2, … times."""
    generator = torch.Generator().manual_seed(0)
    parts = [gptlib.generate(base, prompt.expand(128, -1), LENGTH, generator) for _ in range(BASE_ANSWERS // 128)]
    counts = [count(tokenizer.decode(ids[prompt.shape[1] :].tolist())) for ids in torch.cat(parts)]
    return torch.tensor(counts).bincount().tolist()


def main(most=100):
    """Make the runs that are not in the file yet, at most so many."""
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"base": base_counts(), "runs": []}
    done = {(one["reward"], one["weight"], one["seed"]) for one in found["runs"]}
    kinds = [*(("count", weight) for weight in WEIGHTS), ("spaced", 0), ("varied", 0)]
    planned = [(*kind, seed) for seed in SEEDS for kind in kinds]
    for settings in [one for one in planned if one not in done][:most]:
        found["runs"].append(run(*settings))
        lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in found["runs"])
        content = f'{{"base": {found["base"]}, "runs": [\n{lines}\n]}}\n'
        atomic_write(FILE, partial(Path.write_text, data=content, encoding="utf-8", newline="\n"))


if __name__ == "__main__":
    main()
