"""Fine-tuning on conversations: how they are written as tokens, and a loss in which only the answers count.

`training.train` predicts every token of a text; here most targets are ignored, and examples have different lengths.

B batch · T positions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100  # a target that does not count: the default of F.cross_entropy's ignore_index


@dataclass(frozen=True)
class ChatTemplate:
    """What stands before and after a message of each role; the first token after an answer is its end token."""

    roles: Mapping[str, tuple[str, str]]
    begin: str = ""  # before a conversation without a system message
    special: tuple[str, ...] = ()  # the special tokens in these strings


STORIES = ChatTemplate({"user": ("Instruction:", "\n"), "assistant": ("Answer:", "<s>")}, "<s>", ("<s>",))
SMOLLM2 = ChatTemplate(
    {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")},
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
    ("<|im_start|>", "<|im_end|>"),
)


def tokenize_chat(
    messages: Sequence[Mapping], tokenizer: Any, template: ChatTemplate, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ids (T,), and targets (T,): the next ids where these are part of an answer or its end token, IGNORE elsewhere.

    A message is {"role": …, "content": …}; special tokens are not recognized in its content. Raises ValueError when a
    message is empty, roles are out of order, the last message is no answer, or T is above `max_length`.
    """
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] and "system" in template.roles else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"the roles are {roles}: user and assistant take turns, and the last message is an answer")
    ids = tokenizer.encode(template.begin, template.special) if turns is roles else []
    counts = [False] * len(ids)
    for role, content in zip(roles, [message["content"] for message in messages]):
        if not content.strip():
            raise ValueError(f"a message of the role {role} is empty: leave it out")
        before, after = (tokenizer.encode(text, template.special) for text in template.roles[role])
        message = tokenizer.encode(content) + after[:1]
        ids += before + message + after[1:]
        counts += [False] * len(before) + [role == "assistant"] * len(message) + [False] * len(after[1:])
    if max_length is not None and len(ids) - 1 > max_length:
        raise ValueError(f"the conversation takes {len(ids) - 1} positions, above {max_length}: shorten it")
    return torch.tensor(ids[:-1]), torch.tensor(ids[1:]).where(torch.tensor(counts[1:]), IGNORE)


def chat_prompt(messages: Sequence[Mapping], tokenizer: Any, template: ChatTemplate) -> tuple[Tensor, int]:
    """The ids (T,) after which an answer to the last message begins, and the end token; raises as `tokenize_chat`."""
    answer, after = tokenizer.encode("."), tokenizer.encode(template.roles["assistant"][1], template.special)
    ids, _ = tokenize_chat([*messages, {"role": "assistant", "content": "."}], tokenizer, template)
    return ids[: len(ids) + 1 - len(answer + after)], after[0]


def pad(examples: Sequence[tuple[Tensor, Tensor]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Examples of ids and targets as x, y (B, T), padded on the right; raises ValueError when one is above `length`."""
    longest = max(len(ids) for ids, _ in examples)
    T = longest if length is None else length
    if longest > T:
        raise ValueError(f"an example has {longest} positions, above length={T}: shorten it")
    x = torch.stack([F.pad(ids, (0, T - len(ids))) for ids, _ in examples])
    return x, torch.stack([F.pad(targets, (0, T - len(targets)), value=IGNORE) for _, targets in examples])


def answer_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, over the targets y (B, T) that count; raises ValueError if none does."""
    counts = y != IGNORE
    if not counts.any():
        raise ValueError("no target counts: every one is IGNORE")
    return F.cross_entropy(model(x)[counts], y[counts])
