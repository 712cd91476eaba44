"""Checks of notebook 01: windows, their targets, and a tokenizer that loses nothing."""

import contextlib

import torch

from .compare import obeys_generator, same
from .exercise import exercise, prediction
from .report import Mistake, kind, shortened

batch_examples = prediction(
    {"shape": (12, 20, 8), "examples": 240},
    {
        (12, 20): "this is the shape of the ids; after the lookup each id is a vector",
        (12, 20, 65): "a vector has as many numbers as the table has columns, not one per token",
        (12, 8): "there is a vector per id, not one per window",
        (240, 8): "a batch keeps its windows apart: one axis for the windows, one for the positions",
        (12, 21, 8): "the inputs of a window are T ids; the one after them is only a target",
        12: "a window holds more than one training example: every position has a target of its own",
        20: "this is one window, and the batch has twelve",
        12 * 19: "the last position has a target too: it is the id after the window",
        12 * 21: "T + 1 ids are read per window, and T of them are targets",
        12 * 210: "these are the ids in all the contexts; a context is one example, whatever its length",
        12 * 20 * 8: "the channels describe an id; they are not examples of their own",
    },
    said="12 windows of 20 ids have 240 targets, and each of the ids becomes a vector of 8 numbers.",
)
IDS = torch.tensor([50, 10, 40, 20, 70, 30, 90, 60, 80, 25, 15, 45, 35, 65, 55, 5])
TARGETS = {
    "ids[indices], ids[indices]": "the targets equal the inputs: nothing is predicted",
    "ids[indices], ids[indices - 1]": "the targets are shifted the wrong way: they come before the inputs",
    "ids[indices + 1], ids[indices]": "x and y are exchanged: the targets are one step ahead of the inputs",
    "ids[indices], ids[indices + T]": "the targets are T positions ahead, and they should be one ahead",
    "ids[indices], ids[indices].roll(-1, 1)": "the last target is the first id of the window, moved by `roll`",
    "ids[indices], ids[indices] + 1": "1 is added to the ids, and it must be added to their indices",
    "indices, indices + 1": "these are indices into the text, not the ids at those indices",
    "ids[indices], ids[indices + 1][:, -1]": "there is one target per window, and one per position is needed",
    "ids[indices], ids[indices + 1][:, :-1]": "the last target is dropped: it is one position past the window",
    "ids[indices][:, :-1], ids[indices + 1][:, :-1]": "there are T - 1 targets: cut T + 1 ids",
    "torch.cat([ids[indices], ids[indices[:, -1:] + 1]], 1), ids[indices + 1]": "x has T + 1 ids, and needs T",
    "ids[indices].mT, ids[indices + 1].mT": "transposed: each row is a window, each column a position in it",
}
INSIDE = "windows inside the text are right, but the one at its end is not: its last target is the last id"


@exercise(
    cases=[(IDS[:8], IDS.new_tensor([2, 1]), 3), (IDS, IDS.new_tensor([2, 6, 3]), 4), (IDS, IDS.new_tensor([5, 1]), 1)],
    also={INSIDE: [(IDS[:5], IDS.new_tensor([0, 1]), 3), (IDS[:3], IDS.new_tensor([1]), 1)]},
    mistakes={
        "ids[indices], ids[indices + 1]": TARGETS,
        "starts[:, None]": {"0 * starts[:, None]": "`starts` is not used: every window begins at index 0"},
    },
    said="row b begins at its start, y is one step ahead, and the last window that fits keeps its last target.",
)
def windows(ids, starts, T):
    indices = starts[:, None] + torch.arange(T)
    return ids[indices], ids[indices + 1]


def round_trip(answer, made_from, text):
    """The ids of a text that comes back whole; of a text with an unknown character, that it raises an error."""
    tokenizer, ids = answer(made_from), ["an error"]
    if not set(text) <= set(made_from):
        with contextlib.suppress(Exception):
            ids = tokenizer.encode(text)
            return Mistake(f"no error is raised: `encode` returns {shortened(ids)}, and a character is unknown")
        return ids
    ids = tokenizer.encode(text)
    if not isinstance(ids, list) or not all(hasattr(i, "__index__") for i in ids):
        raise Mistake(f"`encode` returns {shortened(ids)}, and a list of integers is expected")
    if (back := tokenizer.decode(ids)) != text:
        raise Mistake(f"decode(encode({text!r})) is {kind(back)}, {shortened(back)}, and not the text")
    return ids


def keeps_its_own(answer):
    """A demand: a second tokenizer leaves the first as it is."""
    first, _ = answer("ab"), answer("xyz")
    with contextlib.suppress(Exception):
        if first.decode(first.encode("ba")) == "ba":
            return None
    return "a second tokenizer changes the first: each must keep its own vocabulary in `self`"


