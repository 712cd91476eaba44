"""Checks of notebook 15: tokens as text, LoRA layers, losses on held-out text, targets, end tokens, learning rates."""

import torch
from torch import nn
from torch.nn import functional as F

from .compare import same, tensors
from .exercise import exercise, prediction
from .report import Mistake

ONE_BY_ONE = """def to_text(tokens):
    parts = [bytes([int(t[3:5], 16)]) if len(t) == 6 and t[:3] == "<0x" else t.encode("utf-8") for t in tokens]
    return "".join(part.decode("utf-8", errors="replace") for part in parts).replace("▁", " ").removeprefix(" ")"""
KEPT_AS_TEXT = """def to_text(tokens):
    return "".join(tokens).replace("▁", " ").removeprefix(" ")"""
SPACED = """def to_text(tokens):
    return right([token.removeprefix("▁") + "▁" for token in tokens])"""


@exercise(
    cases=[
        (["▁a", "▁cat"],),
        (["▁a", "▁", "<0xC3>", "<0xA9>"],),
        (["▁", "<0xF0>", "<0x9F>", "<0x8E>", "<0x88>", "▁up"],),
        (["ca", "fé", "▁", "東", "<0xE4>", "<0xBA>", "<0xAC>", "<0x0A>"],),
        (["▁▁▁", "▁y", "▁"],),
        (["▁", "<0x0A>", "x", "▁<", "▁y", "<", "/", "b", ">"],),
        (["▁a", "<0xF0>", "<0x9F>", "▁b", "<0xA9>"],),
    ],
    mistakes={
        "": {
            ONE_BY_ONE: "each byte is decoded alone, so that none becomes part of a character: join the bytes first, "
            "then decode them together",
            KEPT_AS_TEXT: "a token such as <0xC3> stands for the byte of this value, and is not text itself",
            SPACED: "a space is put between all tokens: there is one only where a token has ▁",
        },
        "data += bytes([int(token[3:5], 16)])": {
            'data += chr(int(token[3:5], 16)).encode("utf-8")': "`chr` takes each byte for a character of its own: "
            "in UTF-8, several bytes together make one",
            "pass": "the byte tokens are left out: they spell the characters that are no token",
            "data += bytes([int(token[3:5])])": "the digits of a byte token are hexadecimal: int(…, 16)",
        },
        '"▁", " "': {
            '"▁", ""': "the spaces are lost: each ▁ is one",
            '"_", " "': "▁ (U+2581, to be copied from the task) is not the underscore _",
        },
        '.removeprefix(" ")': {
            "": "the first space is left in: encoding has put it before the text",
            ".lstrip()": "all whitespace at the beginning is removed: encoding has added a single space",
            '.lstrip(" ")': "all spaces at the beginning are removed: encoding has added one",
            ".strip()": "whitespace is removed at both ends: encoding has added a single space, at the beginning",
            '.strip(" ")': "spaces are removed at both ends: encoding has added a single one, at the beginning",
            "[1:]": "the first character is cut off whatever it is: tokens from the middle of a text begin without ▁",
        },
        '"utf-8", errors="replace"': {
            '"utf-8", errors="ignore"': "bytes that are no UTF-8 disappear: each place where they stood becomes �",
            '"utf-8", errors="backslashreplace"': "bytes that are no UTF-8 become �, with errors='replace'",
            '"latin-1"': "the bytes are read as Latin-1, in which each byte is a character: they are UTF-8",
        },
    },
    errors={
        "invalid literal for int() with base 16": "not every token that begins with < is a byte: `<0xC3>` has the form "
        "that all byte tokens have",
        "invalid literal for int() with base 10": "the digits of a byte token are hexadecimal: int(…, 16)",
        "codec can't decode": "bytes that are no UTF-8, such as half of a character, become �: errors='replace'",
    },
    said="bytes are joined before they are decoded, ▁ is a space, and only the first one is left out.",
)
def to_text(tokens):
    data = b""
    for token in tokens:
        if len(token) == 6 and token.startswith("<0x"):
            data += bytes([int(token[3:5], 16)])
        else:
            data += token.replace("▁", " ").encode("utf-8")
    return data.decode("utf-8", errors="replace").removeprefix(" ")


def lora_case(seed, rank, C_in, C_out, alpha, *shape):
    """x (..., C_in), W (C_out, C_in), b (C_out,), A (r, C_in), B (C_out, r) and alpha."""
    return *tensors(seed, (*shape, C_in), (C_out, C_in), (C_out,), (rank, C_in), (C_out, rank)), alpha


SMALLEST = [torch.tensor(values) for values in ([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0])]
TWO = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 6.0
BOTH = "x @ W.T + b + alpha / rank * (x @ A.T @ B.T)"


