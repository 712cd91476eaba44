"""Answers to the exercises of notebook 01."""

from collections import Counter
from string import ascii_letters

import numpy as np
import torch

from answers import Several

# ---------------------------------------------------------------- right, in other styles


def stacked(ids, starts, T):
    x = torch.stack([ids[s : s + T] for s in starts])
    y = torch.stack([ids[s + 1 : s + T + 1] for s in starts])
    return x, y


def unfolded(ids, starts, T):
    both = ids.unfold(0, T + 1, 1)[starts]
    return both[:, :-1], both[:, 1:]


def element_by_element(ids, starts, T):
    x, y = torch.empty(len(starts), T, dtype=ids.dtype), torch.empty(len(starts), T, dtype=ids.dtype)
    for b, start in enumerate(starts.tolist()):
        for t in range(T):
            x[b, t], y[b, t] = ids[start + t], ids[start + t + 1]
    return [x, y]


class Listed:
    def __init__(self, text):
        self.vocabulary = "".join(sorted({*text}))

    def encode(self, text):
        return list(map(self.vocabulary.index, text))

    def decode(self, ids):
        text = ""
        for i in ids:
            text += self.vocabulary[i]
        return text


class Strict(Listed):
    def encode(self, text):
        assert set(text) <= set(self.vocabulary), "unknown characters"
        return [self.vocabulary.find(character) for character in text]


def dealt(ids, T, generator):
    count = (len(ids) - 1) // T
    order = torch.rand(count, generator=generator).argsort()
    return ids[: count * T].view(count, T)[order], ids[1 : count * T + 1].view(count, T)[order]


def dealt_one_by_one(ids, T, generator):
    starts = torch.arange(0, len(ids) - T, T)
    return stacked(ids, starts[torch.randperm(len(starts), generator=generator)], T)


def dealt_by_swaps(ids, T, generator):
    starts = list(range(0, len(ids) - T, T))
    for last in range(len(starts) - 1, 0, -1):
        other = torch.randint(last + 1, (1,), generator=generator).item()
        starts[last], starts[other] = starts[other], starts[last]
    return unfolded(ids, torch.tensor(starts), T)


RIGHT = {
    "batch_lessons": [Several([[12, 20, 8], 240.0]), Several([torch.Size([12, 20, 8]), torch.tensor(240)])],
    "windows": [stacked, unfolded, element_by_element],
    "repaired_tokenizer": [Listed, Strict, lambda text: Listed(text)],
    "one_epoch": [dealt, dealt_one_by_one, dealt_by_swaps],
}

# ---------------------------------------------------------------- wrong


class Grown:
    vocabulary, to_id = [], {}

    def __init__(self, text):
        for character in sorted(set(text) - set(self.vocabulary)):
            self.to_id[character] = len(self.vocabulary)
            self.vocabulary.append(character)

    def encode(self, text):
        return [self.to_id[character] for character in text]

    def decode(self, ids):
        return "".join(self.vocabulary[i] for i in ids)


def changed(x_change=lambda x: x, y_change=lambda y: y):
    def answer(ids, starts, T):
        x, y = stacked(ids, starts, T)
        return x_change(x), y_change(y)

    return answer


def moved(x_on, y_on):
    def answer(ids, starts, T):
        places = starts[:, None] + torch.arange(T)
        return ids[places + x_on], ids[places + y_on]

    return answer


def in_place(ids, starts, T):
    pair = stacked(ids, starts, T)
    ids[0] = 0
    return pair


def short_at_the_end(ids, starts, T):
    return unfolded(ids, starts.clamp(max=len(ids) - T - 2), T)


class Small(Listed):
    def __init__(self, text):
        super().__init__(text.lower())

    def encode(self, text):
        return super().encode(text.lower())