class RepairedTokenizer:
    def __init__(self, text):
        self.vocabulary = sorted(set(text))
        self.to_id = {character: i for i, character in enumerate(self.vocabulary)}

    def encode(self, text):
        return [self.to_id[character] for character in text]

    def decode(self, ids):
        return "".join(self.vocabulary[i] for i in ids)


PANGRAM, LOST = "Sphinx of black quartz, judge my vow.\n", "if character in self.to_id"
repaired_tokenizer = exercise(
    cases=[("banana", "nab"), ("nab", "banana"), ("Anna", "Ann"), (PANGRAM, PANGRAM), (PANGRAM, "my box"), ("a", "")],
    also={"right, except for unknown characters": [("banana", "bandana"), ("banana", "Ban"), ("ab", "a b")]},
    mistakes={
        "sorted(set(text))": {
            "list(set(text))": "the ids follow the order of a set, which may be another each time that Python starts",
            "list(dict.fromkeys(text))": "the ids follow the first appearance: a text in another order gets other ids",
            "sorted(dict.fromkeys(text), key=lambda c: -text.count(c))": "the ids follow the frequency, not the order",
            "sorted(text)": "the vocabulary repeats characters as often as the text does: each needs one entry",
            "['', *sorted(set(text))]": "the ids begin at 1: an index into a list begins at 0",
        },
        "[self.to_id[character] for character in text]": {
            f"[self.to_id[character] for character in text {LOST}]": "an unknown character is left out, with no error",
            "[self.to_id.get(character, 0) for character in text]": "an unknown character gets id 0, which is taken",
        },
    },
    call=round_trip,
    demands=[keeps_its_own],
    said="known text comes back whole, the ids are sorted, and an unknown character raises an error.",
)(RepairedTokenizer)


def in_order(answer, ids, T):
    """The windows in the order of the text."""
    pair = answer(ids, T, torch.Generator().manual_seed(0))
    with contextlib.suppress(Exception):  # anything else is compared as it is
        return tuple(part[pair[0][:, 0].argsort()] for part in pair)
    return pair


def wrong_windows(pair, ids, T):
    """A clue: what the rows are, if not all the windows side by side."""
    (x, y), (right_x, right_y) = pair, in_order(one_epoch.solution, ids, T)
    if same(x, right_x) and sorted(y.tolist()) == right_y.tolist():
        return "x and y are shuffled apart: a window has the targets of another one"
    twice = not same(x, right_x) and all(row in right_x.tolist() for row in x.tolist())
    return "a window comes twice and another never: sample without replacement" if twice else None


def shuffled(answer):
    """A demand: the order is random, and another in each epoch."""
    generator = torch.Generator().manual_seed(3)
    first, second = (answer(torch.arange(401), 4, generator)[0][:, 0] for _ in range(2))
    if (first.diff() % 400 == 4).float().mean() > 0.9:
        return "the windows follow each other as in the text: they are not shuffled"
    return "a second epoch has the order of the first: the generator is seeded again" if same(first, second) else None


PAST = "one window too many: the last target of the last window is past the end of the text"
N = torch.arange(10, 300, 10)


@exercise(
    cases=[(N[:7], 2), (N[:8], 3), (N[:11], 3), (N[:7], 3), (N[:9], 4)],
    also={"wrong where T divides the length of the text": [(N[:6], 3), (N[:8], 4)]},
    mistakes={
        "(len(ids) - 1) // T": {
            "(len(ids) - 2) // T": "the last window is lost if it ends with the text: its target may be the last id",
            "len(ids) // T": PAST,
        },
        "T * torch.randperm(count, generator=generator)": {
            "torch.randperm(len(ids) - T, generator=generator)": "every start is used, so the windows overlap",
            "(T + 1) * torch.randperm(len(ids) // (T + 1), generator=generator)": "starts T + 1 apart lose targets",
            "torch.randint(len(ids) - T, (count,), generator=generator)": "the starts are not multiples of T",
        },
        "ids[indices], ids[indices + 1]": TARGETS,
    },
    clues=[wrong_windows],
    errors={"stack expects each tensor to be equal size": f"{PAST} (its row is shorter)"},
    call=in_order,
    demands=[shuffled, obeys_generator(lambda answer, generator: answer(torch.arange(401), 4, generator)[0])],
    said="every window that fits comes once, with its own targets, in an order that the generator decides.",
)
def one_epoch(ids, T, generator):
    count = (len(ids) - 1) // T
    starts = T * torch.randperm(count, generator=generator)
    indices = starts[:, None] + torch.arange(T)
    return ids[indices], ids[indices + 1]
