"""How a check works: try the answer on small inputs, compare, and name the mistake.

A check knows the right result and the mistakes that people make, each as a function of the same inputs. An answer that
behaves like one of the mistakes has made it. What no mistake explains is told by its symptom, with the smallest
counter-example; the answer's own errors are reported, never passed on.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from gptlib.checks.words import a, counter_example, named, shortened, told, type_name


class Mistake(AssertionError):
    """What is wrong with an answer. A notebook shows the message alone, without the way through this package."""

    def __init__(self, message: str):
        super().__init__(message.replace("?.", "?"))  # a diagnosis that asks is a sentence already

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def exercise(check: Callable[..., str]) -> Callable[..., None]:
    """Make a check of a function that returns the sentence for a right answer and raises Mistake for a wrong one.

    An answer that still holds its `...` has not been tried yet, and that is no mistake. The random numbers of the
    notebook are the same afterwards as if the check had not run.
    """

    @functools.wraps(check)
    def checked(*answers) -> None:
        if any(untried(answer) for answer in answers):
            print("Not tried yet: replace the ... in the cell above, run it, then run this cell again.")
            return
        try:
            with torch.random.fork_rng(devices=[]):
                sentence = check(*answers)
        except Mistake as mistake:
            raise mistake from None
        except (Exception, SystemExit) as error:  # a check never fails in its own name
            raise Mistake(f"Not yet: the check cannot use this answer ({told(error)}).") from None
        print(f"Right: {sentence}")

    return checked


# --- not tried yet ------------------------------------------------------------------------------------------------


def blank(function) -> bool:
    """Whether a function has no body but `...` and a docstring: it runs the code of an empty one."""
    code = getattr(function, "__code__", None)
    constants = (None, ..., getattr(function, "__doc__", None))
    return code is not None and code.co_code in EMPTY and all(constant in constants for constant in code.co_consts)


def _empty(): ...


def _documented():
    """..."""


EMPTY = {_empty.__code__.co_code, _documented.__code__.co_code}


def untried(answer) -> bool:
    """Whether a `...` still stands where the answer should be: as a value, a body, a method, or inside a collection."""
    if isinstance(answer, (tuple, list)):
        return any(untried(part) for part in answer)
    if isinstance(answer, dict):
        return any(untried(part) for part in answer.values())
    if isinstance(answer, nn.Module):
        answer = type(answer)
    if inspect.isclass(answer):
        return any(untried(method) for method in vars(answer).values() if inspect.isfunction(method))
    return answer is ... or blank(answer)


# --- functions ----------------------------------------------------------------------------------------------------


def examine(
    answer: Callable,
    cases: Sequence[tuple],
    expected: Callable,
    mistakes: Mapping[str, Callable] | None = None,
    clues: Sequence[Callable] = (),
    call: Callable | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Raise Mistake unless `answer(*inputs)` is `expected(*inputs)` for the inputs of every case, smallest case first.

    `mistakes` maps a diagnosis to a function that makes the mistake; the answer has made it when both agree on every
    case. `clues` are functions `(result, *inputs) -> str | None` that find a symptom in a result of the right shape.
    `call(answer, *inputs)` says how to use an answer that is not called plainly, such as a class.
    """
    if not callable(answer):
        raise Mistake(f"Not yet: this is {a(answer)}, not a function: pass the function itself.")
    call = call or (lambda answer, *inputs: answer(*inputs))
    results = [attempt(call, answer, inputs, expected) for inputs in cases]
    rights = [expected(*copied(inputs)) for inputs in cases]
    wrong = [i for i in range(len(cases)) if not same(results[i], rights[i], tolerance)]
    if wrong:
        inputs, result, right = cases[wrong[0]], results[wrong[0]], rights[wrong[0]]
        example = counter_example(inputs, result, right, expected)
        for diagnosis, mistake in (mistakes or {}).items():
            if all(same(result, made(mistake, inputs), tolerance) for inputs, result in zip(cases, results)):
                raise Mistake(f"Not yet: {diagnosis}.\n\n{example}")
        found = symptom(result, right, inputs, clues)
        if found.startswith("the numbers") and wrong[0]:
            found += "; in the cases before this one they were right"
        raise Mistake(f"Not yet: {found}.\n\n{example}")
    for result, right in zip(results, rights):  # the values are right: is it what was asked for?
        if problem := unlike(result, right):
            raise Mistake(f"Not yet: {problem}.")


