"""Two ways to guess the next token from a few before it: learn a table, or count.

`BigramLM` starts from a table of small random numbers and improves it by gradient descent. It sees one token back.
`NGram` counts once and never trains. It sees `order - 1` tokens back, and falls back on shorter contexts where the
long ones are rare. Its losses are lines to hold a trained model against.

B batch · T positions · V vocabulary
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def _check_range(ids: Tensor | np.ndarray, vocab_size: int) -> None:
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if len(outside):
        raise ValueError(f"id {int(outside[0])} is outside the vocabulary of {vocab_size}; give 0 to {vocab_size - 1}")


class BigramLM(nn.Module):
    """A learned table: row i holds the logits of what follows token i. Raises ValueError for vocab_size below 1."""

    def __init__(self, vocab_size: int):
        super().__init__()
        _check_positive(vocab_size=vocab_size)
        self.logits = nn.Embedding(vocab_size, vocab_size)
        # nn.Embedding's own start, std 1, already has opinions. Small values give each token about 1/V: a loss of ln V.
        nn.init.normal_(self.logits.weight, std=0.02)

    def forward(self, idx: Tensor) -> Tensor:
        """Logits of the next token at every position: idx (B, T) -> logits (B, T, V).

        Raises ValueError for an id outside the vocabulary, on the CPU only: a GPU would have to stop and answer.
        """
        if idx.device.type == "cpu":
            _check_range(idx, self.logits.num_embeddings)
        return self.logits(idx)  # (B, T) -> (B, T, V)


def _as_array(ids, vocab_size: int, at_least: int) -> np.ndarray:
    """ids, a list, array or tensor, as a checked int64 array (N,)."""
    ids = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if ids.ndim != 1:
        raise ValueError(f"ids have shape {ids.shape}; give one sequence (N,)")
    if len(ids) < at_least:
        raise ValueError(f"ids has {len(ids)} tokens; give at least {at_least}")
    if len(ids) and ids.dtype.kind not in "iu":
        raise ValueError(f"ids are {ids.dtype}; give integers, as a tokenizer's encode returns")
    _check_range(ids, vocab_size)
    return ids.astype(np.int64)


def _index(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key is among the sorted `keys`, which hold them all: by a table where one is small enough."""
    if keys[-1] > 2**25:
        return np.searchsorted(keys, wanted)
    table = np.empty(keys[-1] + 1, dtype=np.int64)
    table[keys] = np.arange(len(keys))
    return table[wanted]


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted key is among the sorted `keys`, and whether it is there at all."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return index, keys[index] == wanted


