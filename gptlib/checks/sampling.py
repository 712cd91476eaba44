"""Checks of notebook 08: temperature, positions read, min-p, a cache, and drafts that a larger model checks."""

import math
from functools import partial

import torch

from gptlib.checks.judge import Mistake, examine, exercise, mistakes_of, named_parts, number, same, tensors, unlike
from gptlib.checks.words import a, told

# --- predictions --------------------------------------------------------------------------------------------------


@exercise
def sharpened(answer):
    """A number: the likelier of two tokens, 0.8 and 0.2, at temperature 0.5."""
    mistakes = {
        0.8: "that is temperature 1, which changes nothing",
        2 / 3: "that is temperature 2: it halves the gap between the two scores, and 0.5 doubles it",
        1 / 3: "that is the rarer token, at temperature 2",
        1.6: "the probability is divided by the temperature, and it is the scores that are; no chance is above 1",
        0.4: "the probability is multiplied by the temperature, and it is the scores that change",
        1: "only temperature 0 leaves the other token nothing",
        0.5: "a low temperature moves the two apart; it is a high one that makes them alike",
        0.8**0.5: "a root goes with a temperature above 1, and what is left does not sum to 1 with the other one",
        8 / 9: "the odds are doubled, to 8 : 1; what doubles is the gap between the scores, which are logarithms",
        1 / 9: "the odds are doubled, and this is the rarer token",
        0.64: "the rarer token changes too, and the two must sum to 1 again",
        0.32: "a square is not a double, and the two must sum to 1 again",
        0.96: "what the rarer token would have on its own, taken from 1: the two change first and then share one unit",
        0.9: "the rarer token's probability is halved, and it is the scores that change",
        16: "these are the odds; the probability is the likelier one's part of the whole",
        4: "these are the odds before; asked for is a probability, at temperature 0.5",
        15 / 16: "these odds are not shared out right: odds of 2 : 1 make three parts, not two",
        1 / 16: "that is the rarer token, and odds of 2 : 1 make three parts, not two",
        1 / 17: "that is the rarer token",
        0.2: "that is the rarer token, at temperature 1",
        0.04: "that is the rarer token, and the two do not sum to 1 yet",
        0.7685: "0.8 and 0.2 are taken for scores; a score is the logarithm of a probability, up to a constant",
        0.6457: "a softmax of 0.8 and 0.2: these are probabilities already, and their scores are logarithms",
        0.5744: "0.8 and 0.2 are taken for scores, and multiplied by the temperature",
        0.832: "a softmax compares two scores, and a score is the logarithm of a probability",
        256 / 257: "that is temperature 0.25",
        64 / 65: "the gap between the scores is three times as large: that is temperature 1/3",
        math.log(16): "this is the gap between the two scores; a softmax makes probabilities of it",
        math.log(4): "this is the gap between the two scores at temperature 1",
        94: "a probability is a share of 1, not of 100",
        94.1: "a probability is a share of 1, not of 100",
        94.12: "a probability is a share of 1, not of 100",
    }
    number(answer, 16 / 17, {round(wrong, 2): why for wrong, why in mistakes.items()} | mistakes, tolerance=0.002)
    return "half the temperature doubles the gap between the scores, so odds of 4 : 1 become 16 : 1."


READ = {
    "without a cache": (
        5950,
        {
            6050: "the first call reads the prompt alone, and no call reads the token that it draws",
            6060: "that is one call too many: nothing reads the last token once it is drawn",
            5940: "the first call is missing: it reads the prompt, and nothing else",
            5841: "the last call is missing: token 100 is drawn by a call of its own",
            5850: "each call reads one position more: all of the prompt, and all that has been drawn before",
            5050: "that is the new tokens; each call reads the prompt again as well",
            4950: "that is the new tokens; each call reads the prompt again as well",
            5060: "without a cache the prompt is read again by every call",
            4960: "without a cache the prompt is read again by every call",
            1000: "that is the prompt, 100 times; each call reads what has been drawn so far as well",
            1100: "each call reads all that has been drawn so far, not only one new token",
            1099: "each call reads all that has been drawn so far, not only one new token",
            10_000: "the calls do not read alike: the first has the prompt, and each has one position more",
            11_000: "not every call reads the whole text: the first has only the prompt before it",
            10_900: "not every call reads 109 positions: the first has only the prompt before it",
            12_100: "there is no call for a token of the prompt, and not every call reads the whole text",
            5500: "the first call reads 10 positions, not 0",
            5450: "the first call reads 10 positions, not 0",
            6000: "no call reads the token that it draws, not even the last",
            5900: "the last call reads one position more: all but the token that it draws",
            6105: "the prompt is there at the start: the first call reads 10 positions, not 1",
            5995: "the prompt is there at the start: the first call reads 10 positions, not 1",
            109: "that is the longest of the calls; there are 99 more",
            110: "that is the length of the text; the model reads its beginning again and again",
            100: "that is the number of calls; each reads more than one position",
            59.5: "that is what a call reads on average",
        },
    ),
    "with a cache": (
        109,
        {
            110: "nothing reads the last token once it is drawn",
            111: "nothing reads the last token once it is drawn, and no position is read twice",
            108: "99 of the drawn tokens are read: all but the last",
            100: "that is the number of calls, and the first of them reads the whole prompt",
            99: "the prompt is read too, once",
            101: "the first call reads the whole prompt, which is more than one position",
            90: "the new tokens are read as well as the prompt",
            10: "the new tokens are read as well, each by the call after it",
            11: "there are 100 calls, and each reads at least one position",
            1: "that is one call after the first; asked for is the sum over all",
            1000: "the prompt is read once; its keys and values are kept",
            1100: "the prompt is read once; its keys and values are kept",
            1090: "the prompt is read once; its keys and values are kept",
            1099: "the prompt is read once; its keys and values are kept",
            5950: "with a cache no position is read twice",
            4950: "with a cache no position is read twice",
            5050: "with a cache no position is read twice",
            54.5: "that is how many times less is read; asked for is how much",
        },
    ),
}