def attempt(call: Callable, answer: Callable, inputs: tuple, expected: Callable):
    """What the answer returns for copies of `inputs`; raises Mistake if it fails, returns nothing, or changes them."""
    given = copied(inputs)
    shown = named(inputs, expected)
    try:
        result = call(answer, *given)
    except Mistake:
        raise
    except (Exception, SystemExit) as error:
        raise Mistake(f"Not yet: it stops with {told(error)}.\n\n{shown}") from None
    if result is None:
        raise Mistake(f"Not yet: it returns nothing. Is the `return` missing?\n\n{shown}")
    for before, after in zip(inputs, given):
        if isinstance(before, Tensor) and not same(after, before):
            raise Mistake(f"Not yet: it changes its input in place; work on a copy.\n\n{shown}")
    return result


def copied(inputs: tuple) -> tuple:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)


def made(mistake: Callable, inputs: tuple):
    """What a mistake returns, or None where it cannot be made."""
    try:
        return mistake(*copied(inputs))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None


def same(one, other, tolerance: float = 1e-4) -> bool:
    """Whether two results hold the same values; what kind of number holds them does not count."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or "meta" in (one.device.type, other.device.type):
            return False
        one, other = one.detach().cpu().to_dense().double(), other.detach().cpu().to_dense().double()
        return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(other, (tuple, list)):
        alike = isinstance(one, (tuple, list)) and len(one) == len(other)
        return alike and all(same(x, y, tolerance) for x, y in zip(one, other))
    if isinstance(other, dict):
        return isinstance(one, dict) and set(one) == set(other) and all(same(one[k], other[k], tolerance) for k in one)
    if isinstance(other, (int, float)):
        value = plain(one)
        return value is not None and (value == other or abs(value - other) <= tolerance * max(1, abs(other)))
    return type(one) is type(other) and bool(one == other)


def plain(value) -> int | float | None:
    """A number as Python knows it, or None: int, float, and tensors or arrays that hold one number."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Fraction):
        return float(value)
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        try:
            return value.item()
        except (RuntimeError, ValueError):
            return None
    return None


# --- what is wrong with it ----------------------------------------------------------------------------------------


def unlike(result, right) -> str | None:
    """What kind of thing was returned in place of the one expected; None when the kind is right."""
    if isinstance(right, Tensor):
        if not isinstance(result, Tensor):
            return f"it returns {a(result)}, and a tensor is expected"
        if result.shape != right.shape:
            return f"the shape is {tuple(result.shape)}, expected {tuple(right.shape)}" + one_apart(result, right)
        if result.device != right.device:
            return f"the result is on the device {result.device}, its input on {right.device}: keep the input's"
        if result.dtype != right.dtype:
            return f"the result holds {type_name(result.dtype)}, expected {type_name(right.dtype)}"
    elif isinstance(right, (tuple, list)):
        if not isinstance(result, type(right)):
            return f"it returns {a(result)}, and {a(right)} is expected"
        if len(result) != len(right):
            return f"it returns {len(result)} things, expected {len(right)}"
        for place, (one, other) in enumerate(zip(result, right)):
            if problem := unlike(one, other):
                return f"in place {place} of what it returns: {problem}"
    elif isinstance(right, (int, float)) and not isinstance(right, bool):
        if plain(result) is None or isinstance(result, bool):
            return f"it returns {a(result)}, and a number is expected"
    elif type(result) is not type(right):
        return f"it returns {a(result)}, and {a(right)} is expected"
    return None


def one_apart(result: Tensor, right: Tensor) -> str:
    """What to add to two shapes that differ by an axis of size 1."""
    for more, fewer, said in ((result, right, "too many"), (right, result, "is lost")):
        if more.shape in [fewer.unsqueeze(axis).shape for axis in range(fewer.ndim + 1)]:
            return f": an axis of size 1 {said}"
    return ""


def symptom(result, right, inputs: tuple, clues: Sequence[Callable] = ()) -> str:
    """The best name for what is wrong when no known mistake explains it."""
    if problem := unlike(result, right):
        if not (isinstance(result, Tensor) and isinstance(right, Tensor) and result.shape == right.shape):
            return problem
        if result.device != right.device:
            return problem
    if isinstance(right, Tensor):
        if result.isnan().any() and not right.isnan().any():
            return "some of the numbers are nan: a softmax over a row of only -inf, or 0 / 0?"
        if found := rounded(result, right):
            return found
        for clue in clues:
            if found := clue(result, *inputs):
                return found
        result, right = result.detach().double(), right.double()
        return likeness(result, right) or whereabouts(result, right) or "the numbers differ"
    number = isinstance(right, (int, float)) and plain(result) is not None
    return number and rounded(torch.tensor(plain(result)), torch.tensor(right)) or "the result differs"


