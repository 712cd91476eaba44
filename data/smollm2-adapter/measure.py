"""Measure what the card says about the adapter, and write measured.json: `python data/smollm2-adapter/measure.py`.

It compares ways to get an answer in the format, and the loss on texts that have nothing to do with it. With the path of
another adapter, as in `python data/smollm2-adapter/measure.py other.safetensors`, it measures that one too.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from train import FOLDER, FORMAT, as_play, ask

import gptlib
from gptlib.files import atomic_write
from gptlib.finetuning import SMOLLM2, chat_prompt
from gptlib.lora import load_adapter, merge_lora

QUESTIONS = (  # none of them has the form of a training question
    "Why is the sky blue?", "Who wrote Hamlet?", "What do cows eat?", "How many days are in a week?",
    "Can fish breathe in water?", "What color is a banana?", "Name a large animal.", "Is the sun a star?",
    "What is the capital of France?", "How do I boil an egg?", "What should I wear in the rain?",
    "Which month comes after June?", "Where do penguins live?", "Give me a reason to read.", "How old is the earth?",
    "What makes people laugh?", "Who was Abraham Lincoln?", "What is a good name for a boat?", "Do plants need light?",
    "How can I sleep better?", "What sound does a dog make?", "What is the opposite of cold?",
    "Which animals can fly?", "Why do leaves fall?",
)  # fmt: skip
ORDER = (
    'Answer in one short sentence, written as a line of a play: first a line "ORACLE:", then the sentence, '
    'then a line "[Exit.]".'
)
SHOWN = {
    "What is a bridge?": "A bridge is a path over a river.",
    "Describe rain.": "Rain is water that falls from clouds.",
}


def message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def report(name: str, before: list[dict]) -> None:
    chats = [[*before, message("user", question)] for question in QUESTIONS]
    answers = ask(model, tokenizer, chats, 40)
    found["ways"][name] = {
        "in_format": sum(answer is not None and bool(FORMAT.fullmatch(answer)) for answer in answers),
        "questions": len(QUESTIONS),
        "prompt_tokens": round(sum(len(chat_prompt(c, tokenizer, SMOLLM2)[0]) for c in chats) / len(chats), 1),
        "answers": dict(zip(QUESTIONS, answers)),  # null: not finished after 40 tokens
    }
    print(name, json.dumps(found["ways"][name], indent=1, ensure_ascii=False), flush=True)


def losses() -> dict[str, float]:
    """Mean nats per token on the first 1,024 predictions of two texts, in windows of 256."""
    ids = {name: tokenizer.encode(gptlib.load_text(name)[:6000])[:1025] for name in ("kennedy", "shakespeare")}
    return {name: round(gptlib.evaluate(model, torch.tensor(row), 256), 4) for name, row in ids.items()}


other = Path(*sys.argv[1:2])
began = time.process_time()
model, tokenizer = gptlib.pretrained.load("smollm2")
found: dict = {"losses": {"SmolLM2": losses()}, "ways": {}}
report("the question alone", [])
report("an order in the system message", [message("system", ORDER)])
shown = [(message("user", question), message("assistant", as_play(answer))) for question, answer in SHOWN.items()]
report("two examples before the question", [one for pair in shown for one in pair])
load_adapter(model, FOLDER / "adapter.safetensors")
merge_lora(model)
found["losses"]["with the adapter"] = losses()
report("the question alone, with the adapter", [])
if other.is_file():
    model, _ = gptlib.pretrained.load("smollm2")
    rate = load_adapter(model, other)["learning_rate"]
    merge_lora(model)
    found["losses"][f"learning rate {rate}"] = losses()
    report(f"with one of learning rate {rate}", [])
found["seconds"] = round(time.process_time() - began)
content = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
atomic_write(FOLDER / "measured.json", partial(Path.write_text, data=content, encoding="utf-8"))
print(found["losses"], found["seconds"], "s")