@exercise
def positions_read(answer):
    """A dict of two numbers: the positions that 100 calls read behind a prompt of 10, without a cache and with one."""
    for way, given in named_parts(answer, READ):
        try:
            number(given, *READ[way], tolerance=0.1)
        except Mistake as mistake:
            raise Mistake(str(mistake).replace("Not yet:", f"Not yet: {way}:", 1)) from None
    return "without a cache 10 + 11 + … + 109, with one 10 and then 99 times 1."


# --- min-p --------------------------------------------------------------------------------------------------------


def minus_inf(logits, stays):
    return logits.masked_fill(~stays, -torch.inf)


def softmax(logits):
    return logits.softmax(dim=-1)


def row_by_row(weights):
    return weights.amax(dim=-1, keepdim=True)


def cut(logits, p, *, weigh=softmax, highest=row_by_row, floor=lambda p, top: p * top, stays=torch.ge, give=minus_inf):
    """Min-p, (..., V) -> (..., V), with a place for every slip."""
    weights = weigh(logits)
    return give(logits, stays(weights, floor(p, highest(weights))))


def min_p(logits, p):
    return cut(logits, p)


WEIGHS = {
    "p times the largest score: a score is not a probability, and it can be below 0": lambda x: x,
    "the softmax runs along the first axis: the tokens of one row share one unit": lambda x: x.softmax(dim=0),
    "the softmax is taken twice, which makes all tokens nearly alike": lambda x: softmax(softmax(x)),
    "a sigmoid looks at each score alone: probabilities share one unit": torch.sigmoid,
    "odds are compared, P / (1 - P): `p times as likely` is about probabilities": lambda x: (
        softmax(x) / (1 - softmax(x))
    ),
}
HIGHEST = {
    "the floor is p itself: it must be lower where even the likeliest token is rare": torch.ones_like,
    "the likeliest token of the whole batch sets the floor, and each row has its own": torch.amax,
    "each token is compared with the rows beside it, not with the likeliest of its own row": lambda x: x.amax(
        dim=0, keepdim=True
    ),
    "the first row's likeliest token sets the floor of every row": lambda x: x.reshape(-1, x.shape[-1])[0].amax(),
    "the last row's likeliest token sets the floor of every row": lambda x: x.reshape(-1, x.shape[-1])[-1].amax(),
    "compared with the average token, which has 1 / V, not with the likeliest": lambda x: x.mean(dim=-1, keepdim=True),
    "compared with the token in the middle, not with the likeliest": lambda x: x.median(dim=-1, keepdim=True).values,
    "compared with the second likeliest token, not with the likeliest": lambda x: x.topk(2).values[..., 1:],
    "compared with the least likely token, not with the likeliest": lambda x: x.amin(dim=-1, keepdim=True),
}
FLOORS = {
    "p is subtracted, and `p times as likely` is a product": lambda p, top: top - p,
    "1 - p times as likely as the likeliest, and p times is asked for": lambda p, top: (1 - p) * top,
    "the floor is p squared times the likeliest: p counts twice": lambda p, top: p * p * top,
    "the floor is the root of p times the likeliest": lambda p, top: p**0.5 * top,
}
STAYS = {"the likely are cut and the unlikely stay": torch.lt}
GIVES = {
    "the cut tokens score 0, and e to the 0 is 1: they can still be drawn": lambda x, stays: x.where(stays, 0.0),
    "these are probabilities; scores are asked for, those that stay as they came": lambda x, stays: softmax(x) * stays,
    "these are probabilities, shared out anew; scores are asked for, those that stay as they came": lambda x, stays: (
        softmax(minus_inf(x, stays))
    ),
    "the tokens that stay carry probabilities, and their scores are asked for": lambda x, stays: minus_inf(
        softmax(x), stays
    ),
    "the tokens that stay carry logarithms of probabilities: leave their scores as they came": lambda x, stays: (
        minus_inf(x.log_softmax(-1), stays)
    ),
    "the tokens that stay carry logarithms, shared out anew: leave their scores as they came": lambda x, stays: (
        minus_inf(x, stays).log_softmax(-1)
    ),
    "the scores are moved so that the highest is 0: leave those that stay as they came": lambda x, stays: minus_inf(
        x - row_by_row(x), stays
    ),
    "every token that stays has the same score: leave them as they came": lambda x, stays: minus_inf(0 * x, stays),
    "this is the mask of the tokens that stay: the scores are asked for": lambda x, stays: stays,
    "this is the mask of the tokens that are cut: the scores are asked for": lambda x, stays: ~stays,
    "only the scores that stay come back: a token that is cut keeps its place, at -inf": lambda x, stays: x[stays],
    "these are the places of the tokens that stay: their scores are asked for": lambda x, stays: stays.nonzero(),
    "the scores come back sorted, and a place belongs to a token": lambda x, stays: (
        minus_inf(x, stays).sort(dim=-1, descending=True).values
    ),
    "0 times -inf is nan: the mask chooses between two values, it does not multiply": lambda x, stays: (
        x + ~stays * -torch.inf
    ),
}


def top_p(logits, share, last=True):
    """The likeliest tokens that hold `share`, with or without the one that reaches it."""
    order = logits.argsort(dim=-1, descending=True)
    held = softmax(logits).gather(-1, order).cumsum(-1)
    stays = held - softmax(logits).gather(-1, order) < share if last else held <= share
    return minus_inf(logits, torch.zeros_like(stays).scatter(-1, order, stays))


def top_k(logits, k):
    return minus_inf(logits, logits >= logits.topk(min(max(k, 1), logits.shape[-1])).values[..., -1:])