def rounded(result: Tensor, right: Tensor) -> str | None:
    """Whether right numbers were rounded, and to what; a table of only two numbers may be whole for other reasons."""
    result, right = result.detach().cpu().to_dense().double(), right.double()
    for places in range(4):
        close = torch.allclose(result, result.round(decimals=places), rtol=0, atol=1e-6)
        if close and (result - right).abs().max() <= 0.501 * 10**-places:
            if result.unique().numel() > 2 or (places and result.numel() == 1):
                return "the numbers are rounded to " + ("whole ones", "1 decimal", "2 decimals", "3 decimals")[places]
    return None


def whereabouts(result: Tensor, right: Tensor, names: Sequence[str] = ()) -> str | None:
    """Where numbers are wrong, if whole windows, heads, rows or columns (`names`: the first axes) are right."""
    wrong = ~torch.isclose(result, right, rtol=1e-3, atol=1e-3, equal_nan=True)
    names = names or {1: ["place"], 2: ["row", "column"], 3: ["window", "row", "column"]}.get(wrong.ndim)
    found = []
    for axis, name in enumerate(names or ["window", "head", "row", "column"][: wrong.ndim]):
        slices = wrong.transpose(0, axis).flatten(1) if wrong.ndim > 1 else wrong[:, None]
        places = slices.any(dim=1).nonzero().flatten().tolist()
        if 0 < len(places) < len(slices):
            found.append(placed(name, places, len(slices)))
    return f"the numbers are wrong {', '.join(found)}, and right everywhere else" if found else None


def placed(name: str, places: list[int], size: int) -> str:
    """
    >>> placed("row", [2, 3], 4), placed("head", [1], 2), placed("row", [0, 2], 4)
    ('from row 2 on', 'in head 1', 'in rows 0 and 2')
    """
    first, last = places[0], places[-1]
    if first == last:
        return f"in the last {name} ({last})" if 2 < size == last + 1 else f"in {name} {first}"
    if len(places) == last - first + 1:
        return f"from {name} {first} on" if last == size - 1 else f"in {name}s {first} to {last}"
    *others, end = places if len(places) < 6 else [*places[:4], "more"]
    return f"in {name}s {', '.join(map(str, others))} and {end}"


def likeness(result: Tensor, right: Tensor) -> str | None:
    """How wrong numbers of the right shape relate to the right ones, when they do so plainly."""
    close = functools.partial(torch.allclose, rtol=1e-3, atol=1e-4)
    if result.ndim >= 2 and result.shape[-1] == result.shape[-2] and close(result, right.mT):
        return "transposed: rows and columns are exchanged"
    if not (right.isfinite().all() and result.isfinite().all()):
        return None
    if close(result, -right):
        return "the sign is wrong everywhere"
    if result.numel() > 1:
        factor = (result * right).sum() / right.square().sum().clamp(min=1e-12)
        if factor.abs() > 1e-3 and close(result, factor * right):
            return f"every number is {factor.item():.3g} times what it should be"
        if close(result - right, (result - right).mean().expand_as(right)):
            return f"every number is off by the same {(result - right).mean().item():.3g}"
        if close(result.flatten().sort().values, right.flatten().sort().values):
            return "the right numbers in the wrong places"
    return None


def looks_ahead(weights: Tensor, *inputs) -> str | None:
    """A clue for causal weights (..., T, T): the first place above the diagonal that is not zero."""
    ahead = weights.detach().triu(1).abs() > 1e-6
    if ahead.any():
        row, column = ahead.nonzero()[0, -2:].tolist()
        return f"row {row} attends to column {column}: the future leaks"
    return None


def rows_sum_to_one(weights: Tensor, *inputs) -> str | None:
    """A clue for weights (..., T, T): which sums are one, and which are not."""
    rows, columns = weights.detach().sum(dim=-1), weights.detach().sum(dim=-2)
    if torch.allclose(rows, torch.ones_like(rows), atol=1e-3):
        return None
    if torch.allclose(columns, torch.ones_like(columns), atol=1e-3):
        return "columns sum to one, rows do not: the softmax runs over the queries"
    row = (rows - 1).abs().flatten().argmax().item()
    return f"a row sums to {rows.flatten()[row].item():.2f}, and every row must sum to 1"


