"""The instructions of notebook 15 and the adapter that was trained on them."""

import json
import re

import pytest
import torch

import gptlib
from gptlib import finetuning, lora
from gptlib.files import data_dir
from gptlib.finetuning import STORIES, tokenize_chat


@pytest.fixture(scope="module")
def pairs():
    return json.loads((data_dir() / "instruct" / "pairs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base():
    return gptlib.pretrained.load("stories15M")


def encode(rows, tokenizer):
    roles = ("user", "assistant")
    return [
        tokenize_chat([{"role": role, "content": text} for role, text in zip(roles, row[1:3])], tokenizer, STORIES)
        for row in rows
    ]


def test_each_answer_has_the_words_that_its_instruction_names(pairs):
    for kind, instruction, answer, words in pairs["train"] + pairs["test"]:
        assert kind in ("sentence", "story", "question") and bool(words) == (kind != "question")
        for word in words:
            pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
            assert pattern.search(instruction) and pattern.search(answer), (instruction, word)


def test_the_test_set_is_not_in_the_training_set(pairs):
    learned = {text for _, instruction, answer, _ in pairs["train"] for text in (instruction, answer)}
    for kind, instruction, answer, _ in pairs["test"]:
        assert instruction not in learned and (kind == "question" or answer not in learned), instruction


def test_every_pair_fits_the_context(pairs, base):
    model, tokenizer = base
    longest = max(len(ids) for ids, _ in encode(pairs["train"] + pairs["test"], tokenizer))
    assert longest <= model.config.context_length


def test_the_adapter_lowers_the_loss_on_answers_and_ends_them(pairs, base):
    model, tokenizer = base
    rows = [row for row in pairs["test"] if row[0] == "sentence"][::12]
    x, y = finetuning.pad(encode(rows, tokenizer))
    losses = []
    with torch.no_grad():
        losses.append(finetuning.answer_loss(model, x, y).item())
        lora.load_adapter(model, data_dir() / "stories15M-chat" / "adapter.safetensors")
        losses.append(finetuning.answer_loss(model, x, y).item())
        lora.merge_lora(model)
        losses.append(finetuning.answer_loss(model, x, y).item())
    assert losses[1] < losses[0] - 0.5
    assert losses[2] == pytest.approx(losses[1], abs=1e-4)
    prompt, end = finetuning.chat_prompt([{"role": "user", "content": rows[0][1]}], tokenizer, STORIES)
    answer = gptlib.generate(model, prompt, 40, temperature=0, stop=end)[0, len(prompt) :].tolist()
    assert end in answer
