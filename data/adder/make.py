"""The adder of notebook 16, and the runs that its tables show.

`python data/adder/make.py pretrain` writes the model (config.json, model.safetensors, tokenizer.json) beside this file,
and `python data/adder/make.py runs` the file runs.json; runs that it already holds are not repeated.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

import gptlib
from gptlib import rewards
from gptlib.files import atomic_write
from gptlib.training import cosine_schedule, make_optimizer

HERE = Path(__file__).parent
WRONG, STEPS, BATCH, RATE = 0.6, 3500, 128, 8e-3  # of the pretraining
N, G, UPDATES, RL_RATE = 32, 8, 200, 3e-4  # of each run: prompts, answers per prompt, optimizer steps, learning rate
P, T = 6, 4  # a prompt such as "47+38=" has 6 characters, an answer with its end token at most 4
WATCHED = (0, 25, 50, 100, 150, 200)  # updates after which the accuracy on the held-out sums is measured
SEEDS = 1, 2, 3

PLAIN = {"baseline": True, "std": False, "updates": 1, "clip": None, "kl": 0.0, "offline": False}
VARIANTS = {
    "mean of the group subtracted": PLAIN,
    "and divided by the standard deviation": PLAIN | {"std": True},
    "right answers only": PLAIN | {"baseline": False},
    "right answers of the start only": PLAIN | {"baseline": False, "offline": True},
    "8 updates per batch": PLAIN | {"updates": 8},
    "8 updates per batch, clipped": PLAIN | {"updates": 8, "clip": 0.2},
    "KL, weight 0.1": PLAIN | {"kl": 0.1},
    "KL, weight 1": PLAIN | {"kl": 1.0},
}

tokenizer = gptlib.CharTokenizer("0123456789+=;")
(END,) = tokenizer.encode(";")
sums = torch.cartesian_prod(torch.arange(10, 100), torch.arange(10, 100))
sums = sums[torch.randperm(len(sums), generator=torch.Generator().manual_seed(0))]
held_out, practice = sums[:810], sums[810:]  # a tenth of the sums occurs in no training


def encode(texts):
    return torch.tensor([tokenizer.encode(text) for text in texts])


def prompts_of(pairs):
    """pairs (B, 2) -> "47+38=" as ids (B, P)"""
    return encode([f"{a}+{b}=" for a, b in pairs.tolist()])


def answers_of(results):
    """results (B,) -> "85;" as ids (B, T), filled up with the end token"""
    return encode([f"{c};".ljust(T, ";") for c in results.tolist()])


def counted(answers):
    """answers (B, T) -> which tokens belong to them (B, T): all up to the first end token"""
    return F.pad(answers[:, :-1] != END, (1, 0), value=True)


def sample(model, pairs, generator, temperature=1.0):
    """pairs (B, 2) -> sampled answers (B, T)"""
    ids = gptlib.generate(model, prompts_of(pairs), T, generator, temperature=temperature, stop=END)
    return F.pad(ids[:, P:], (0, P + T - ids.shape[1]), value=END)


def right(answers, pairs):
    return (answers == answers_of(pairs.sum(dim=1))).all(dim=1)


def joined(pairs, answers):
    """Inputs, targets of the answer, and which of these count."""
    x, y = rewards.join_answers(prompts_of(pairs), answers)
    y[:, P - 1 :][~counted(answers)] = rewards.IGNORE
    return x, y


def build():
    """A GPT with GPT-2's initialization, scaled from width 768 to this one."""
    torch.manual_seed(0)
    model = gptlib.GPT(gptlib.GPTConfig(tokenizer.vocab_size, P + T, n_layer=2, n_head=4, n_embd=64))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= (768 / 64) ** 0.5
    return model


