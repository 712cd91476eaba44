"""N-gram language models, which predict the next token from the last few: learned by gradient descent, or counted.

`BigramLM` learns the logits of the next token for each current token. `NGram` estimates probabilities from counts of
n-grams, smoothed by Kneser-Ney. Its validation losses (`baselines`) are what a trained model should beat.

B batch · T positions · N tokens of a text · V vocabulary
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
    """A learned bigram model: row i of its table holds the logits of the token after token i."""

    def __init__(self, vocab_size: int):
        super().__init__()
        _check_positive(vocab_size=vocab_size)
        self.logits = nn.Embedding(vocab_size, vocab_size)
        # With small logits every token has a probability near 1/V, so the loss starts near ln V.
        nn.init.normal_(self.logits.weight, std=0.02)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> logits of the next token at every position (B, T, V)."""
        if idx.device.type == "cpu":  # on a GPU, a check would wait for all computations before it
            _check_range(idx, self.logits.num_embeddings)
        return self.logits(idx)


def _as_array(ids, vocab_size: int, at_least: int) -> np.ndarray:
    """`ids` (N,), a list, array or tensor, as an int64 array; raises ValueError for anything else."""
    ids = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if ids.ndim != 1:
        raise ValueError(f"ids have shape {ids.shape}; give one sequence (N,)")
    if len(ids) < at_least:
        raise ValueError(f"ids has {len(ids)} tokens; give at least {at_least}")
    if len(ids) and ids.dtype.kind not in "iu":
        raise ValueError(f"ids are {ids.dtype}; give integers, as a tokenizer's encode returns")
    _check_range(ids, vocab_size)
    return ids.astype(np.int64)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, absent: float) -> np.ndarray:
    """The value of each `wanted` key, or `absent`; `keys` are sorted."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], absent)


class _Level(NamedTuple):
    """What a context length contributes: p(w | h) = prob(h w) + backoff(h) p(w | h').

    The code of a context h is (its oldest token) n_codes' + (code of h'); that of an n-gram h w is (code of h) V + w.
    Where codes could pass 63 bits, each is replaced by its index among the sorted `observed` ones.
    """

    observed: np.ndarray | None
    n_codes: int  # the codes of contexts of this length are below it
    grams: np.ndarray  # sorted codes of each h w that was seen
    prob: np.ndarray  # its discounted relative frequency
    contexts: np.ndarray  # sorted codes of each h that was seen
    backoff: np.ndarray  # γ(h)


def _reindex(codes: np.ndarray, observed: np.ndarray | None) -> np.ndarray:
    """`codes`, or the index of each among the `observed` ones; a code that is not among them becomes their number."""
    return codes if observed is None else _look_up(observed, np.arange(len(observed)), codes, absent=len(observed))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D1, D2, D3+ as Chen & Goodman estimate them, or 0.5, 1 and 1.5 where an estimate is undefined or not positive."""
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))  # n-grams with these counts
    fallback = np.array([0.5, 1.0, 1.5])
    if 0 in (n1, n2, n3, n4):  # a tiny text, or one in which no n-gram of this length is rare
        return fallback
    Y = n1 / (n1 + 2 * n2)
    D = np.array([1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3])
    return D if (D > 0).all() else fallback


