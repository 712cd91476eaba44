"""Checks of notebook 15, instruction tuning: the targets of a conversation, and answers that end."""

import torch

from .exercise import exercise, prediction

BROKEN = """def chat_example(messages, end):
    ids, first = [], None
    for role, tokens in messages:
        if role == "assistant" and first is None:
            first = len(ids)
        ids += tokens + [end] if role == "assistant" else tokens
    return ids[:-1], [-100] * first + ids[first + 1 :]"""
ONE = [("user", [5, 6]), ("assistant", [7])]
TWO_TURNS = [("user", [5]), ("assistant", [7, 8]), ("user", [6, 9]), ("assistant", [4])]
SYSTEM = [("system", [3, 6]), ("user", [5]), ("user", [4]), ("assistant", [7, 8])]
THREE = [
    ("user", [3, 4, 5]),
    ("assistant", [6]),
    ("user", [7]),
    ("assistant", [8, 9, 3]),
    ("user", [5]),
    ("assistant", [4]),
]


@exercise(
    cases=[(ONE, 1), (TWO_TURNS, 1), (THREE, 2), ([("user", [4]), ("assistant", [1, 4, 1])], 1), (SYSTEM, 2)],
    pairs=True,
    mistakes={
        "tokens + [end] * answer": {
            "tokens + [end]": "the end token also stands after what the user says: only answers end with it",
            "tokens": "the end token is missing: the model could not learn where an answer ends",
        },
        "[answer] * (len(tokens) + answer)": {
            "[answer] * len(tokens) + [False] * answer": "the end token does not count: it is a part of the "
            "answer, and the model learns from it where to stop",
            "[True] * (len(tokens) + answer)": "every token is a target that counts, those of the instructions too",
            "[answer or any(counts)] * (len(tokens) + answer)": "everything from the first answer on counts, the "
            "instructions of later turns too",
            "[answer and not any(counts)] * (len(tokens) + answer)": "only the first answer counts: those "
            "of later turns do as well",
            "([False] + [True] * len(tokens) if answer else [False] * len(tokens))": "the first token of each answer "
            "does not count: it is the target at the position before the answer",
            '[role != "user"] * (len(tokens) + answer)': "the system message counts too: only answers do",
            "[not answer] * (len(tokens) + answer)": "the mask is the wrong way round: the answers count",
        },
        "counts[1:]": {
            "counts": "the mask belongs to the inputs: a position counts when its target, the next token, does",
        },
        "zip(ids[1:], counts[1:])": {
            "zip(ids[:-1], counts[:-1])": "the targets are the inputs themselves, at the same positions: the "
            "target is the next token",
            "zip(ids, counts)": "the targets are the inputs themselves: the target is the next token",
        },
        "else -100": {"else 0": "what does not count is 0, the id of a token: `cross_entropy` ignores -100"},
        "return ids[:-1]": {
            "return ids": "there is one input more than there are targets: the last token is only a target",
            "return ids[1:]": "the inputs are shifted as well: they are all ids but the last",
        },
        "": {BROKEN: "this is the function that is to be repaired"},
    },
    said="only answers and their end tokens count, in every turn.",
)
def chat_example(messages, end):
    ids, counts = [], []
    for role, tokens in messages:
        answer = role == "assistant"
        ids += tokens + [end] * answer
        counts += [answer] * (len(tokens) + answer)
    targets = [i if counted else -100 for i, counted in zip(ids[1:], counts[1:])]
    return ids[:-1], targets


def rows(*rows):
    return torch.tensor(rows)


LETTERS = {
    "b": "in b, the end token follows each answer, but no target says so: look at its share again",
    "c": "in c, there is no end token that could be learned: look at its share again",
}


@exercise(
    cases=[
        (rows([1, 5, 6, 1], [1, 5, 6, 7]), 2, 1),
        (rows([1, 5, 1, 7, 7], [1, 5, 6, 7, 8], [1, 5, 6, 1, 7], [1, 5, 6, 7, 1]), 2, 1),
        (rows([4, 2, 3, 5, 2], [4, 2, 3, 1, 6], [4, 3, 5, 2, 2]), 3, 2),
        (rows([1, 2, 3], [1, 3, 4], [1, 2, 5], [1, 4, 1]), 1, 1),
        (rows([3, 2, 4], [3, 1, 4]), 1, 1),
    ],
    mistakes={
        "rows[:, n_prompt:]": {
            "rows": "the prompt is searched too: it begins with the end token here, so every row would count",
            "rows[:, :n_prompt]": "this is the prompt: the answer begins at index `n_prompt`",
            "rows[:, n_prompt + 1 :]": "the first token of the answer is left out",
            "rows[:, -1:]": "only the last token is looked at: the end token can stand earlier",
        },
        ".any(dim=1)": {
            "": "tokens are counted, and not rows: each row counts once",
            ".all(dim=1)": "every token of the answer has to be the end token here: one is enough",
        },
        ".mean()": {".sum()": "this is the number of rows: divide by how many there are"},
        "(rows[:, n_prompt:] == end)": {
            "(rows[:, n_prompt:] != end)": "it looks for another token than `end`",
        },
    },
    value=prediction({"stops": "a"}, {"stops": LETTERS}, ""),
    said="a row counts once, and the prompt not at all; and only where the end token is a target do the answers end.",
)
def share_that_ends(rows, n_prompt, end):
    return (rows[:, n_prompt:] == end).any(dim=1).float().mean().item()