def tokenizer(order=lambda text: sorted(set(text)), encode=None, decode=None):
    class Answer:
        def __init__(self, text):
            self.vocabulary = list(order(text))
            self.to_id = {character: i for i, character in enumerate(self.vocabulary)}

        def encode(self, text):
            return encode(self, text) if encode else [self.to_id[character] for character in text]

        def decode(self, ids):
            return decode(self, ids) if decode else "".join(self.vocabulary[i] for i in ids)

    return Answer


class Shared(Listed):
    def __init__(self, text):
        Shared.vocabulary = "".join(sorted(set(text)))


class OfThePage(Listed):
    def __init__(self, text):
        self.vocabulary = "".join(sorted("\n !$&',-.3:;?" + ascii_letters))


def error_returned(self, text):
    for character in text:
        if character not in self.to_id:
            return ValueError(f"unknown: {character}")
    return [self.to_id[character] for character in text]


def growing(self, text):
    for character in text:
        if character not in self.to_id:
            self.to_id[character] = len(self.vocabulary)
            self.vocabulary.append(character)
    return [self.to_id[character] for character in text]


def epoch_of(starts_of, change=lambda x, y: (x, y)):
    def answer(ids, T, generator):
        starts = starts_of(torch.arange(0, len(ids) - T, T), generator)
        return change(*stacked(ids, starts, T))

    return answer


def permuted(starts, generator):
    return starts[torch.randperm(len(starts), generator=generator)]


def shuffled_apart(ids, T, generator):
    return dealt(ids, T, generator)[0], dealt(ids, T, generator)[1]


def ids_shuffled_first(ids, T, generator):
    return dealt(ids[torch.randperm(len(ids), generator=generator)], T, generator)


def inside_shuffled(ids, T, generator):
    x, y = dealt(ids, T, generator)
    order = torch.randperm(T, generator=generator)
    while T > 1 and order.diff().eq(1).all():
        order = torch.randperm(T, generator=generator)
    return x[:, order], y[:, order]


def too_many(ids, T, generator):
    starts = permuted(torch.arange(0, len(ids) - T + 1, T), generator)
    return stacked(ids, starts, T)


def rolled(ids, T, generator):
    count = len(ids) // T
    order = torch.randperm(count, generator=generator)
    x, y = (part[: count * T].view(count, T) for part in (ids, ids.roll(-1)))
    return x[order], y[order]


def seeded_by_itself(ids, T, generator):
    return dealt(ids, T, torch.Generator().manual_seed(0))


def seeded_anew(ids, T, generator):
    return dealt(ids, T, torch.Generator().manual_seed(generator.initial_seed()))


def rotated(starts, generator):
    return starts.roll(torch.randint(len(starts), (1,), generator=generator).item())


def with_replacement(starts, generator):
    return starts[torch.randint(len(starts), (len(starts),), generator=generator)]


def random_starts(starts, generator):
    return torch.randint(int(starts.max()) + 1, (len(starts),), generator=generator)


LOST = "unknown is left out"
STAYS = "gets an id all the same"