def _kneser_ney(observed: np.ndarray | None, n_codes: int, grams: np.ndarray, vocab_size: int) -> _Level:
    """The level of the formula in `NGram`, from the code of every n-gram that counts."""
    grams, counts = np.unique(grams, return_counts=True)
    discount = _discounts(counts)[np.minimum(counts, 3) - 1]
    contexts, first, which = np.unique(grams // vocab_size, return_index=True, return_inverse=True)
    totals = np.add.reduceat(counts, first)  # c(h •)
    prob, backoff = (counts - discount) / totals[which], np.add.reduceat(discount, first) / totals
    return _Level(observed, n_codes, grams, prob, contexts, backoff)


class NGram:
    """An n-gram model: the probability of a token, given the `order - 1` tokens before it, estimated from counts.

    Order 1 is the relative frequency c(w) / N: a token that `fit` did not see has probability 0, and an infinite loss.
    With `add_one=True` it is (c(w) + 1) / (N + V), never 0.

    Order 2 and above is interpolated modified Kneser-Ney. With h the context, h' the context without its oldest token:

        p(w | h) = (c(h w) - D(c(h w))) / c(h •)  +  γ(h) p(w | h')
        γ(h)     = (D1 N1(h •) + D2 N2(h •) + D3+ N3+(h •)) / c(h •)

    D is D1, D2 or D3+ for an n-gram with a count of 1, 2 or more, and 0 for one that was not seen. Ni(h •) is how many
    different tokens have count i after h, so γ(h) is the probability that the discounts removed. After a context that
    was not seen, p is p(w | h'). Below the empty context is the uniform distribution, 1 / V.

    At the longest context, c counts occurrences. At every shorter one it counts different left neighbors: "Francisco"
    is frequent, but follows only one word, so it is unlikely after a new one. Each length has its own discounts.

    Kneser & Ney 1995; Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling".

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
        """Count `ids` (N,), at least `order` of them, and return the model itself."""
        ids, V = _as_array(ids, self.vocab_size, at_least=self.order), self.vocab_size
        if self.order == 1:
            grams, counts = np.unique(ids, return_counts=True)
            total = len(ids) + (V if self.add_one else 0)  # add-one: the backoff, V / total, is 1 / total per token
            self.levels = [_Level(None, 1, grams, counts / total, np.array([0]), np.array([1 - len(ids) / total]))]
            return self
        self.levels, codes, n_codes = [], np.zeros(len(ids), dtype=np.int64), 1  # codes of the k tokens before each
        for k in range(self.order):
            observed = None
            if k > 0:
                codes, n_codes = ids[:-k] * n_codes + codes[1:], n_codes * V
            if n_codes * V**2 > 2**63:  # room for two more tokens, w and a left neighbor
                observed = np.unique(codes)
                codes, n_codes = _reindex(codes, observed), len(observed) + 1
            grams = codes * V + ids[k:]
            if k < self.order - 1:  # count different left neighbors, not occurrences
                grams = np.unique(ids[: -k - 1] * (n_codes * V) + grams[1:]) % (n_codes * V)
            self.levels.append(_kneser_ney(observed, n_codes, grams, V))
        return self

    def loss(self, ids) -> float:
        """Mean cross-entropy over all of `ids` (N,), in nats per token."""
        return float(self.losses(ids).mean())

    def losses(self, ids) -> Tensor:
        """The surprisal of each of `ids` (N,) in nats, (N,) in float64; the first ones have shorter contexts."""
        ids = _as_array(ids, self.vocab_size, at_least=1)
        n = min(self.order, len(ids))
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)  # (N - n + 1, n)
        first = [self._predict(ids[None, :t], ids[t : t + 1]) for t in range(n - 1)]
        probs = np.concatenate([*first, self._predict(windows[:, :-1], windows[:, -1])])  # (N,)
        return -torch.from_numpy(probs).log()  # a token of probability 0 has infinite loss

    def probs(self, context) -> Tensor:
        """The probabilities (V,), float64, of the token after `context`, ids with the oldest first, of any length."""
        context = _as_array(context, self.vocab_size, at_least=0)
        contexts = np.broadcast_to(context, (self.vocab_size, len(context)))  # the same one for each possible token
        return torch.from_numpy(self._predict(contexts, np.arange(self.vocab_size)))

    def _predict(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The probability of each token after its own context: (N, any), (N,) -> (N,)."""
        if not self.levels:
            raise RuntimeError("this NGram has counted nothing yet; call fit(ids) first")
        codes, p = np.zeros(len(tokens), dtype=np.int64), np.full(len(tokens), 1 / self.vocab_size)
        for k, level in enumerate(self.levels[: contexts.shape[1] + 1]):
            if k > 0:  # one token further back
                codes = contexts[:, -k] * self.levels[k - 1].n_codes + codes
            codes = _reindex(codes, level.observed)
            prob = _look_up(level.grams, level.prob, codes * self.vocab_size + tokens, absent=0.0)
            p = prob + _look_up(level.contexts, level.backoff, codes, absent=1.0) * p
        return p


def baselines(train_ids, val_ids, vocab_size: int, order: int = 7) -> dict[str, float]:
    """The losses on `val_ids` that a trained model should beat, in nats per token.

    Uniform is ln V, the unigram is a relative frequency (add-one where the validation set has a token that the training
    set lacks), and the others are Kneser-Ney: a bigram, and `order`, which is 7 because that is best on Shakespeare.
    """
    losses = {n: NGram(n, vocab_size).fit(train_ids).loss(val_ids) for n in (1, 2, order)}
    if math.isinf(losses[1]):
        losses[1] = NGram(1, vocab_size, add_one=True).fit(train_ids).loss(val_ids)
    names = {"unigram": 1, "counted bigram": 2, "best n-gram": order}
    return {"uniform": math.log(vocab_size)} | {name: losses[n] for name, n in names.items()}
