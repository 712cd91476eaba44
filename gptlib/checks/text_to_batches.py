"""Checks of notebook 01: windows, their targets, and a tokenizer that loses nothing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from string import ascii_lowercase, ascii_uppercase

import torch
from torch import Tensor

from gptlib.checks.judge import Mistake, attempt, exercise, made, number, obeys_generator, same, shape, unlike
from gptlib.checks.words import a, named, rows_of, side_by_side


@exercise
def batch_lessons(answered_shape, answered_lessons):
    """The shape of 12 embedded windows of 20 ids, 8 channels each, and how many lessons they hold."""
    shapes = {
        (12, 20): "these are the ids; after the lookup each of them is a vector",
        (65, 8): "this is the table; the lookup takes one of its rows for each id",
        (12, 20, 65): "a vector has as many numbers as the table has columns, not one for each token",
        (12, 20, 65, 8): "each id picks one row of the table, not the whole of it",
        (12, 8): "there is a vector for each id of a window, not one for the window",
        (240, 8): "a batch keeps its windows apart: one axis for the windows, one for the positions",
        (12, 21, 8): "the inputs of a window are T ids; the one after them is only a target",
        (12, 19, 8): "all T ids of a window are inputs, the last one too",
    }
    shape(answered_shape, (12, 20, 8), shapes)
    lessons = {
        12: "a window holds more than one lesson: every position has a target of its own",
        20: "this is one window, and the batch has twelve",
        12 * 19: "the last position has a target too: it is the id after the window",
        12 * 21: "T + 1 ids are read for a window, and T of them have a target",
        12 * 210: "these are the places of the staircase; a lesson is a row of it, whatever its length",
        210: "these are the places of one staircase; a lesson is a row of it, whatever its length",
        12 * 20 * 8: "the channels describe an id; they are not lessons of their own",
        12 * 20 * 65: "each lesson has one right answer out of 65; it is still one lesson",
        1000: "only the windows that were drawn teach, not the whole text",
        980: "that is how many places a window may start at; twelve windows were drawn",
        32: "the windows and the positions multiply: every window has all its positions",
    }
    number(answered_lessons, 240, lessons, tolerance=0.1)
    return "12 windows of 20 ids are 240 lessons, and each of the ids becomes a vector of 8 numbers."


# --- pairs of inputs and targets ----------------------------------------------------------------------------------


def examine_pair(
    answer: Callable,
    cases: Sequence[tuple],
    expected: Callable,
    mistakes: Mapping[str, Callable],
    clue: Callable,
    call: Callable = lambda answer, *inputs: answer(*inputs),
) -> None:
    """What `judge.examine` is for one tensor, for inputs x and targets y; `clue(pair, *inputs)` names what is left.

    A clue is None where the shapes alone are wrong.
    """
    if not callable(answer):
        raise Mistake(f"Not yet: this is {a(answer)}, not a function: pass the function itself.")
    results = [as_pair(attempt(call, answer, inputs, expected), inputs, expected) for inputs in cases]
    for inputs, result in zip(cases, results):
        right = expected(*inputs)
        if not same(result, right):
            known = (d for d, mistake in mistakes.items() if all(map(same, results, (made(mistake, i) for i in cases))))
            differing = [(n, *pair) for n, *pair in zip("xy", result, right) if unlike(*pair)]
            odd = next((f"{n}: {unlike(*p)}" for n, *p in differing if p[0].shape != p[1].shape or p[0].is_meta), None)
            diagnosis = next(known, None) or clue(result, *inputs) or odd
            raise Mistake(f"Not yet: {diagnosis}.\n\n{beside(inputs, result, right, expected)}")
        for name, one, other in zip("xy", result, right):
            if problem := unlike(one, other):
                raise Mistake(f"Not yet: {name}: {problem}.")


def as_pair(result, inputs: tuple, expected: Callable) -> tuple[Tensor, Tensor]:
    """What was returned as a tuple (x, y); raises Mistake unless it is two tensors."""
    inputs_shown = named(inputs, expected)
    if not isinstance(result, (tuple, list)):
        raise Mistake(f"Not yet: it returns {a(result)}, and two tensors are expected, x and y.\n\n{inputs_shown}")
    if len(result) != 2:
        raise Mistake(f"Not yet: it returns {len(result)} things, and two are expected, x and y.\n\n{inputs_shown}")
    for name, part in zip("xy", result):
        if not isinstance(part, Tensor):
            raise Mistake(f"Not yet: {name} is {a(part)}, and a tensor is expected.\n\n{inputs_shown}")
    return tuple(result)


def beside(inputs: tuple, result: tuple, right: tuple, expected: Callable) -> str:
    """The counter-example: the inputs, then x and y with what is expected beside them."""
    parts = zip("xy", result, right)
    tables = [side_by_side([(f"{name}, yours", rows_of(x)), ("expected", rows_of(y))]) for name, x, y in parts]
    return "\n\n".join([named(inputs, expected), *tables])


TIGHT = "windows inside the text are right, and one that ends with it is not: its last target is the last id"


def cut(ids: Tensor, starts: Tensor, T: int, x_on: int = 0, y_on: int = 1) -> tuple[Tensor, Tensor]:
    places = starts[:, None] + torch.arange(T)
    return ids[places + x_on], ids[places + y_on]


@exercise
def windows(answer):
    """A function ids (N,), starts (B,), T -> x and y, both (B, T): the windows and their targets."""

    def right(ids, starts, T):
        return cut(ids, starts, T)

    def x_of(ids, starts, T):
        return cut(ids, starts, T)[0]

    def y_of(ids, starts, T):
        return cut(ids, starts, T)[1]

    def repeated(ids, starts, T):
        return x_of(ids, starts, T), y_of(ids, starts, T)[:, -1:].expand(-1, T)

    mistakes = {
        "targets equal inputs: nothing is predicted": lambda *i: (x_of(*i), x_of(*i)),
        "the targets are shifted the wrong way: they are what came before, not what comes next": lambda *i: (
            cut(*i, 0, -1)
        ),
        "the targets are shifted by two: each lesson leaves out the very next id": lambda *i: cut(*i, 0, 2),
        "x and y are exchanged: the inputs come first, and the targets lie one step on": lambda *i: right(*i)[::-1],
        "the whole window stands one place late: its first input lies at its start": lambda *i: cut(*i, 1, 2),
        "the whole window stands one place early: its first input lies at its start": lambda *i: cut(*i, -1, 0),
        "the targets are those of the next window: `T` places on, and one is asked for": lambda ids, starts, T: (
            cut(ids, starts, T, 0, T)
        ),
        "the last target is the window's own first id: roll the window, and its end comes round": lambda *i: (
            x_of(*i), x_of(*i).roll(-1, 1),
        ),
        "the ids went up by one: it is the place that moves one step on, not the id": lambda *i: (
            x_of(*i), x_of(*i) + 1,
        ),
        "these are places in the text, not the ids that stand there": lambda ids, starts, T: (
            cut(torch.arange(len(ids)), starts, T)
        ),
        "every position has the same target, the end of the window: each has one of its own": repeated,
        "one target a window: each of its T positions has a lesson of its own": lambda *i: (
            x_of(*i), y_of(*i)[:, -1],
        ),
        "one target a window, in a column: each of its T positions has a lesson of its own": lambda *i: (
            x_of(*i), y_of(*i)[:, -1:],
        ),
        "the last target is dropped: it lies one place past the window, and is needed": lambda *i: (
            x_of(*i), y_of(*i)[:, :-1],
        ),
        "T - 1 lessons: T ids were cut into inputs and targets, and T + 1 are needed": lambda *i: (
            x_of(*i)[:, :-1], y_of(*i)[:, :-1],
        ),
        "x is one too long: its last id is only a target": lambda ids, starts, T: (
            cut(ids, starts, T + 1)[0], cut(ids, starts, T)[1],
        ),
        "both are one too long: a window has T inputs and T targets": lambda ids, starts, T: cut(ids, starts, T + 1),
        "transposed: a row belongs to a window, a column to a position": lambda *i: (x_of(*i).mT, y_of(*i).mT),
        "the windows are joined into one row: stack them, so that each keeps a row": lambda *i: (
            x_of(*i).flatten(), y_of(*i).flatten(),
        ),
        "only the first window is there: `starts` asks for several": lambda *i: (x_of(*i)[:1], y_of(*i)[:1]),
        "only the first window is there, and as a row: `starts` asks for several": lambda *i: (
            x_of(*i)[0], y_of(*i)[0],
        ),
        "only the last window is there, and as a row: `starts` asks for several": lambda *i: (
            x_of(*i)[-1], y_of(*i)[-1],
        ),
        "`starts` is not used: every window begins at place 0": lambda ids, starts, T: cut(ids, 0 * starts, T),
        "`starts` is not used: the windows lie side by side from place 0 on": lambda ids, starts, T: (
            cut(ids, T * torch.arange(len(starts)), T)
        ),
    }  # fmt: skip

    def clue(pair, ids, starts, T):
        if same(*pair):
            return "targets equal inputs: nothing is predicted"
        if any(part.shape != (len(starts), T) or part.is_meta for part in pair):
            return None
        if same(pair, [part.flip(1) for part in right(ids, starts, T)]):
            return "the windows run backwards: a text is read from left to right"
        if sorted(pair[0].tolist()) == sorted(x_of(ids, starts, T).tolist()):
            if not same(pair[0], x_of(ids, starts, T)):
                return "the right windows in another order: row b begins at `starts[b]`"
            if same(pair[1][:, :-1], y_of(ids, starts, T)[:, :-1]):
                return "only the last target of a window is wrong: it is read from the text, one place past the window"
            return "x is right, and y does not hold the id that comes after each id of x"
        if same(pair[1], y_of(ids, starts, T)):
            return "y is right, and x does not hold the id that comes before each id of y"
        return "row b of x does not hold the T ids from place `starts[b]` on"

    ids = torch.tensor([50, 10, 40, 20, 70, 30, 90, 60, 80, 25, 15, 45, 35, 65, 55, 5])
    roomy = [
        (ids[:8], torch.tensor([2, 1]), 3),
        (ids, torch.tensor([2, 6, 3]), 4),
        (ids, torch.tensor([5, 1, 1, 4]), 2),
    ]
    examine_pair(answer, roomy, right, mistakes, clue)
    tight = [(ids[:5], torch.tensor([0, 1]), 3), (ids[:4], torch.tensor([0]), 3), (ids[:3], torch.tensor([1]), 1)]
    examine_pair(answer, tight, right, {}, lambda pair, *inputs: TIGHT)
    return "row b begins at its start, y is one step on, and the last window that fits keeps its last target."


# --- the tokenizer ------------------------------------------------------------------------------------------------


def sorted_ids(made_from: str, text: str) -> list[int]:
    vocabulary = sorted(set(made_from))
    return [vocabulary.index(character) for character in text]


def placed(order: Callable[[str], Sequence]) -> Callable:
    """The ids that a vocabulary in some order gives; of a character that stands there twice, the later place."""
    return lambda text, some: [{character: i for i, character in enumerate(order(text))}[one] for one in some]


ORDERS = {
    "the ids follow the order of a set: Python may list it differently at each start, and every id changes": placed(
        lambda text: list(set(text))
    ),
    "the ids follow the order of a set, backwards: Python may list it differently at each start": placed(
        lambda text: list(set(text))[::-1]
    ),
    "the ids follow the first appearance: another text with the same characters gets other ids": placed(dict.fromkeys),
    "the ids follow the frequency: another text with the same characters gets other ids": placed(
        lambda text: [character for character, _ in Counter(text).most_common()]
    ),
    "a character stands in the vocabulary as often as in the text: each needs one place": placed(sorted),
    "a character stands in the vocabulary as often as in the text: each needs one place (the first counts)": (
        lambda text, some: [sorted(text).index(one) for one in some]
    ),
    "the vocabulary is the text itself: each character needs one place, and a fixed order": placed(list),
    "the vocabulary is the text itself, first place counts: each character needs one, in a fixed order": (
        lambda text, some: [text.index(one) for one in some]
    ),
    "the vocabulary is sorted backwards": placed(lambda text: sorted(set(text), reverse=True)),
    "the ids begin at 1: a place in a list begins at 0": placed(lambda text: ["", *sorted(set(text))]),
    "these are the codes of the characters: a model would need a row for each code there is": (
        lambda text, some: [ord(one) for one in some]
    ),
}  # fmt: skip


of_the_page = placed(lambda text: "\n !$&',-.3:;?" + ascii_uppercase + ascii_lowercase)


def encoded(answer, text, some):
    return answer(text).encode(some)


def there_and_back(answer, text, some):
    tokenizer = answer(text)
    return tokenizer.decode(tokenizer.encode(some))


def example(text: str, some: str, **more) -> str:
    lines = {"made_from": text, "text": some, **more}
    return "\n".join(side_by_side([(f"{name} =", rows_of(value))]) for name, value in lines.items())


def remembers(answer) -> bool:
    """Whether a tokenizer knows a character that only an earlier tokenizer was made of."""
    answer("é")
    later = answer("à")

    def knows(character):
        try:
            return later.decode(later.encode(character)) == character
        except Exception:
            return False

    return knows("é") and not knows("ü")


@exercise
def repaired_tokenizer(answer):
    """A class made from a text: encode(text) -> a list of ids, or an error; decode(ids) -> the text."""
    if not callable(answer):
        raise Mistake(f"Not yet: this is {a(answer)}, not a class: pass the class itself, without a text.")
    letters = "Sphinx of black quartz, judge my vow.\n"
    cases = [("banana", "nab"), ("nab", "banana"), ("Anna", "Ann"), (letters, letters), (letters, "my box"), ("a", "")]
    results = []
    for case in cases:
        ids = attempt(encoded, answer, case, sorted_ids)
        if problem := unlike(ids, []) if not isinstance(ids, list) else None:
            raise Mistake(f"Not yet: encode: {problem}.\n\n{example(*case)}")
        if odd := [i for i in ids if not isinstance(i, Integral)]:
            raise Mistake(f"Not yet: encode: it holds {a(odd[0])}, and ids are whole numbers.\n\n{example(*case)}")
        if ids != sorted_ids(*case) and ids == of_the_page(*case):
            why = "these are Shakespeare's ids, from a variable of the page: a tokenizer uses its own, in `self`"
            raise Mistake(f"Not yet: encode: {why}.\n\n{example(*case, yours=ids, expected=sorted_ids(*case))}")
        back = attempt(there_and_back, answer, case, sorted_ids)
        if not isinstance(back, str):
            raise Mistake(f"Not yet: decode: it returns {a(back)}, and a string is expected.\n\n{example(*case)}")
        if back != case[1]:
            how = "characters are lost" if len(back) < len(case[1]) else "it comes back longer"
            if len(back) == len(case[1]):
                how = "it comes back backwards" if back == case[1][::-1] else "other characters come back"
                if back == case[1].lower():
                    how = "capitals come back as small letters, and A and a are two characters"
                elif back == case[1].upper():
                    how = "small letters come back as capitals, and A and a are two characters"
            shown = example(*case, ids=ids, back=back)
            raise Mistake(f"Not yet: decode(encode(text)) is not the text: {how}.\n\n{shown}")
        results.append(ids)
    for case, ids in zip(cases, results):
        if ids != sorted_ids(*case):
            known = (d for d, order in ORDERS.items() if all(made(order, c) == r for c, r in zip(cases, results)))
            other = "the ids are not the places of the characters in the sorted vocabulary"
            if remembers(answer):
                other = "it still knows the characters of tokenizers made before it: each keeps its own, in `self`"
            diagnosis = next(known, other)
            raise Mistake(f"Not yet: {diagnosis}.\n\n{example(*case, yours=ids, expected=sorted_ids(*case))}")
    first, _ = answer("banana"), answer("xyz")
    try:
        kept = first.encode("nab") == [2, 0, 1] and first.decode([2, 0, 1]) == "nab"
    except Exception:
        kept = False
    if not kept:
        raise Mistake("Not yet: a second tokenizer changed the first: each keeps its vocabulary in `self`.")
    for text, some in [("banana", "bandana"), ("banana", "d"), ("banana", "Ban"), ("ab", "abc"), ("ab", "a b")]:
        refuses(answer(text), text, some)
    return "known text comes back whole, the ids are sorted places, and an unknown character stops it with an error."


def refuses(tokenizer, text: str, some: str) -> None:
    """Raise Mistake unless `tokenizer` stops with an error at a text that it does not know."""
    try:
        ids = tokenizer.encode(some)
    except Exception:
        return
    if not isinstance(ids, list):
        why = f"an unknown character does not stop encode: it returns {a(ids)}. An error is raised, not returned"
        raise Mistake(f"Not yet: {why}.\n\n{example(text, some, yours=ids)}")
    try:
        back = tokenizer.decode(ids)
    except Exception:
        back = "an error, too late"
    if back == some:
        why = "a character that is not in the vocabulary got an id while encoding, and a model has no row for it"
    elif back == "".join(character for character in some if character in text):
        why = f"decode(encode({some!r})) is not the text: it is {back!r}. The unknown is left out, and no one is told"
    else:
        why = f"decode(encode({some!r})) is not the text. The unknown gets an id all the same, in place of an error"
    raise Mistake(f"Not yet: {why}.\n\n{example(text, some, ids=ids, back=back)}")


# --- one epoch ----------------------------------------------------------------------------------------------------


FITS = "the last window is lost when it ends with the text: its last target may be the very last id"
PAST = "one window too many: the last target of the last window lies past the end of the text"


def side_by_side_windows(ids, T):
    return cut(ids, T * torch.arange((len(ids) - 1) // T), T)


def in_order(pair, ids):
    """A pair (x, y) with its rows in the order of the text; as it is where a row begins with nothing of the text."""
    x, y = pair
    if x.ndim != 2 or not x.numel() or len(x) != len(y) or x.is_meta or not torch.isin(x[:, 0], ids).all():
        return pair
    order = (x[:, :1] == ids).int().argmax(dim=1).argsort(stable=True)
    return x[order], y[order]


def drawn(answer, ids, T):
    result = answer(ids, T, torch.Generator().manual_seed(0))
    return in_order(as_pair(result, (ids, T), side_by_side_windows), ids) if result is not None else None


def past_the_end(answer, ids, T):
    """drawn, for a text that T divides: one window fewer than it seems has all its targets."""
    try:
        return drawn(answer, ids, T)
    except (RuntimeError, IndexError, ValueError):
        shown = named((ids, T), side_by_side_windows)
        raise Mistake(f"Not yet: where T divides the length of the text, it runs past the end.\n\n{shown}") from None


def wrong_windows(pair, ids, T):
    """What is wrong with windows that are not all the text's windows side by side, or not with their targets."""
    (x, y), (right_x, right_y) = pair, side_by_side_windows(ids, T)
    if same(x, y):
        return "targets equal inputs: nothing is predicted"
    if x.shape == right_x.mT.shape != right_x.shape:
        return "transposed: a row belongs to a window, a column to a position"
    if x.ndim == 2 and len(x) != len(right_x):
        return f"the number of windows is {len(x)}, and {len(right_x)} fit side by side with all their targets"
    if any(part.shape != right_x.shape or part.is_meta for part in pair):
        return None
    if same(x, right_x):
        if sorted(y.tolist()) == sorted(right_y.tolist()):
            return "x and y are shuffled apart: a window stands beside the targets of another"
        return "the windows are right, and y does not hold the id that comes after each id of x"
    rows, right_rows = x.tolist(), right_x.tolist()
    if all(row in right_rows for row in rows):
        return "a window comes twice and another never: draw without putting back"
    if all(row in ids.unfold(0, T, 1).tolist() for row in rows):
        return "the windows overlap or leave gaps: they lie side by side from place 0 on"
    if sorted(map(sorted, rows)) == sorted(map(sorted, right_rows)):
        return "the ids inside a window are shuffled: shuffle the windows, and keep each as it is"
    return "the rows are no windows of the text: cut first, then shuffle whole windows"