@exercise(
    cases=[
        (*SMALLEST, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), 10.0),
        (*SMALLEST, *TWO),
        lora_case(1, 3, 4, 5, 12.0, 2),
        lora_case(2, 4, 6, 3, 2.5, 2, 3),
        lora_case(3, 2, 5, 5, 1.0, 3),
    ],
    mistakes={
        "alpha / rank *": {
            "alpha *": "alpha is not divided by the rank",
            "1 / rank *": "alpha is left out: the change is divided by the rank alone",
            "": "alpha and the rank are left out of the change",
            "alpha * rank *": "the change is multiplied by the rank: divide by it",
            "rank / alpha *": "the factor is inverted: alpha over the rank",
            "alpha / rank**0.5 *": "the change is divided by the root of the rank: divide by the rank itself",
            "(alpha / rank) ** 2 *": "the factor is applied twice: once to A and once to B, perhaps",
            "alpha / A.shape[1] *": "the change is divided by the number of inputs: the rank is the number of A's rows",
            "alpha / len(B) *": "the change is divided by the number of outputs: the rank is that of B's columns",
        },
        "x @ W.T + b +": {
            "": "the frozen layer is left out: this is the change alone",
            "x @ W.T +": "the bias of the frozen layer is left out",
            "b +": "the frozen matrix is left out: its product with x is missing",
            "x @ W + b +": "W is not transposed: each row of W belongs to one output",
            "x + b +": "x itself is added to the change, and not its product with W",
        },
        "(x @ A.T @ B.T)": {
            "(x @ W.T @ B @ A)": "the change takes the output of the frozen layer as its input: it takes x",
            "(x @ (B @ A))": "the change is not transposed: like W, B A has one row per output",
            "(x @ A.T @ B.T + b)": "the bias is added twice, and once of these times the factor",
        },
        BOTH: {
            "alpha / rank * (x @ W.T + b + x @ A.T @ B.T)": "the factor multiplies the frozen layer too: it belongs to "
            "the change alone",
            "x @ W.T + b - alpha / rank * (x @ A.T @ B.T)": "the change is subtracted: add it",
            "(x @ W.T + b) * (alpha / rank * (x @ A.T @ B.T))": "the outputs are multiplied: add them",
            "x @ W.T + b": "the change is left out: this is the frozen layer",
        },
    },
    said="the frozen layer, and beside it the change, times alpha over the rank.",
)
def lora_output(x, W, b, A, B, alpha):
    rank = len(A)
    return x @ W.T + b + alpha / rank * (x @ A.T @ B.T)


def state_of(model):
    """What a measurement has no reason to change."""
    parameters, layers = list(model.parameters()), list(model.modules())
    return {
        "the parameters are": [parameter.detach().clone() for parameter in parameters],
        "the gradients are": [parameter.grad is None for parameter in parameters],
        "`requires_grad` of the parameters is": [parameter.requires_grad for parameter in parameters],
        "the layers are": [type(layer).__name__ for layer in layers],
        "the rate of dropout is": [layer.p for layer in layers if isinstance(layer, nn.Dropout)],
    }