WRONG = {
    "batch_lessons": [
        (Several([(12, 20), 240]), "these are the ids"),
        (Several([(20, 12, 8), 240]), "wrong order"),
        (Several([(12, 20, 65), 240]), "as the table has columns"),
        (Several([(12, 8), 240]), "not one for the window"),
        (Several([(240, 8), 240]), "keeps its windows apart"),
        (Several([240, 240]), "a shape is expected"),
        (Several([(12, 20, 8), 12]), "more than one lesson"),
        (Several([(12, 20, 8), 228]), "the last position has a target"),
        (Several([(12, 20, 8), 252]), "T of them have a target"),
        (Several([(12, 20, 8), 1920]), "not lessons of their own"),
        (Several([(12, 20, 8), 2520]), "staircase"),
        (Several([(12, 20, 8), 980]), "a window may start at"),
        (Several([(12, 20, 8), "240"]), "a number is expected"),
    ],
    "windows": [
        (changed(y_change=lambda y: torch.cat([y[:, :-1], 0 * y[:, :1]], 1)), "only the last target"),
        (changed(y_change=lambda y: y.roll(1, 1)), "y does not hold the id that comes after"),
        (lambda ids, starts, T: (stacked(ids, starts, T)[0],) * 2, "targets equal inputs"),
        (lambda ids, starts, T: (stacked(ids, starts, T)[1],) * 2, "targets equal inputs"),
        (lambda ids, starts, T: stacked(ids, starts.flip(0), T), "in another order"),
        (changed(lambda x: x.flip(1), lambda y: y.flip(1)), "backwards"),
        (moved(0, -1), "the wrong way"),
        (moved(0, 2), "shifted by two|IndexError"),
        (moved(1, 2), "one place late|IndexError"),
        (moved(-1, 0), "one place early"),
        (lambda *inputs: stacked(*inputs)[::-1], "x and y are exchanged"),
        (lambda ids, starts, T: moved(0, T)(ids, starts, T), "those of the next window|IndexError"),
        (lambda *inputs: (stacked(*inputs)[0], stacked(*inputs)[0].roll(-1, 1)), "roll the window"),
        (lambda *inputs: (stacked(*inputs)[0], stacked(*inputs)[0] + 1), "not the id"),
        (lambda ids, *rest: stacked(torch.arange(len(ids)), *rest), "places in the text"),
        (changed(y_change=lambda y: y[:, :-1]), "the last target is dropped"),
        (changed(lambda x: x[:, :-1], lambda y: y[:, :-1]), "T - 1 lessons"),
        (changed(y_change=lambda y: y[:, -1]), "one target a window"),
        (changed(torch.Tensor.t, torch.Tensor.t), "transposed"),
        (changed(torch.flatten, torch.flatten), "joined into one row"),
        (lambda ids, starts, T: stacked(ids, starts[:1], T), "only the first window"),
        (lambda ids, starts, T: stacked(ids, starts * 0, T), "`starts` is not used"),
        (lambda ids, starts, T: stacked(ids, starts, 3), "x: the shape is"),
        (short_at_the_end, "one that ends with it is not"),
        (changed(list, list), "x is a list"),
        (changed(y_change=torch.Tensor.tolist), "y is a list"),
        (changed(torch.Tensor.float), "x: the result holds float32"),
        (changed(y_change=lambda y: y.to("meta")), "y: the result is on the device meta"),
        (lambda *inputs: stacked(*inputs)[0], "returns a tensor"),
        (lambda *inputs: (*stacked(*inputs), 0), "returns 3 things"),
        (lambda *inputs: print(end=""), "returns nothing"),
        (lambda ids, starts, T: stacked(ids, starts, T.size), "AttributeError"),
        (in_place, "changes its input"),
        (stacked(torch.arange(9), torch.tensor([1]), 3), "not a function"),
    ],
    "repaired_tokenizer": [
        (tokenizer(lambda text: list(set(text))), "the order of a set"),
        (tokenizer(dict.fromkeys), "first appearance"),
        (tokenizer(lambda text: [c for c, _ in Counter(text).most_common()]), "the frequency"),
        (tokenizer(sorted), "as often as in the text"),
        (Grown, "tokenizers made before it"),
        (Small, "capitals come back as small letters"),
        (tokenizer(decode=lambda self, ids: "".join(self.vocabulary[i] for i in ids).upper()), "come back as capitals"),
        (tokenizer(list), "the text itself"),
        (tokenizer(lambda text: sorted(set(text))[::-1]), "sorted backwards"),
        (tokenizer(lambda text: ["<unk>", *sorted(set(text))]), "begin at 1"),
        (tokenizer(lambda text: sorted(set(text), key=str.lower)), "not the places of the characters"),
        (tokenizer(encode=lambda self, text: [self.to_id[c] for c in text if c in self.to_id]), LOST),
        (tokenizer(encode=lambda self, text: [self.to_id.get(c, 0) for c in text]), STAYS),
        (tokenizer(encode=lambda self, text: [self.to_id.get(c) for c in text]), STAYS),
        (tokenizer(encode=lambda self, text: ["".join(self.vocabulary).find(c) for c in text]), STAYS),
        (tokenizer(encode=growing), "got an id while encoding"),
        (tokenizer(encode=lambda self, text: [self.to_id[c] for c in text.lower()]), "decode(encode(text)) is not"),
        (tokenizer(encode=lambda self, text: [self.to_id[c] for c in text.strip()]), "decode(encode(text)) is not"),
        (tokenizer(encode=lambda self, text: [self.to_id[c] for c in set(text)]), "decode(encode(text)) is not"),
        (
            tokenizer(encode=lambda self, text: torch.tensor([self.to_id[c] for c in text])),
            "encode: it returns a tensor",
        ),
        (tokenizer(encode=lambda self, text: [np.float32(self.to_id[c]) for c in text]), "ids are whole numbers"),
        (tokenizer(encode=lambda self, text: print(end="")), "returns nothing"),
        (tokenizer(decode=lambda self, ids: [self.vocabulary[i] for i in ids]), "decode: it returns a list"),
        (tokenizer(decode=lambda self, ids: " ".join(self.vocabulary[i] for i in ids)), "decode(encode(text)) is not"),
        (tokenizer(decode=lambda self, ids: self.vocabulary[ids]), "TypeError"),
        (tokenizer(encode=error_returned), "raised, not returned"),
        (OfThePage, "a variable of the page"),
        (Shared, "a second tokenizer changed the first"),
        (Listed("banana"), "pass the class itself"),
    ],
    "one_epoch": [
        (epoch_of(lambda starts, generator: starts), "the order of the text"),
        (epoch_of(lambda starts, generator: starts.flip(0)), "backwards"),
        (epoch_of(rotated), "only the place to begin"),
        (epoch_of(with_replacement), "comes twice"),
        (epoch_of(random_starts), "overlap or leave gaps"),
        (
            epoch_of(lambda starts, generator: permuted(starts, generator)[:-1]),
            "comes twice|the number of windows is 2",
        ),
        (epoch_of(lambda starts, generator: permuted(starts[:-1], generator)), "the last window is lost"),
        (epoch_of(lambda starts, generator: starts[torch.randperm(len(starts))]), "the generator is ignored"),
        (epoch_of(permuted, lambda x, y: (x, x)), "targets equal inputs"),
        (epoch_of(permuted, lambda x, y: (y, x)), "x and y are exchanged"),
        (epoch_of(permuted, lambda x, y: (x, x.roll(-1, 1))), "y does not hold the id"),
        (epoch_of(permuted, lambda x, y: x), "returns a tensor"),
        (epoch_of(permuted, lambda x, y: (x.float(), y)), "x: the result holds float32"),
        (epoch_of(permuted, lambda x, y: (x.to("meta"), y.to("meta"))), "meta"),
        (epoch_of(permuted, lambda x, y: (x.flatten(), y.flatten())), "x: the shape is"),
        (epoch_of(permuted, lambda x, y: (x.T, y.T)), "transposed"),
        (
            epoch_of(lambda starts, generator: permuted(starts[:-1] + 1, generator)),
            "the windows overlap|number of windows",
        ),
        (lambda ids, T, generator: stacked(ids, torch.arange(0, len(ids) - T, T + 1), T), "T + 1 apart"),
        (epoch_of(permuted, lambda x, y: print(end="")), "returns nothing"),
        (shuffled_apart, "shuffled apart"),
        (ids_shuffled_first, "no windows of the text"),
        (inside_shuffled, "the ids inside a window are shuffled"),
        (too_many, "it runs past the end"),
        (rolled, "one window too many"),
        (seeded_by_itself, "the generator is ignored"),
        (seeded_anew, "seeded anew each time"),
        (lambda ids, T, generator: stacked(ids, torch.arange(len(ids) - T), T), "the windows overlap"),
        (lambda ids, T, generator: dealt(ids.mul_(1), T, None), "the generator is ignored"),
        (lambda ids, T, generator: dealt(ids.add_(1), T, generator), "in place"),
    ],
}