WHOLE = {
    "the floor lies above the likeliest token, so that even this one is cut and nothing is left to draw": lambda x, p: (
        torch.full_like(x, -torch.inf)
    ),
    "nothing is cut: the scores come back as they came": lambda x, p: x,
    "only the likeliest token is left: that is greedy": lambda x, p: top_k(x, 1),
    "this is top-p: it adds up probabilities, and min-p compares each token with the likeliest": top_p,
    "this is top-p with 1 - p: it adds up probabilities, and min-p compares each token with the likeliest": (
        lambda x, p: top_p(x, 1 - p)
    ),
    "this is top-p, without the token that reaches p: min-p compares each token with the likeliest": lambda x, p: top_p(
        x, p, last=False
    ),
    "this is top-p with 1 - p, without the token that reaches it: min-p compares each token with the likeliest": (
        lambda x, p: top_p(x, 1 - p, last=False)
    ),
    "p is taken for a share of the vocabulary, as in top-k: how many stay must depend on their probabilities": (
        lambda x, p: top_k(x, int(p * x.shape[-1]))
    ),
    "the scores within p of the highest stay: p times as likely is a difference of ln(p) in the scores": lambda x, p: (
        minus_inf(x, x >= row_by_row(x) - p)
    ),
    "the highest score of the whole batch sets the floor, and each row has its own": lambda x, p: minus_inf(
        x, x >= x.amax() + math.log(p)
    ),
    "the highest score of each token in all rows sets the floor, and each row has its own": lambda x, p: minus_inf(
        x, x >= x.amax(dim=0, keepdim=True) + math.log(p)
    ),
    "the scores are compared with ln(p) alone, whatever the likeliest token scores": lambda x, p: minus_inf(
        x, x >= math.log(p)
    ),
    "the logarithm has the base 10, and a softmax works with e": lambda x, p: minus_inf(
        x, x >= row_by_row(x) + math.log10(p)
    ),
    "the highest score is multiplied by ln(p): a factor of probabilities is a difference of scores": lambda x, p: (
        minus_inf(x, x >= row_by_row(x) * math.log(p))
    ),
    "p times the place of the likeliest token, where its probability is needed: `max` gives both": lambda x, p: (
        minus_inf(x, softmax(x) >= p * x.argmax(-1, keepdim=True))
    ),
    "p times the place of the highest score, and a place is no probability": lambda x, p: minus_inf(
        x, x >= p * x.argmax(-1, keepdim=True)
    ),
    "probabilities are compared with p times a score": lambda x, p: minus_inf(x, softmax(x) >= p * row_by_row(x)),
    "scores are compared with p times a probability": lambda x, p: minus_inf(x, x >= p * row_by_row(softmax(x))),
    "p divides the scores, as a temperature does: it is a share of the likeliest probability": lambda x, p: minus_inf(
        x, softmax(x / p) >= p * row_by_row(softmax(x / p))
    ),
    "the floor lies p of the way from the lowest score to the highest: scores are not probabilities": lambda x, p: (
        minus_inf(x, x >= x.amin(-1, keepdim=True) + p * (row_by_row(x) - x.amin(-1, keepdim=True)))
    ),
}


def by_ratio(result, logits, p):
    """A clue: which token stays or is cut although its probability says otherwise."""
    result, right = result.detach().float(), min_p(logits, p)
    stays, ratio = right > -torch.inf, (logits - row_by_row(logits)).exp()
    left, same_as_before = result[~stays], torch.equal(result, logits)
    if not stays.all() and (result > -torch.inf).all() and not same_as_before:
        if torch.allclose(result[stays], right[stays]) and not (left == logits[~stays]).any():
            return f"the right tokens are cut, but they score {left[0]:g}, and only -inf leaves no chance at all"
        return "no token scores -inf, so that none is out: each of these numbers still has its share in a softmax"
    wrong = (result > -torch.inf) != stays
    if not wrong.any():
        return "the right tokens stay, but their scores are changed: leave them as they came"
    place = tuple(wrong.nonzero()[0].tolist())
    if ratio[place] == 1:
        return "the likeliest token of a row is cut, and it stays whatever p is"
    said = "is cut" if stays[place] else "stays"
    return f"a token {ratio[place]:.2f} times as likely as the likeliest of its row {said}, and p is {p:g}"


def called(answer, logits, p):
    """Call the answer; say what a lost axis means here."""
    try:
        return answer(logits, p)
    except RuntimeError as error:
        if "must match the size" not in str(error):
            raise
        why = "does each row's own number stand in a column, as with `keepdim=True`?"
        raise Mistake(f"Not yet: the floors do not line up with the rows: {why} ({told(error)}).") from None


@exercise
def keep_min_p(answer):
    """A function logits (..., V), p -> (..., V): -inf for all less than p times as likely as the likeliest."""
    wide, deep, square = tensors(1, (3, 20), (2, 4, 3), (4, 4))
    dense = torch.tensor([[0.0], [3.0]]) + (7 * torch.arange(240) % 240 / 40).view(2, 120)
    deep = deep + torch.arange(6.0).view(2, 1, 3) * 4  # so that each row needs a floor of its own
    cases = [
        (torch.tensor([[-1.0, -1.4, -2.5, -4.0]]), 0.2),
        (torch.tensor([[4.0, 1.0, 0.0, -2.0, 3.0], [0.2, -0.3, 0.1, 0.4, -0.9]]), 0.25),
        (square, 0.3),
        (wide.T.contiguous().T, 0.05),
        (dense, 0.6),
        (dense, 0.02),
        (torch.tensor([[6.0, -3.0, 0.5]]), 0.001),
    ]
    slips = [("weigh", WEIGHS), ("highest", HIGHEST), ("floor", FLOORS), ("stays", STAYS), ("give", GIVES)]
    examine(answer, cases, min_p, WHOLE | mistakes_of(cut, slips), clues=[by_ratio], call=called)
    why = "a token exactly at the floor is cut, and `at least` lets it stay: with p = 1 the likeliest itself is gone"
    equals = [(torch.tensor([[0.0, 3.0, 3.0, 1.0]]), 1.0)]
    examine(answer, equals, min_p, {why: partial(cut, stays=torch.gt)}, clues=[by_ratio], call=called)
    last = "the tokens are the last axis"
    for why, logits in (
        (f"right for (B, V), and wrong for logits of shape (4,): {last}", torch.tensor([-1.0, -1.4, -2.5, -4.0])),
        (f"right for (B, V), and wrong for logits of shape (2, 3, 4): {last}", deep.mT),
        ("wrong where a score is -inf already, as top-k leaves it", torch.tensor([[1.0, -torch.inf, 0.4, 2.0]])),
    ):
        try:
            examine(answer, [(logits, 0.3)], min_p, clues=[by_ratio], call=called)
        except Mistake as mistake:
            first, _, table = str(mistake).removeprefix("Not yet: ").partition("\n\n")
            raise Mistake(f"Not yet: {why} ({first.rstrip('.')}).\n\n{table}") from None
    return "each row has its own floor, and what stays keeps its score, for one row, for batches and for p = 1."