@exercise
def one_epoch(answer):
    """A function ids (N,), T, generator -> x and y, both (W, T): all windows side by side, once each, shuffled."""

    def rows(change, pair_change=lambda pair: pair):
        return lambda ids, T: pair_change(cut(ids, change((len(ids) - 1) // T, len(ids), T), T))

    def side(count, T):
        return T * torch.arange(count)

    mistakes = {
        "targets equal inputs: nothing is predicted": lambda ids, T: side_by_side_windows(ids, T)[:1] * 2,
        "x and y are exchanged: the inputs come first": lambda ids, T: in_order(
            side_by_side_windows(ids, T)[::-1], ids
        ),
        "the last window is lost: its last target may be the very last id": rows(lambda W, N, T: side(W - 1, T)),
        FITS: rows(lambda W, N, T: side((N - 2) // T, T)),
        "every start is used, and the windows overlap: each lesson comes up to T times": rows(
            lambda W, N, T: torch.arange(N - T)
        ),
        "the windows lie T + 1 apart, and each gap loses a lesson: they may share a border, as a target": rows(
            lambda W, N, T: (T + 1) * torch.arange(N // (T + 1))
        ),
        "the first id is left out: the windows lie side by side from place 0 on": rows(
            lambda W, N, T: 1 + side((N - 2) // T, T)
        ),
        "only one window comes back: an epoch is all of them": rows(lambda W, N, T: side(1, T)),
        "the last window is dropped from y alone": rows(
            lambda W, N, T: side(W, T), lambda pair: (pair[0], pair[1][:-1])
        ),
        "T - 1 lessons a window: T ids were cut into inputs and targets, and T + 1 are needed": rows(
            lambda W, N, T: side(W, T), lambda pair: (pair[0][:, :-1], pair[1][:, :-1])
        ),
    }
    ids = torch.arange(10, 300, 10)
    examine_pair(
        answer, [(ids[:7], 2), (ids[:8], 3), (ids[:11], 3)], side_by_side_windows, mistakes, wrong_windows, drawn
    )
    shorter = {FITS: rows(lambda W, N, T: side(W - 1, T))}
    examine_pair(answer, [(ids[:7], 3), (ids[:9], 4)], side_by_side_windows, shorter, wrong_windows, drawn)
    longer = {PAST: lambda ids, T: (ids.view(-1, T), ids.roll(-1).view(-1, T))}
    examine_pair(answer, [(ids[:6], 3), (ids[:8], 4)], side_by_side_windows, longer, wrong_windows, past_the_end)
    long = torch.arange(401)
    examine_pair(answer, [(10 * long, 4)], side_by_side_windows, {}, wrong_windows, drawn)

    orders = {seed: answer(long, 4, torch.Generator().manual_seed(seed))[0][:, 0] for seed in range(3)}
    if all(same(order, order.sort().values) for order in orders.values()):
        raise Mistake("Not yet: the windows come in the order of the text: nothing is shuffled.")
    if any((order.diff() % 400 == 4).float().mean() > 0.9 for order in orders.values()):
        raise Mistake("Not yet: the windows still follow each other as in the text: only the place to begin is drawn.")
    if any(same(order, order.sort(descending=True).values) for order in orders.values()):
        raise Mistake("Not yet: the windows come in the order of the text, backwards: nothing is drawn.")
    obeys_generator(lambda generator: answer(long, 4, generator)[0])
    generator = torch.Generator().manual_seed(3)
    if same(answer(long, 4, generator)[0], answer(long, 4, generator)[0]):
        raise Mistake("Not yet: a second epoch has the order of the first: the generator is seeded anew each time.")
    return "every window that fits comes once, with its own targets, in an order that the generator draws."