def measured(answer, training, targets):
    """The loss of a small model with dropout, and which of its parts are in training mode afterwards."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 16), nn.Dropout(0.5), nn.Linear(16, 4)).train(training)
    y = torch.tensor([targets])
    x = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1].clamp(min=0)], dim=1)
    before = state_of(model)
    loss = answer(model, x, y)
    if found := [name for name, part in state_of(model).items() if not same(part, before[name])]:
        raise Mistake(f"afterwards, {found[0]} not as before: measuring a loss leaves the model as it is")
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        raise Mistake("the loss still holds its graph for the backward pass: compute it under `torch.no_grad()`")
    return None if loss is None else {"loss": loss, "training afterwards": [part.training for part in model.modules()]}


def which(result, training, targets):
    """A clue: whether the loss or the mode is wrong."""
    right = measured(held_out_loss.solution, training, targets)
    if not same(result["loss"], right["loss"]):
        return "the loss is another one than that without dropout"
    return "the loss is right, but afterwards the model is in another mode than before"


@exercise(
    cases=[(True, [1]), (False, [1, 2]), (True, [3, 0, 2, 2]), (True, [1, 1, -100, 2, -100]), (False, [2, -100, 0])],
    mistakes={
        "model.eval()": {
            "pass": "dropout stays on where the model is in training mode: call `model.eval()` before the forward pass",
            "model.train()": "`model.train()` switches dropout on: `model.eval()` switches it off",
        },
        "model.train(training)": {
            "pass": "the model is left in evaluation mode: fine-tuning would go on without dropout",
            "model.train()": "the model is always left in training mode, even if it was in evaluation mode before",
            "model.train(not training)": "afterwards the mode is the opposite of what it was",
            "model.training = training": "only the top of the model gets its mode back, and not the layers in it: call "
            "`model.train(training)`",
        },
        "F.cross_entropy(model(x).flatten(0, 1), y.flatten())": {
            'F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")': "the losses are added: "
            "return their mean",
            'F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") / y.numel()': "targets of -100 are "
            "counted: divide by the number of the others",
        },
    },
    call=measured,
    clues=[which],
    said="the loss without dropout, and the model is left in the mode in which it was.",
)
def held_out_loss(model, x, y):
    training = model.training
    model.eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    model.train(training)
    return loss.item()


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


KEPT = {
    (0,): "a model with a lower loss on Lincoln is missing: no other one can beat the lowest",
    (1,): "the lowest loss on Shakespeare is missing: compare number 1 with number 0 on both texts",
    (0, 1, 2): "number 2 has higher losses than number 1 on both texts",
    (0, 1, 3): "number 3 has higher losses than number 1 on both texts",
    (0, 1, 2, 3): "two of the four are beaten: compare each with number 1 on both texts",
    (2, 3): "these are the two that are beaten: enter the others",
}
ONE_BEST = """def unbeaten(losses):
    return [min(range(len(losses)), key=lambda i: sum(losses[i]))]"""
WEIGHTED = """def unbeaten(losses):
    kept = set()
    for weight in range(1, 1000):
        sums = [weight * new + (1000 - weight) * old for new, old in losses]
        kept |= {i for i, total in enumerate(sums) if total <= min(sums) + 1e-9}
    return sorted(kept)"""
BY_LINCOLN = """def unbeaten(losses):
    lowest, kept = float("inf"), []
    for i in sorted(range(len(losses)), key=lambda i: losses[i]):
        if losses[i][1] < lowest:
            kept.append(i)
            lowest = losses[i][1]
    return kept"""


@exercise(
    cases=[
        ([(1.5, 1.7), (1.6, 1.4), (1.7, 1.5)],),
        ([(2.0, 1.0)],),
        ([(2.0, 1.0), (1.0, 2.0)],),
        ([(1.0, 2.0), (1.0, 1.5), (1.5, 1.5)],),
        ([(1.5, 1.5), (1.2, 1.9), (1.5, 1.5)],),
        ([(1.0, 2.0), (1.7, 1.8), (2.0, 1.0)],),
        ([(1.9, 1.8), (1.7, 1.6), (1.6, 1.7), (1.8, 1.9), (1.5, 2.0), (2.1, 1.6), (1.5, 1.9)],),
        ([(2.3, 1.3), (1.6, 1.5), (2.4, 3.2), (1.9, 3.0), (1.6, 1.6)],),
    ],
    mistakes={
        "n <= new and o <= old and (n < new or o < old)": {
            "n < new and o < old": "a model that is better on one text and equal on the other beats too",
            "n < new or o < old": "better on one text is not enough: the other must not be worse on either text",
            "n >= new and o >= old and (n > new or o > old)": "higher losses beat lower ones here: lower is better",
            "n <= new and o < old": "equal on Shakespeare and lower on Lincoln beats too",
            "n < new and o <= old": "equal on Lincoln and lower on Shakespeare beats too",
            "n + o < new + old": "the two losses are added: compare each text by itself",
            "n < new": "only the losses on Lincoln are compared",
            "o < old": "only the losses on Shakespeare are compared",
        },
        "if not beaten": {"if beaten": "these are the models that are beaten: return the others"},
        "[i for": {
            "[(new, old) for": "these are the losses of the models: return their indices",
            "[i + 1 for": "the indices are counted from 1: the first model has index 0",
        },
        "": {
            WEIGHTED: "a weighted sum of the losses is used: it never chooses a model such as number 1 here, which no "
            "other beats on both texts",
            ONE_BEST: "this is one model, the one with the lowest sum: several can be unbeaten",
            BY_LINCOLN: "the indices are in the order of the losses on Lincoln, and of equal models one is missing: "
            "return all that are unbeaten, in rising order",
        },
    },
    value=prediction({"kept": {0, 1}}, {"kept": KEPT}, "", clue=lambda given: "enter a list of numbers from 0 to 3"),
    said="a model is unbeaten if none is at least as good on both texts and better on one.",
)
def unbeaten(losses):
    def beaten(new, old):
        return any(n <= new and o <= old and (n < new or o < old) for n, o in losses)

    return [i for i, (new, old) in enumerate(losses) if not beaten(new, old)]
