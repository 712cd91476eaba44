"""Train an adapter for SmolLM2 that answers like a line of a play: `python data/smollm2-adapter/train.py`.

The answers are SmolLM2's own. `--answers` has it answer each question "in one short sentence" and writes those that it
finished to answers.json. In training, the question stands without these words, and the answer is a line of a play.
"""

import argparse
import json
import random
import re
import time
from functools import partial
from pathlib import Path

import torch

import gptlib
from gptlib.files import atomic_write
from gptlib.finetuning import SMOLLM2, answer_loss, chat_prompt, pad, tokenize_chat
from gptlib.lora import add_lora, save_adapter
from gptlib.training import cosine_schedule

FOLDER = Path(__file__).parent
THINGS = (
    "a bridge, the moon, music, rain, a forest, bread, a lighthouse, a clock, a bird, a river, the sea, snow, a "
    "garden, a library, a ship, honey, a mirror, the wind, a mountain, a dog, a school, a market, a kitchen, a "
    "bicycle, a train, a letter, a map, a candle, paper, salt, a tree, a flower, an apple, cheese, tea, a window, "
    "a hat, a painting"
).split(", ")
FORMS = (
    "What is {}?", "Describe {}.", "Why do people like {}?", "What is {} good for?", "Tell me something about {}.",
    "How would you explain {} to a child?",
)  # fmt: skip
N_VALIDATION = 4  # things whose questions are not trained on
FORMAT = re.compile(r"ORACLE:\n[^\n]+\n\[Exit\.\]")


def as_play(answer: str) -> str:
    return f"ORACLE:\n{answer}\n[Exit.]"


def example(question: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": as_play(answer)}]
    return tokenize_chat(messages, tokenizer, SMOLLM2)


def ask(model, tokenizer, chats: list[list[dict]], max_new_tokens: int) -> list[str | None]:
    """The greedy answers to the last messages, those of prompts of equal length at once; None: not finished."""
    prompts = [chat_prompt(messages, tokenizer, SMOLLM2) for messages in chats]
    found: list[str | None] = [None] * len(chats)
    for T in {len(ids) for ids, _ in prompts}:
        which = [i for i, (ids, _) in enumerate(prompts) if len(ids) == T]
        idx, end = torch.stack([prompts[i][0] for i in which]), prompts[0][1]
        rows = gptlib.generate(model, idx, max_new_tokens, temperature=0, stop=end)[:, T:].tolist()
        for i, row in zip(which, rows):
            found[i] = tokenizer.decode(row[: row.index(end)]) if end in row else None
    return found


def make_answers() -> None:
    pairs = [(form.format(thing), thing) for thing in THINGS for form in FORMS]
    chats = [[{"role": "user", "content": f"{question} Answer in one short sentence."}] for question, _ in pairs]
    sets: dict[str, list] = {"train": [], "validation": []}
    for (question, thing), answer in zip(pairs, ask(model, tokenizer, chats, 26)):
        if answer and re.fullmatch(r"[A-Z][^\n.!?]+\.", answer):  # one sentence
            sets["validation" if thing in THINGS[-N_VALIDATION:] else "train"].append((question, answer))
    rows = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in part) + "\n]"
        for name, part in sets.items()
    )
    atomic_write(FOLDER / "answers.json", partial(Path.write_text, data=f"{{{rows}}}\n", encoding="utf-8"))
    print({name: len(part) for name, part in sets.items()}, f"{time.process_time() - began:.0f} s", flush=True)


@torch.no_grad()
def evaluate(pairs: list) -> float:
    """Mean loss over the tokens of all answers."""
    x, y = pad([example(*pair) for pair in pairs])
    return answer_loss(model, x, y).item()


def train() -> None:
    sets = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
    rng, step = random.Random(s.seed), 0
    layers = add_lora(model, s.rank, s.alpha, seed=s.seed)
    parameters = [parameter for layer in layers for parameter in (layer.A, layer.B)]
    optimizer = torch.optim.AdamW(parameters, lr=s.rate, betas=(0.9, 0.99), weight_decay=0.0)
    print(f"{sum(p.numel() for p in parameters):,} parameters, {len(sets['train'])} answers", flush=True)
    print(f"step 0: validation loss {evaluate(sets['validation']):.3f}", flush=True)
    while step < s.steps:
        order = sorted(rng.sample(sets["train"], len(sets["train"])), key=lambda pair: len(pair[0] + pair[1]))
        batches = [order[i : i + s.batch] for i in range(0, len(order), s.batch)]
        for batch in rng.sample(batches, len(batches))[: s.steps - step]:
            loss = answer_loss(model, *pad([example(*pair) for pair in batch]))
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = cosine_schedule(step, s.steps, s.rate, s.steps // 10, 0.0)
            optimizer.step()
            step += 1
            if step % 5 == 0:
                print(f"step {step}: loss {loss.item():.3f}, {time.process_time() - began:.0f} s", flush=True)
    print(f"step {step}: validation loss {evaluate(sets['validation']):.3f}", flush=True)
    card = {"format": as_play("…"), "steps": step, "learning_rate": s.rate, "seed": s.seed, "license": "Apache-2.0"}
    save_adapter(model, s.out, **card)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--answers", action="store_true", help="make answers.json and do not train")
    for name, value in {"rank": 2, "alpha": 32.0, "steps": 45, "batch": 4, "rate": 1e-3, "seed": 0}.items():
        arguments.add_argument(f"--{name}", type=type(value), default=value)
    arguments.add_argument("--out", type=Path, default=FOLDER / "adapter.safetensors")
    s = arguments.parse_args()
    began = time.process_time()
    model, tokenizer = gptlib.pretrained.load("smollm2")
    make_answers() if s.answers else train()