class _Level(NamedTuple):
    """What one context length knows: p(w | h) = prob(h w) + backoff(h) p(w | h').

    A context h is known by its index among the contexts of this length. Its key, (oldest token) n' + (index of h'),
    with n' the number of contexts one token shorter, fits in 63 bits for any vocabulary and order.
    """

    contexts: np.ndarray  # sorted keys of each h that was seen
    backoff: np.ndarray  # γ(h)
    grams: np.ndarray  # sorted (index of h) V + w of each h w that was seen
    prob: np.ndarray  # its discounted relative frequency


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D1, D2, D3+ from how many n-grams were seen once, twice, three and four times (Chen & Goodman 1998).

    Where one of the four is 0, or a discount comes out at 0 or below, the estimate means nothing: 0.5, 1, 1.5 instead.
    """
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))
    fallback = np.array([0.5, 1.0, 1.5])
    if 0 in (n1, n2, n3, n4):  # a tiny text, or a level so full that nothing is rare
        return fallback
    Y = n1 / (n1 + 2 * n2)
    D = np.array([1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3])
    return D if (D > 0).all() else fallback


def _kneser_ney(contexts: np.ndarray, grams: np.ndarray, counts: np.ndarray, vocab_size: int) -> _Level:
    """The level of the formula in `NGram`, from the n-grams and their counts."""
    discount = _discounts(counts)[np.minimum(counts, 3) - 1]
    _, first, which = np.unique(grams // vocab_size, return_index=True, return_inverse=True)
    totals = np.add.reduceat(counts, first)  # c(h •)
    return _Level(contexts, np.add.reduceat(discount, first) / totals, grams, (counts - discount) / totals[which])


class NGram:
    """A counted model: the next token's probability from how often it followed the last `order - 1` tokens.

    Order 1 is the relative frequency c(w) / N: a token that `fit` did not see has probability 0, and a loss that meets
    it is infinite. With `add_one=True` it is (c(w) + 1) / (N + V), never 0.

    Order 2 and above is interpolated modified Kneser-Ney. With h the context, h' the context without its oldest token:

        p(w | h) = (c(h w) - D(c(h w))) / c(h •)  +  γ(h) p(w | h')
        γ(h)     = (D1 N1(h •) + D2 N2(h •) + D3+ N3+(h •)) / c(h •)

    D takes D1, D2 or D3+ from an n-gram with a count of 1, 2 or more, and 0 from one not seen. Ni(h •) is how many
    different tokens have count i after h, so γ(h) returns what the discounts took. A context h that was never seen uses
    p(w | h') alone. Under the empty context lies 1 / V.

    At the longest context c counts occurrences. At every shorter one it counts different left neighbours: "Francisco"
    is frequent and follows one word, so it is a poor guess after a new one. Each context length has its own discounts,
    from n1 to n4, how many of its n-grams have a count of 1 to 4; where these cannot tell, they are 0.5, 1 and 1.5.

    Kneser & Ney (1995), "Improved backing-off for m-gram language modeling". Chen & Goodman (1998), "An empirical study
    of smoothing techniques for language modeling".

    Raises ValueError for an order or vocabulary below 1, `add_one` above order 1, and V**order of more than 63 bits.

    >>> NGram(1, vocab_size=3).fit([0, 0, 1, 2]).probs([])
    tensor([0.5000, 0.2500, 0.2500], dtype=torch.float64)
    """

    def __init__(self, order: int, vocab_size: int, *, add_one: bool = False):
        _check_positive(order=order, vocab_size=vocab_size)
        if add_one and order > 1:
            raise ValueError(f"add_one needs order 1, and order is {order}; higher orders are smoothed by Kneser-Ney")
        self.order, self.vocab_size, self.add_one = int(order), int(vocab_size), add_one
        self.levels: list[_Level] = []  # the empty context first, the longest last

    def fit(self, ids) -> "NGram":
        """Count ids (N,), a list, array or tensor, and return the model itself.

        Raises ValueError if ids are fewer than `order` or outside the vocabulary.
        """
        ids, V = _as_array(ids, self.vocab_size, at_least=self.order), self.vocab_size
        if self.order == 1:
            grams, counts = np.unique(ids, return_counts=True)
            total = len(ids) + (V if self.add_one else 0)  # add-one leaves V / total to 1 / V: 1 / total a token
            self.levels = [_Level(np.array([0]), np.array([1 - len(ids) / total]), grams, counts / total)]
            return self
        self.levels, index, n_contexts = [], np.zeros(len(ids), dtype=np.int64), 1
        for k in range(self.order):  # tokens of context; below the longest, a token with a left neighbor is needed
            start = min(k + 1, self.order - 1)
            oldest = ids[start - k : len(ids) - k] if k else 0
            keys = oldest * n_contexts + index[start - len(ids) :]
            contexts = np.unique(keys)
            n_contexts, index = len(contexts), _index(contexts, keys)
            grams = index * V + ids[start:]
            if k < self.order - 1:  # count different left neighbors, not occurrences
                left = ids[start - k - 1 : len(ids) - k - 1]
                grams = np.unique(left * (n_contexts * V) + grams) % (n_contexts * V)
            grams, counts = np.unique(grams, return_counts=True)
            self.levels.append(_kneser_ney(contexts, grams, counts, V))
        return self

    def loss(self, ids) -> float:
        """Mean cross-entropy over every token of ids (N,), in nats a token.

        The first `order - 1` tokens have less past than the others and are predicted from what there is.
        Raises ValueError if ids are empty or outside the vocabulary, and RuntimeError before `fit`.
        """
        ids = _as_array(ids, self.vocab_size, at_least=1)
        n = min(self.order, len(ids))
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)  # (N - n + 1, n)
        first = [self._predict(ids[None, :t], ids[t : t + 1]) for t in range(n - 1)]
        probs = np.concatenate([*first, self._predict(windows[:, :-1], windows[:, -1])])  # (N,)
        with np.errstate(divide="ignore"):  # log 0 is -inf, and that is the answer
            return float(-np.log(probs).mean())

    def probs(self, context) -> Tensor:
        """The distribution of the token after a context of ids, oldest first, of any length -> (V,), float64.

        Only the last `order - 1` ids count.
        Raises ValueError for an id outside the vocabulary, and RuntimeError before `fit`.
        """
        context = _as_array(context, self.vocab_size, at_least=0)
        contexts = np.broadcast_to(context, (self.vocab_size, len(context)))  # the same one for each possible token
        return torch.from_numpy(self._predict(contexts, np.arange(self.vocab_size)))

    def _predict(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The probability of each token after its own context: (N, any), (N,) -> (N,)."""
        if not self.levels:
            raise RuntimeError("this NGram has counted nothing yet; call fit(ids) first")
        index, seen = np.zeros(len(tokens), dtype=np.int64), np.ones(len(tokens), dtype=bool)
        n_contexts, p = 1, np.full(len(tokens), 1 / self.vocab_size)
        for length, level in enumerate(self.levels[: contexts.shape[1] + 1]):
            if length > 0:  # one token further back
                index, found = _find(level.contexts, contexts[:, -length] * n_contexts + index)
                seen &= found
            n_contexts = len(level.contexts)
            gram, found = _find(level.grams, index * self.vocab_size + tokens)
            p = np.where(seen, np.where(found, level.prob[gram], 0) + level.backoff[index] * p, p)
        return p


def baselines(train_ids, val_ids, vocab_size: int, order: int = 7) -> dict[str, float]:
    """Losses that a trained model should beat, on `val_ids`, in nats per token; all are finite.

    Uniform is ln V. The unigram is a relative frequency, smoothed by add-one when the validation set holds a token that
    the training set lacks. The bigram and the n-gram of `order` tokens, the best order on Tiny Shakespeare, are
    Kneser-Ney's.
    """
    losses = {n: NGram(n, vocab_size).fit(train_ids).loss(val_ids) for n in (1, 2, order)}
    if math.isinf(losses[1]):
        losses[1] = NGram(1, vocab_size, add_one=True).fit(train_ids).loss(val_ids)
    return {
        "uniform": math.log(vocab_size),
        "unigram": losses[1],
        "counted bigram": losses[2],
        "best n-gram": losses[order],
    }