def pretrain():
    """Train on sums of which `WRONG` are off by 1 to 5, in either direction; the prompts count in no loss."""
    model, generator = build(), torch.Generator().manual_seed(0)
    optimizer, began = make_optimizer(model, RATE, weight_decay=0.1), time.process_time()
    for step in range(STEPS):
        pairs = practice[torch.randint(len(practice), (BATCH,), generator=generator)]
        error = torch.randint(1, 6, (BATCH,), generator=generator)
        error *= 1 - 2 * torch.randint(2, (BATCH,), generator=generator)
        error *= torch.rand(BATCH, generator=generator) < WRONG
        x, y = joined(pairs, answers_of(pairs.sum(dim=1) + error))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = cosine_schedule(step, STEPS, RATE, 50, RATE / 10)
        optimizer.step()
        if (step + 1) % 500 == 0:
            print(step + 1, f"{time.process_time() - began:.0f} s  loss {loss:.3f} ", accuracy(model), flush=True)
    gptlib.pretrained.save(model, tokenizer, HERE)


def accuracy(model):
    """The shares of right answers to the held-out sums: sampled once, and greedy."""
    shares = [right(sample(model, held_out, 0, temperature), held_out) for temperature in (1.0, 0.0)]
    return [round(share.double().mean().item(), 4) for share in shares]


def measures(model, start):
    """Of 16 answers to each of 200 held-out sums: pass@k, different answers, entropy per token, KL per answer."""
    pairs = held_out[:200].repeat_interleave(16, dim=0)
    answers = sample(model, pairs, 1)
    right_ones = right(answers, pairs).view(200, 16).sum(dim=1).tolist()
    found = {f"pass@{k}": sum(rewards.pass_at_k(16, c, k) for c in right_ones) / 200 for k in (1, 2, 4, 8, 16)}
    found["different"] = sum(len(set(map(tuple, rows))) for rows in answers.view(200, 16, T).tolist()) / 200
    x, y = joined(pairs, answers)
    with torch.no_grad():
        p, q = (one(x).log_softmax(dim=-1) for one in (model, start))
    counts = y != rewards.IGNORE
    found["entropy"] = -(p.exp() * p).sum(dim=-1)[counts].mean().item()
    found["kl"] = ((p.exp() * (p - q)).sum(dim=-1) * counts).sum(dim=1).mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def advantages_of(rewarded, baseline, std):
    """Rewards (N, G) -> one advantage per answer (N * G,)"""
    if not baseline:
        return rewarded.flatten()
    return rewards.group_advantages(rewarded, scale_by_std=std).flatten()


def run(settings, seed):
    """GRPO from the shipped model, changed as `settings` say -> what was measured."""
    (model, _), (start, _) = gptlib.pretrained.load(HERE), gptlib.pretrained.load(HERE)
    generator = torch.Generator().manual_seed(seed)
    optimizer, began = make_optimizer(model, RL_RATE, weight_decay=0), time.process_time()
    found = {"accuracy": [accuracy(model)]}
    for update in range(UPDATES):
        if update % settings["updates"] == 0:
            pairs = practice[torch.randint(len(practice), (N,), generator=generator)].repeat_interleave(G, dim=0)
            answers = sample(start if settings["offline"] else model, pairs, generator)
            rewarded = right(answers, pairs).view(N, G).float()
            advantages = advantages_of(rewarded, settings["baseline"], settings["std"])
            x, y = joined(pairs, answers)
            mask = y != rewards.IGNORE
            with torch.no_grad():
                old, reference = rewards.token_logprobs(model, x, y), rewards.token_logprobs(start, x, y)
        logprobs = rewards.token_logprobs(model, x, y)
        loss = rewards.policy_loss(logprobs, old, advantages, mask, clip=settings["clip"])
        if settings["kl"]:
            loss = loss + settings["kl"] * rewards.masked_mean(rewards.kl_to_reference(logprobs, reference), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update + 1 in WATCHED:
            found["accuracy"].append(accuracy(model))
    return found | measures(model, start) | {"seconds": round(time.process_time() - began, 1)}


def main():
    file = HERE / "runs.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    done = {(one["variant"], one["seed"]) for one in runs}
    for seed in SEEDS:
        for name, settings in VARIANTS.items():
            if (name, seed) not in done:
                runs.append({"variant": name, **settings, "seed": seed, **run(settings, seed)})
                print(*list(runs[-1].values())[-12:], name, flush=True)
                content = json.dumps(runs, indent=1) + "\n"
                atomic_write(file, partial(Path.write_text, data=content, encoding="utf-8"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"pretrain": pretrain, "runs": main}[sys.argv[1]]()