def obeys_generator(draw: Callable[[torch.Generator], object], shown: str = "") -> None:
    """Raise Mistake unless `draw(generator)` depends on the generator's state and on no other chance."""
    draws = []
    for outer, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(outer)
        draws.append(draw(torch.Generator().manual_seed(seed)))
    if not same(draws[0], draws[1]):
        raise Mistake(f"Not yet: two calls with the same seed differ: the generator is ignored.{shown}")
    if same(draws[1], draws[2]):
        raise Mistake(f"Not yet: two seeds give the same draw: the generator is ignored.{shown}")


# --- predictions --------------------------------------------------------------------------------------------------


def number(answer, right: float, mistakes: Mapping[float, str] | None = None, tolerance: float = 1e-2) -> None:
    """Raise Mistake unless `answer` is a number within `tolerance` of `right`; `mistakes` maps wrong ones to why."""
    value = plain(answer)
    if value is None or isinstance(answer, bool):
        raise Mistake(f"Not yet: this is {a(answer)}, and a number is expected.")
    if abs(value - right) <= tolerance:
        return
    for wrong, why in (mistakes or {}).items():
        if abs(value - wrong) <= tolerance:
            raise Mistake(f"Not yet: {value:g}: {why}.")
    if value != value:
        raise Mistake("Not yet: nan is not a number that can be right.")
    raise Mistake(f"Not yet: {value:g} is too {'high' if value > right else 'low'}.")


def shape(answer, right: Sequence[int], mistakes: Mapping[tuple, str] | None = None) -> None:
    """Raise Mistake unless `answer` is the shape `right`: a tuple, a list or a torch.Size."""
    if isinstance(answer, (tuple, list)) and answer and all(type(size) in (int, float) for size in answer):
        if broken := [size for size in answer if type(size) is float]:
            raise Mistake(f"Not yet: {broken[0]} is not a whole number, and every size is: divide with //.")
    if not isinstance(answer, (tuple, list)) or not all(isinstance(size, int) for size in answer):
        raise Mistake(f"Not yet: this is {a(answer)}, and a shape is expected: a tuple of whole numbers, like (2, 3).")
    sizes = tuple(answer)
    if sizes == tuple(right):
        return
    if why := (mistakes or {}).get(sizes):
        raise Mistake(f"Not yet: {sizes}: {why}.")
    if len(sizes) != len(right):
        raise Mistake(f"Not yet: {sizes} has {len(sizes)} axes, and the tensor has {len(right)}.")
    if sorted(sizes) == sorted(right):
        raise Mistake(f"Not yet: {sizes} holds the right sizes in the wrong order.")
    axis = next(i for i, (one, other) in enumerate(zip(sizes, right)) if one != other)
    raise Mistake(f"Not yet: in {sizes}, axis {axis} has another size.")


def choice(answer, right: str, reasons: Mapping[str, str]) -> None:
    """Raise Mistake unless `answer` is the letter `right`; `reasons` says of each other letter why it is not."""
    letters = sorted([right, *reasons])
    given = answer.strip().lower().strip("().") if isinstance(answer, str) else None
    if given not in letters:
        raise Mistake(f"Not yet: choose one of {', '.join(map(repr, letters))}, not {shortened(answer)}.")
    if given != right:
        raise Mistake(f"Not yet: {given}: {reasons[given]}.")


def named_parts(answer, names):
    """The parts of a dict under the names asked for, in order."""
    if not isinstance(answer, dict):
        raise Mistake(f"Not yet: this is {a(answer)}; keep the names and replace what stands behind them.")
    for name in names:
        if name not in answer:
            raise Mistake(f"Not yet: {name!r} is missing; keep the names and replace what stands behind them.")
    return [(name, answer[name]) for name in names]


# --- what to try and what to look for ---------------------------------------------------------------------------


def tensors(seed, *sizes, spread=2.0):
    """Random numbers with one decimal, so that an example can be read."""
    generator = torch.Generator().manual_seed(seed)
    return [(spread * torch.randn(size, generator=generator)).round(decimals=1) for size in sizes]


def mistakes_of(attention, slips):
    """Every slip on its own, then every pair of slips of different kinds, each with its diagnosis."""
    single = [(kind, why, slip) for kind, found in slips for why, slip in found.items()]
    mistakes = {why: functools.partial(attention, **{kind: slip}) for kind, why, slip in single}
    for (kind, why, slip), (other, also, second) in itertools.combinations(single, 2):
        if kind != other:
            mistakes[f"two things: {why}; and {also}"] = functools.partial(attention, **{kind: slip, other: second})
    return mistakes
