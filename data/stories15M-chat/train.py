"""Train stories15M to follow instructions: `python data/stories15M-chat/train.py --save`.

Each run adds a row to runs.json: its settings, the loss on the answers of the test set, and what is found in sampled
answers. `--all-tokens` lets the instructions count in the loss too; `--kinds sentence --epochs 0.5` makes a short run.
"""

import argparse
import json
import random
import re
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

import gptlib
from gptlib import finetuning, lora
from gptlib.files import atomic_write
from gptlib.finetuning import IGNORE, STORIES
from gptlib.training import cosine_schedule

FOLDER = Path(__file__).parent
KINDS = {"sentence": 100, "story": 10, "question": 50}  # how many of the test set are measured


def conversation(pair):
    return [{"role": "user", "content": pair[1]}, {"role": "assistant", "content": pair[2]}]


def encode(pairs, tokenizer, all_tokens=False):
    """Ids and targets of each pair; with `all_tokens`, every next id is a target that counts."""
    found = [finetuning.tokenize_chat(conversation(pair), tokenizer, STORIES) for pair in pairs]
    return [(x, torch.cat([x[1:], y[-1:]]) if all_tokens else y) for x, y in found if len(x) <= 256]


def batches(examples, tokens, rng):
    """All examples in random batches of similar lengths, of about `tokens` positions with their padding."""
    found = [[]]
    for example in sorted(rng.sample(examples, len(examples)), key=lambda example: len(example[0]) // 8):
        if found[-1] and (len(found[-1]) + 1) * (len(example[0]) + 8) > tokens:
            found.append([])
        found[-1].append(example)
    return rng.sample(found, len(found))


@torch.no_grad()
def answer_loss(model, examples):
    """Mean loss over all tokens of the answers, in nats per token."""
    total = count = 0
    for batch in batches(examples, 800, random.Random(0)):
        x, y = finetuning.pad(batch)
        n = (y != IGNORE).sum().item()
        total, count = total + n * finetuning.answer_loss(model, x, y).item(), count + n
    return total / count


def sample_answers(model, tokenizer, pairs, longest=200):
    """An answer to the instruction of each pair, sampled with temperature 0.7 -> (text, whether it ended)."""
    prompts = [finetuning.chat_prompt(conversation(pair)[:1], tokenizer, STORIES) for pair in pairs]
    answers = {}
    for length in sorted({len(ids) for ids, _ in prompts}):  # a batch of prompts that need no padding
        chosen = [i for i, (ids, _) in enumerate(prompts) if len(ids) == length]
        start, end = torch.stack([prompts[i][0] for i in chosen]), prompts[0][1]
        rows = gptlib.generate(model, start, longest, 0, temperature=0.7, top_k=40, stop=end)[:, length:].tolist()
        for i, row in zip(chosen, rows):
            answers[i] = tokenizer.decode(row[: row.index(end)] if end in row else row).strip(), end in row
    return [answers[i] for i in range(len(pairs))]


def share_of_words(pairs, texts):
    """Which share of the words that the instructions name is found in the texts."""
    found = [bool(re.search(rf"\b{word}\b", text.lower())) for pair, text in zip(pairs, texts) for word in pair[3]]
    return sum(found) / len(found) if found else None


def measure(model, tokenizer, pairs):
    """By kind: the loss on the answers, and of sampled answers the share of the words and the share that ended."""
    found = {}
    for kind in sorted({pair[0] for pair in pairs}):
        some = [pair for pair in pairs if pair[0] == kind][: KINDS[kind]]
        answers = sample_answers(model, tokenizer, some)
        found[kind] = {
            "loss": answer_loss(model, encode(some, tokenizer)),
            "words": share_of_words(some, [text for text, _ in answers]),
            "ended": sum(ended for _, ended in answers) / len(some),
        }
        print(kind, found[kind], *[f"\n    {pair[1]} -> {text}" for pair, (text, _) in zip(some[:6], answers)])
    return found


def train(model, examples, settings):
    """Train the parameters that are not frozen; returns how many steps were taken.

    The output layer takes most of the time, so it computes logits only where a target counts.
    """
    head, model.lm_head = model.lm_head, torch.nn.Identity()  # the model returns what the output layer would be given
    rng, parameters = random.Random(settings.seed), [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.rate, betas=(0.9, 0.99), weight_decay=0.0)
    plan = [batch for _ in range(3) for batch in batches(examples, settings.tokens, rng)]
    plan, losses = plan[: int(len(plan) * settings.epochs / 3)], []
    for step, batch in enumerate(plan):
        x, y = finetuning.pad(batch)
        loss = F.cross_entropy(head(model(x)[y != IGNORE]), y[y != IGNORE])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = cosine_schedule(step, len(plan), settings.rate, 10, settings.rate / 10)
        optimizer.step()
        losses.append(loss.item())
        if settings.save and step % 50 == 49:
            lora.save_adapter(model, FOLDER / "adapter.safetensors")
        if step % 20 == 19:
            print(f"step {step + 1} of {len(plan)}: {sum(losses[-20:]) / 20:.3f}", flush=True)
    model.lm_head = head
    return len(plan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"rank": 32, "rate": 1e-3, "epochs": 1.5, "tokens": 800, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--all-tokens", action="store_true")
    parser.add_argument("--save", action="store_true")
    settings = parser.parse_args()
    pairs = json.loads((FOLDER.parent / "instruct" / "pairs.json").read_text(encoding="utf-8"))
    pairs = {name: [pair for pair in rows if pair[0] in settings.kinds] for name, rows in pairs.items()}
    model, tokenizer = gptlib.pretrained.load("stories15M")
    began = time.process_time()
    if settings.epochs:
        lora.add_lora(model, settings.rank, seed=settings.seed)
    steps = train(model, encode(pairs["train"], tokenizer, settings.all_tokens), settings)
    seconds = time.process_time() - began
    if settings.save:
        lora.save_adapter(model, FOLDER / "adapter.safetensors")
    row = {**vars(settings), "steps": steps, "seconds": round(seconds)} | measure(model, tokenizer, pairs["test"])
    file = FOLDER / "runs.json"
    rows = [*(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []), row]
    text = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    atomic_write(file, partial(Path.write_text, data=text, encoding="utf-8", newline="\n"))