# --- a cache ------------------------------------------------------------------------------------------------------


def into(place):
    """A way to write: `place(length, T, capacity)` is the first place that is written."""

    def write(keys, values, k, v, length):
        start = place(length, k.shape[1], keys.shape[1])
        keys[:, start : start + k.shape[1]], values[:, start : start + k.shape[1]] = k, v

    return write


def writing(k_of, v_of):
    """A way to write other things than k and v into the right places; None leaves what stands there."""

    def write(keys, values, k, v, length):
        here = slice(length, length + k.shape[1])
        for kept, found in ((keys, k_of(k, v)), (values, v_of(k, v))):
            if found is not None:
                kept[:, here] = found

    return write


def added(keys, values, k, v, length):
    keys[:, length : length + k.shape[1]] += k
    values[:, length : length + k.shape[1]] += v


def first_text(keys, values, k, v, length):
    keys[0, length : length + k.shape[1]], values[0, length : length + k.shape[1]] = k[0], v[0]


def one_place(new):
    def write(keys, values, k, v, length):
        keys[:, length], values[:, length] = k[:, new], v[:, new]

    return write


def hidden(late=0, start=None):
    """The causal mask as a function row, column, length -> bool; `late` steps too late, or from `start` on."""
    return lambda row, column, length: column > (length if start is None else start) + row + late


behind, causal = into(lambda length, T, capacity: length), hidden()


def soft(scores, future):
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def read(
    q,
    k,
    v,
    keys,
    values,
    length,
    *,
    write=behind,
    seen=lambda length, T, capacity: (0, length + T),
    hide=causal,
    weigh=soft,
    divisor=lambda D, T, S, capacity: D**0.5,
    gather=lambda keys, values: values,
):
    """Attention of T new positions that reads on from a buffer, with a place for every slip."""
    keys, values, (T, D), capacity = keys.clone(), values.clone(), q.shape[1:], keys.shape[1]
    write(keys, values, k, v, length)
    row, column = torch.arange(T)[:, None], torch.arange(capacity)
    future = hide(row, column, length) & (column < length + T)  # what was never filled is hidden by not being looked at
    here = slice(*seen(length, T, capacity))
    scores = q @ keys[:, here].mT / divisor(D, T, len(column[here]), capacity)
    return weigh(scores, future[:, here]) @ gather(keys, values)[:, here]


def read_on(q, k, v, keys, values, length):
    return read(q, k, v, keys, values, length)


