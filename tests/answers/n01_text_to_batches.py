"""Answers to the exercises of notebook 01."""

import torch

from answers import Several


def stacked(ids, starts, T):
    x = torch.stack([ids[s : s + T] for s in starts])
    return x, torch.stack([ids[s + 1 : s + T + 1] for s in starts])


def unfolded(ids, starts, T):
    both = ids.unfold(0, T + 1, 1)[starts]
    return both[:, :-1], both[:, 1:]


class Listed:
    def __init__(self, text):
        self.vocabulary = "".join(sorted({*text}))

    def encode(self, text):
        return list(map(self.vocabulary.index, text))

    def decode(self, ids):
        return "".join(map(self.vocabulary.__getitem__, ids))


class Shared(Listed):
    def __init__(self, text):
        Shared.vocabulary = "".join(sorted(set(text)))


class Returned(Listed):
    def encode(self, text):
        return super().encode(text) if set(text) <= set(self.vocabulary) else ValueError(text)


def dealt(ids, T, generator):
    count = (len(ids) - 1) // T
    order = torch.rand(count, generator=generator).argsort()
    return ids[: count * T].view(count, T)[order], ids[1 : count * T + 1].view(count, T)[order]


def one_by_one(ids, T, generator):
    starts = torch.arange(0, len(ids) - T, T)
    return stacked(ids, starts[torch.randperm(len(starts), generator=generator)], T)


RIGHT = {
    "batch_examples": [Several([[12, 20, 8], 240.0]), Several([torch.Size([12, 20, 8]), torch.tensor(240)])],
    "windows": [stacked, unfolded, lambda *inputs: list(stacked(*inputs))],
    "repaired_tokenizer": [Listed, lambda text: Listed(text)],
    "one_epoch": [dealt, one_by_one],
}
SHUFFLE = "T * torch.randperm(count, generator=generator)"
WRONG = {
    "windows": {
        "but the one at its end is not": lambda ids, starts, T: unfolded(ids, starts.clamp(max=len(ids) - T - 2), T),
        "at index 1 of what it returns: the numbers are wrong in the last column": lambda *inputs: (
            (pair := stacked(*inputs))[0], pair[1] * (torch.arange(inputs[2]) < inputs[2] - 1),
        ),
    },
    "repaired_tokenizer": {
        "`encode` returns ValueError('bandana')": Returned,
        "no error is raised: `encode` returns [1, 0, 2, 9": {"self.to_id[character]": "self.to_id.get(character, 9)"},
        "a list of integers is expected": {" for character in text]": " / 1 for character in text]"},
        "decode(encode('nab')) is a list, ['n'": {'"".join(self.vocabulary[i] for i in ids)': "[*'nab']"},
        "decode(encode('nab')) is a str, 'n a b'": {'"".join': '" ".join'},
        "a second tokenizer changes the first": Shared,
    },
    "one_epoch": {
        "they are not shuffled": {SHUFFLE: "T * torch.arange(count)"},
        "comes twice": {SHUFFLE: "T * torch.randint(count, (count,), generator=generator)"},
        "shuffled apart": {"ids[indices + 1]": "ids[indices + 1].flip(0)"},
        "seeded again": {"randperm(count, generator=generator)": "randperm(count, generator=generator.manual_seed(0))"},
        "two calls with the same seed differ": {", generator=generator": ""},
        "its row is shorter": lambda ids, T, g: stacked(ids, T * torch.randperm(len(ids) // T, generator=g), T),
        "wrong where T divides": lambda ids, T, g: dealt(ids[: len(ids) - (len(ids) % T == 0) * T], T, g),
    },
}  # fmt: skip