def apart(share):
    """Past and new positions are weighed by a softmax each, and what they gather is added."""

    def attend(q, k, v, keys, values, length):
        past = (q @ keys[:, :length].mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ values[:, :length]
        return share * (past + read(q, k, v, keys, values, length, seen=lambda n, T, capacity: (n, n + T)))

    return attend


def only_later(row, column, length):
    return column <= length + row


def whole_buffer(hide):
    """All places are looked at, and the mask runs over all of them."""

    def attend(q, k, v, keys, values, length):
        keys, values = keys.clone(), values.clone()
        keys[:, length : length + k.shape[1]], values[:, length : length + k.shape[1]] = k, v
        row, column = torch.arange(q.shape[1])[:, None], torch.arange(keys.shape[1])
        future = hide(row, column, length, keys.shape[1] - q.shape[1])
        return soft(q @ keys.mT / q.shape[-1] ** 0.5, future) @ values

    return attend


FRONT = "the new keys and values are written over the oldest ones, at the front: they belong behind what is kept"
UNFILLED = "the whole buffer is looked at: what stands in places that were never filled takes part"
UNMASKED = "the mask is missing, or hides nothing: of several new positions, the earlier ones see the later"
CACHE_WRITES = {
    FRONT: into(lambda length, T, capacity: 0),
    "written one place too late: a place that was never filled lies between old and new": into(
        lambda length, T, capacity: length + 1
    ),
    "written one place too early: the last position that was kept is lost": into(
        lambda length, T, capacity: length - 1
    ),
    "written at the end of the buffer, not behind what is kept": into(lambda length, T, capacity: capacity - T),
    "written at place T, and how many positions are kept is `length`": into(lambda length, T, capacity: T),
    "the values are not written: the new positions have keys, and nothing to give": writing(
        lambda k, v: k, lambda k, v: None
    ),
    "the keys are not written: nobody can find the new values": writing(lambda k, v: None, lambda k, v: v),
    "the new places are looked at before anything is written there": lambda *given: None,
    "keys are written to the values and values to the keys": writing(lambda k, v: v, lambda k, v: k),
    "the keys are written twice, as keys and as values": writing(lambda k, v: k, lambda k, v: k),
    "the values are written twice, as values and as keys": writing(lambda k, v: v, lambda k, v: v),
    "all new places are filled with the last new position": writing(lambda k, v: k[:, -1:], lambda k, v: v[:, -1:]),
    "all new places are filled with the first new position": writing(lambda k, v: k[:, :1], lambda k, v: v[:, :1]),
    "only one place is written, with the last new position, and T are new": one_place(-1),
    "only one place is written, with the first new position, and T are new": one_place(0),
    "the new positions are written in reversed order": writing(lambda k, v: k.flip(1), lambda k, v: v.flip(1)),
    "the new keys and values are added to what stood in their places": added,
    "only the first text of the batch is written": first_text,
}
SEEN = {
    UNFILLED: lambda n, T, capacity: (0, capacity),
    "only the places before the new ones are looked at: a position sees itself too": lambda n, T, capacity: (0, n),
    "only the new places are looked at: the past was kept to be seen": lambda n, T, capacity: (n, n + T),
    "one place too many is looked at, and nobody has filled it": lambda n, T, capacity: (0, n + T + 1),
    "one place too few is looked at: the last new position does not see itself": lambda n, T, capacity: (0, n + T - 1),
    "only one of the new places is looked at, and T are new": lambda n, T, capacity: (0, n + 1),
    "only as many places are looked at as there are new positions, from the front": lambda n, T, capacity: (0, T),
    "the oldest place is left out": lambda n, T, capacity: (1, n + T),
}
HIDES = {
    UNMASKED: lambda row, column, length: (row < 0) & (column < 0),
    "the mask starts at 0, as if no past were kept: new position 0 stands at place `length` and sees all before it": (
        hidden(start=0)
    ),
    "the mask is shifted by T, the new positions, and it is the kept ones that shift it": (
        lambda row, column, length: column > row.max() + 1 + row
    ),
    "the mask is shifted by T - 1, and it is the number of kept positions that shifts it": (
        lambda row, column, length: column > row.max() + row
    ),
    "the mask lies over the oldest places, and the new positions stand in the last": lambda row, column, length: (
        (column > row) & (column <= row.max())
    ),
    "the mask is one step too late: each new position sees one place ahead": hidden(1),
    "the mask is one step too early: a new position does not see itself": hidden(-1),
    "the new positions do not see each other: each sees the past and itself": lambda row, column, length: (
        (column >= length) & (column != length + row)
    ),
    "the past is hidden, and the new positions see only themselves and each other": lambda row, column, length: (
        (column < length) | (column > length + row)
    ),
    "each new position sees itself alone": lambda row, column, length: column != length + row,
    "the past is masked and the future kept: the triangle is the other one": lambda row, column, length: (
        column < length + row
    ),
    "among the new positions the triangle is the other one": lambda row, column, length: (
        (column >= length) & (column < length + row)
    ),
    "all new positions see only the past and the first of them": lambda row, column, length: column > length + 0 * row,
}
CACHE_WEIGHS = {
    "the softmax runs over the new positions (the queries): each row must sum to 1": lambda scores, future: (
        scores.masked_fill(future, -torch.inf).softmax(dim=-2)
    ),
    "the softmax runs over the batch": lambda scores, future: scores.masked_fill(future, -torch.inf).softmax(dim=0),
    "the mask comes after the softmax: the future has already been counted in the sum": lambda scores, future: (
        scores.softmax(dim=-1).masked_fill(future, 0)
    ),
    "the future is set to 0 before the softmax, and e to the 0 is 1: it still takes part": lambda scores, future: (
        scores.masked_fill(future, 0).softmax(dim=-1)
    ),
    "the softmax is missing": lambda scores, future: scores.masked_fill(future, 0),
}
CACHE_SCALES = {
    "the scores are not scaled: divide by √D": lambda D, T, S, capacity: 1,
    "scaled by D, not by its square root": lambda D, T, S, capacity: D,
    "scaled by the number of places, not by the head size": lambda D, T, S, capacity: S**0.5,
    "scaled by the size of the buffer, not by the head size": lambda D, T, S, capacity: capacity**0.5,
    "scaled by the number of new positions, not by the head size": lambda D, T, S, capacity: T**0.5,
    "multiplied by √D, not divided by it": lambda D, T, S, capacity: D**-0.5,
}
GATHERS = {"the keys are gathered, not the values": lambda keys, values: keys}
CACHE_SLIPS = [
    ("write", CACHE_WRITES),
    ("seen", SEEN),
    ("hide", HIDES),
    ("weigh", CACHE_WEIGHS),
    ("divisor", CACHE_SCALES),
    ("gather", GATHERS),
]
CACHE_WHOLE = {
    "all three faults are still there: where it writes, what it looks at, and the mask": partial(
        read, write=CACHE_WRITES[FRONT], seen=SEEN[UNFILLED], hide=HIDES[UNMASKED]
    ),
    "the mask is one step too late over the whole buffer: the last new position sees a place that nobody has filled": (
        whole_buffer(lambda row, column, length, spare: column > length + row + 1)
    ),
    "the mask is lined up with the end of the buffer: new position 0 stands at place `length`": whole_buffer(
        lambda row, column, length, spare: column > spare + row
    ),
    "the past is hidden, and among the new positions the mask is missing": partial(
        read, seen=lambda length, T, capacity: (length, length + T), hide=HIDES[UNMASKED]
    ),
    "the mask starts at 0 as soon as several positions are new: new position 0 stands at place `length`": (
        lambda q, *others: read(q, *others, hide=hidden(start=0)) if q.shape[1] > 1 else read_on(q, *others)
    ),
    "the mask is turned round: each new position sees only what comes after it": lambda *given: read(
        *given, hide=only_later
    ).nan_to_num(0),
    "past and new positions have a softmax each, and their weights must share one unit": apart(1),
    "past and new positions have a softmax each, and half of the weight: one must run over both": apart(0.5),
    "queries and keys are exchanged: q asks, and k is kept": lambda q, k, *others: read(k, q, *others),
    "the queries are kept as keys: k is what a position offers": lambda q, k, *others: read(q, q, *others),
    "the queries are not used: k is compared with itself": lambda q, k, *others: read(k, k, *others),
    "it returns v: nothing is gathered": lambda q, k, v, *others: v,
    "it returns the weights: they must gather the values": lambda q, k, v, keys, values, length: soft(
        q @ torch.cat([keys[:, :length], k], 1).mT / q.shape[-1] ** 0.5,
        torch.ones(q.shape[1], length + q.shape[1], dtype=torch.bool).triu(1 + length),
    ),
}


def buffered(seed, B, length, T, spare, D):
    """What a call is given: q, k, v of T new positions, and buffers that hold `length` and have room to spare."""
    q, k, v, keys, values = tensors(seed, *3 * [(B, T, D)], *2 * [(B, length + T + spare, D)], spread=1.0)
    values[:, length:] = 9.0  # what was never filled can be anything
    return q, k, v, keys, values, length


def used(answer, q, k, v, keys, values, length):
    """Call the answer with buffers that it may write to, and say what sizes that do not fit mean here."""
    try:
        return answer(q, k, v, keys, values, length)
    except (RuntimeError, IndexError) as error:
        if not any(words in str(error) for words in ("must match", "expanded size", "shape mismatch", "expand(")):
            raise
        T, S = q.shape[1], length + q.shape[1]
        if "must match the size" in str(error):
            why = f"with {length} kept and T = {T} new, scores are ({T}, {S}): has the mask as many columns?"
        else:
            why = f"T = {T} new positions are written into another number of places"
        raise Mistake(f"Not yet: sizes do not fit: {why} ({told(error)}).") from None


def reading(answer, q, k, v, keys, values, length):
    return used(answer, q, k, v, keys.clone(), values.clone(), length)


def sees(answer):
    """A clue: change what stands at one place, and look which new positions notice."""

    def clue(result, q, k, v, keys, values, length):
        T, S = q.shape[1], length + q.shape[1]
        before = reading(answer, q, k, v, keys, values, length)

        def noticed(k_by=0.0, v_by=0.0, keys_by=0.0, values_by=0.0):
            after = reading(answer, q, k + k_by, v + v_by, keys + keys_by, values + values_by, length)
            return ((after - before).abs() > 1e-5).any(dim=-1).any(dim=0).tolist()  # (T,)

        def at(place, size):
            return 3.0 * (torch.arange(size)[:, None] == place).float()

        unfilled = 3.0 * (torch.arange(keys.shape[1])[:, None] >= S).float()
        if any(noticed(keys_by=unfilled, values_by=unfilled)):
            return "what stands in places that were never filled changes the result: is more looked at than is there?"
        for new in range(T):
            rows = noticed(v_by=at(new, T))
            for row, notices in enumerate(rows):
                if notices and row < new:
                    return f"new position {row} sees new position {new}, which comes after it: the future leaks"
                if not notices and row == new:
                    return f"new position {row} does not see itself"
                if not notices and row > new:
                    return f"new position {row} does not see new position {new}, which comes before it"
        for place in range(length):
            rows = noticed(values_by=at(place, keys.shape[1]))
            if not all(rows):
                return f"new position {rows.index(False)} does not see place {place}, which was kept from before"
        return "every position sees what it should and no more, so the weights are wrong: look at scale and softmax"

    return clue


def afterwards(q, k, v, keys, values, length):
    """The filled part of both buffers after a call, (2, B, length + T, D)."""
    return torch.stack([torch.cat([keys[:, :length], k], dim=1), torch.cat([values[:, :length], v], dim=1)])


def kept(write):
    def leave(q, k, v, keys, values, length):
        keys, values = keys.clone(), values.clone()
        write(keys, values, k, v, length)
        return torch.stack([keys, values])[:, :, : length + k.shape[1]]

    return leave


def left_behind(answer, q, k, v, keys, values, length):
    keys, values = keys.clone(), values.clone()
    used(answer, q, k, v, keys, values, length)
    return torch.stack([keys, values])[:, :, : length + k.shape[1]]


@exercise
def repaired_cache(answer):
    """A function q, k, v (B, T, D), keys, values (B, capacity, D), length -> (B, T, D) that also fills the buffers."""
    cases = [buffered(1, 1, 1, 1, 1, 2), buffered(2, 1, 2, 2, 2, 2), buffered(3, 2, 3, 4, 2, 4)]
    cases += [buffered(4, 2, 2, 3, 3, 6), buffered(5, 3, 4, 1, 2, 3)]
    q, k, v, *others = buffered(6, 2, 11, 9, 3, 10)
    rarer = [buffered(7, 1, 0, 2, 2, 2), buffered(8, 1, 2, 2, 0, 2)]
    rarer.append((*(part.mT.contiguous().mT for part in (q, k, v)), *others))
    clues = [sees(answer)]
    mistakes = CACHE_WHOLE | mistakes_of(read, CACHE_SLIPS)
    examine(answer, cases, read_on, mistakes, clues=clues, call=reading, tolerance=1e-3)
    examine(answer, rarer, read_on, clues=clues, call=reading, tolerance=1e-3)
    q, k, v, keys, values, length = cases[2]
    given = q, k, v, keys.clone(), values.clone(), length
    for unfilled in given[3:5]:
        unfilled[:, length:] = torch.nan
    if not same(reading(answer, *given), read_on(*given), tolerance=1e-3):
        raise Mistake(
            "Not yet: what was never filled is hidden by the mask, and multiplied all the same. It can be anything, "
            "nan too, and 0 times nan is nan: let only the filled places into the products."
        )
    right = "the result is right, but"
    examine(
        answer,
        cases + rarer,
        afterwards,
        mistakes={
            f"{right} nothing is written into `keys` and `values`: the next call will not find it there": kept(
                lambda *given: None
            ),
            f"{right} the new values are not kept: the next call will not find them": kept(
                writing(lambda k, v: k, lambda k, v: None)
            ),
            f"{right} the new keys are not kept: the next call will not find them": kept(
                writing(lambda k, v: None, lambda k, v: v)
            ),
        }
        | {f"{right} not what is kept for the next call: {why}": kept(write) for why, write in CACHE_WRITES.items()},
        clues=[lambda *given: f"{right} what it leaves in `keys` and `values` is not what the next call needs"],
        call=left_behind,
    )
    return "reading on gives what attention over the whole text gives, for 1 to 9 new positions behind 0 to 11."


# --- drafts -------------------------------------------------------------------------------------------------------


def shared(x):
    return x / x.sum()


def chance(p, q):
    return (p / q).clamp(max=1)


def missing(p, q):
    return shared((p - q).relu())


def comes_out(p, q, accept, leftover):
    """Three rows (3, V): the chances, the leftover, and the distribution of what comes out in the end."""
    accept = torch.where(q > 0, accept, 1.0)  # a token that is never drafted is never judged
    through = q * accept
    return torch.stack([accept, leftover, through + (1 - through.sum()) * leftover])


def drafted(p, q, *, accept=chance, leftover=missing):
    return comes_out(p, q, accept(p, q), leftover(p, q))


def speculative(p, q):
    return drafted(p, q)


NEEDLESS = "what comes out is p, but drafts are rejected that could stay"
ACCEPTS = {
    "the ratio stands the wrong way round: a token that the large model likes better must stay": lambda p, q: (
        q / p
    ).clamp(max=1),
    "the ratio stands the wrong way round, and gives chances above 1": lambda p, q: q / p,
    "a chance above 1: no draft can stay more often than always": lambda p, q: p / q,
    "p is the chance that a token comes out; the draft has had its chance, q, already": lambda p, q: p,
    "q is the chance that a token is drafted, not that it may stay": lambda p, q: q,
    "this is the chance to be drafted *and* accepted; a token comes here once it is drafted": torch.minimum,
    "these are the chances of a rejection, and those of staying are asked for": lambda p, q: 1 - chance(p, q),
    "every draft is accepted: the text would be the small model's": lambda p, q: torch.ones_like(p),
    "every draft is rejected: the small model would be of no use": lambda p, q: torch.zeros_like(p),
    "every token has the same chance, that of an average draft: each needs its own": lambda p, q: (
        torch.minimum(p, q).sum().expand_as(p)
    ),
    "a draft is accepted for sure or not at all, and a token drafted too often may stay now and then": lambda p, q: (
        p >= q
    ).float(),
    "a draft is accepted for sure or not at all, and two equal chances need no rejection": lambda p, q: (p > q).float(),
    "what is drafted too often is taken for the chance of a rejection: it is a share of the drafts of this token": (
        lambda p, q: 1 - (q - p).relu()
    ),
    "p against p + q: then even a token on which both agree is rejected half of the time": lambda p, q: p / (p + q),
    "the smaller over the larger: a token that is drafted too rarely is turned away as well": lambda p, q: (
        torch.minimum(p, q) / torch.maximum(p, q)
    ),
    "a token that is drafted too often stays with p, and it has been drafted with q already": lambda p, q: torch.where(
        p >= q, 1.0, p
    ),
    "only the large model's likeliest token is accepted: drafts of others may stay too": lambda p, q: torch.eye(len(p))[
        p.argmax()
    ],
    "p is compared with its own largest number, not with q": lambda p, q: p / p.max(),
    "this is the logarithm of the chance": lambda p, q: chance(p, q).log(),
    "this is the logarithm of the ratio": lambda p, q: (p / q).log(),
    "the chances of acceptance are made to sum to 1: each is a chance of its own": lambda p, q: shared(chance(p, q)),
    "the ratios are made to sum to 1: each is a chance of its own": lambda p, q: shared(p / q),
    "the ratios are divided by the largest, so that drafts are rejected that could stay": lambda p, q: (
        p / q / (p / q)[q > 0].max()
    ),
    "the root of the ratio: of what is drafted too often, too much stays": lambda p, q: chance(p, q).sqrt(),
    "the clamp works from below: `min(1, …)` is a ceiling": lambda p, q: (p / q).clamp(min=1),
}
AMOUNTS = {
    "the leftover is |p - q|: what was drafted too often must not be drawn again": lambda p, q: (p - q).abs(),
    "the leftover is the other side, q - p: what was drafted too often is drawn again": lambda p, q: (q - p).relu(),
    "the leftover is what both have in common, and that is what came out already": torch.minimum,
    "the leftover holds all of p where p is larger: some of it has come out already": lambda p, q: p * (p > q),
    "the leftover is alike for all tokens that come too rarely: some lack more than others": lambda p, q: (
        p > q
    ).float(),
    "the leftover is p times the chance of a rejection": lambda p, q: p * (1 - chance(p, q)).nan_to_num(0),
    "the chance is subtracted from p, and a draft comes out with q times its chance": lambda p, q: (
        p - chance(p, q)
    ).relu(),
    "the leftover is made of squares: its shares must be those of what is missing": lambda p, q: (
        (p - q).relu().square()
    ),
    "the leftover is made of the ratio p / q: a ratio does not say how much is missing": lambda p, q: p / q,
    "the leftover is made of the ratios above 1: a ratio does not say how much is missing": lambda p, q: (
        p / q - 1
    ).relu(),
    "the leftover is p times q: the tokens that both like have come out already": lambda p, q: p * q,
    "the leftover is 1 - q: what is seldom drafted need not be missing": lambda p, q: 1 - q,
}


def to_one(amount):
    return lambda p, q: shared(amount(p, q))


LEFTOVERS = {
    "after a rejection it draws from p: what the small model drafts often enough has come out already": lambda p, q: p,
    "after a rejection it draws from q, which has been drawn from already": lambda p, q: q,
    "the leftover does not sum to 1": lambda p, q: (p - q).relu(),
    "the leftover has chances below 0: what was drafted too often must get none": lambda p, q: p - q,
    "the leftover has chances below 0, and a sum of 0 to divide by": to_one(lambda p, q: p - q),
    "the leftover is divided before what is below 0 is cut, and then the sum is 0": lambda p, q: shared(p - q).relu(),
    "the leftover is divided by its largest number, not by its sum": lambda p, q: (p - q).relu() / (p - q).max(),
    "the leftover is divided by the sum of |p - q|, which counts the other side as well": lambda p, q: (
        (p - q).relu() / (p - q).abs().sum()
    ),
    "the leftover is divided by the chance of an acceptance, and here a draft was rejected": lambda p, q: (
        (p - q).relu() / torch.minimum(p, q).sum()
    ),
    "the leftover is divided by the sum of the rejection chances, whatever is drafted how often": lambda p, q: (
        (p - q).relu() / (1 - chance(p, q)).sum()
    ),
    "a softmax of p - q leaves every token a chance": lambda p, q: (p - q).softmax(-1),
    "a softmax of what is missing: e to the 0 is 1, so every token gets a chance": lambda p, q: (
        (p - q).relu().softmax(-1)
    ),
    "the leftover goes to every token alike": lambda p, q: torch.full_like(p, 1 / len(p)),
    "the leftover goes to one token alone, the one that lacks most": lambda p, q: torch.eye(len(p))[(p - q).argmax()],
    "the leftover goes to one token alone, the large model's likeliest": lambda p, q: torch.eye(len(p))[p.argmax()],
    "the leftover is the average of both": lambda p, q: (p + q) / 2,
    "the leftover is p times the chance of any rejection, and must sum to 1": lambda p, q: p * (p - q).relu().sum(),
    **{why: to_one(amount) for why, amount in AMOUNTS.items()},
    **{f"{why}; and it does not sum to 1": amount for why, amount in AMOUNTS.items()},
}
DRAFT_WHOLE = {
    "p and q are exchanged: q is the small model, from which the draft comes": lambda p, q: comes_out(
        p, q, chance(q, p), missing(q, p)
    ),
    "the two come back in the wrong order: first the chances, then the leftover": lambda p, q: comes_out(
        p, q, missing(p, q), chance(p, q)
    ),
    f"{NEEDLESS}: the ratios are divided by the largest of them": partial(
        drafted,
        accept=lambda p, q: p / q / (p / q)[q > 0].max(),
        leftover=lambda p, q: p,
    ),
    f"{NEEDLESS}: all of them": partial(drafted, accept=lambda p, q: 0 * p, leftover=lambda p, q: p),
}


def where_it_fails(result, p, q):
    """A clue: what is not a chance, not a distribution, or not what is missing."""
    right = speculative(p, q)
    accept, leftover, out = result.detach()
    if torch.allclose(out, p, atol=1e-4) and torch.allclose(shared(leftover.relu()), leftover, atol=1e-4):
        if (accept <= 1 + 1e-6).all() and (accept >= 0).all():
            return f"{NEEDLESS}: {(q * accept).sum():.2f} of all drafts stay, and {(q * right[0]).sum():.2f} can"
    found = []
    if not torch.allclose(accept, right[0], atol=1e-4):
        token = (accept - right[0]).abs().argmax().item()
        value = f"token {token} is accepted with a chance of {accept[token]:.2f}"
        if accept.min() < 0 or accept.max() > 1 + 1e-6:
            bad = accept.min() if accept.min() < 0 else accept.max()
            found.append(f"{bad:.2f} is not a chance: it lies between 0 and 1")
        elif accept.max() - accept.min() < 1e-6:
            found.append(f"every token is accepted with the same chance, {accept[0]:.2f}, and each needs its own")
        elif q[token] <= p[token]:
            found.append(f"{value}: it is drafted no more often than it must come out, so all its drafts may stay")
        else:
            share = f"drafted with q = {q[token]:.2f}, it would come out with {q[token] * accept[token]:.2f}"
            found.append(f"{value}: {share}, and must with p = {p[token]:.2f}")
    if not torch.allclose(leftover, right[1], atol=1e-4):
        enough = (q >= p) & (leftover.abs() > 1e-4)
        if leftover.min() < -1e-6:
            found.append("the leftover has chances below 0")
        elif (leftover.sum() - 1).abs() > 1e-3:
            found.append(f"the leftover sums to {leftover.sum():.2f}, and a distribution sums to 1")
        elif enough.any():
            token = enough.nonzero()[0].item()
            found.append(f"the leftover holds token {token}, of which the drafts bring enough already")
        else:
            found.append("the leftover holds the right tokens, but not in the shares that are missing")
    return "; and ".join(found) or None


def parts_of(answer, p, q):
    """What the answer returns, as chances and leftover; raises Mistake when it is not two tensors (V,)."""
    result = answer(p, q)
    if result is None:
        return None
    several = isinstance(result, (tuple, list)) or (isinstance(result, torch.Tensor) and result.ndim == 2)
    if not several or len(result) != 2:
        what = f"{len(result)} things" if several else a(result)
        raise Mistake(f"Not yet: it returns {what}, and two tensors are expected: the chances and the leftover.")
    for name, part in zip(("chances", "leftover"), result):
        like = part.to(p.dtype) if isinstance(part, torch.Tensor) else part
        if problem := unlike(like, p):
            alone = isinstance(part, torch.Tensor) and part.numel() == 1 < len(p)
            why = "; one number is there, and every token needs its own" if alone else ""
            raise Mistake(f"Not yet: the {name}: {problem.replace('it returns', 'this is')}{why}.")
    return tuple(result)


def no_draw(answer, p, q):
    """Raise Mistake when two calls differ; what else is wrong is told later."""
    results = []
    for seed in range(8):
        torch.manual_seed(seed)
        try:
            results.append(parts_of(answer, p.clone(), q.clone()))
        except (Exception, SystemExit):
            return
    if not all(same(result, results[0]) for result in results):
        raise Mistake("Not yet: two calls differ: nothing is drawn here, and the chances themselves are asked for.")


@exercise
def draft_and_check(answer):
    """A function p, q (V,) -> the chance that each drafted token is accepted, and what to draw from if it is not."""
    some, others = (part.softmax(dim=-1) for part in tensors(1, (20,), (20,), spread=1.0))
    cases = [
        (torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2])),
        (torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])),
        (torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.1, 0.7, 0.2])),
        (torch.tensor([0.3, 0.6, 0.1]), torch.tensor([0.3, 0.2, 0.5])),
        (some, others),
    ]
    rarer = [(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.3, 0.4, 0.3]))]
    rarer.append((torch.tensor([0.6, 0.3, 0.1, 0.0, 0.0]), torch.tensor([0.5, 0.0, 0.0, 0.5, 0.0])))

    def use(answer, p, q):
        parts = parts_of(answer, p, q)
        return parts and comes_out(p, q, *(part.to(p.dtype) for part in parts))

    if callable(answer):
        no_draw(answer, *cases[1])
    try:
        mistakes = DRAFT_WHOLE | mistakes_of(drafted, [("accept", ACCEPTS), ("leftover", LEFTOVERS)])
        examine(answer, cases, speculative, mistakes, clues=[where_it_fails], call=use)
        examine(answer, rarer, speculative, clues=[where_it_fails], call=use)
    except Mistake as mistake:
        rows = "\n\n  The rows are the chances, the leftover, and what comes out in the end: that must be p."
        raise Mistake(str(mistake) + (rows if "expected\n" in str(mistake) else "")) from None
    for p, q in cases + rarer:
        parts = parts_of(answer, p.clone(), q.clone())
        if not ((parts[0] >= 0) & (parts[0] <= 1 + 1e-6)).all():
            value = parts[0][q == 0].detach().tolist()
            why = "any number from 0 to 1 is right for a token that is never drafted; nan, such as 0 / 0, spoils a sum"
            raise Mistake(f"Not yet: where q is 0, the chances are {value}: {why}.")
        for part in parts:
            if problem := unlike(part, p):
                raise Mistake(f"Not yet: {problem}.")
    return "drafts that stay and draws after a rejection add up to p, and no draft is rejected without need."
