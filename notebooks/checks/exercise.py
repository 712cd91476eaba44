"""An exercise is a right answer and the edits that make it wrong.

    @exercise(cases=[...], mistakes={"/ D**0.5": {"": "the scale is left out", "/ D": "divided by D, not by its root"}})
    def one_head(x, query, key, value): ...  # the right answer: the text of the notebook's folded solution

An answer that behaves like an edited solution in every case has made that mistake, and `why` is what it is told.
"""

import ast
import contextlib
import copy
import ctypes
import functools
import inspect
import itertools
import random
import textwrap
import threading

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import compare
from .report import Mistake, counter_example, inputs_shown, kind, line_of, one_line, shortened

UNTRIED = "Not tried yet: replace the ... in the cell above, run it, then run this cell again."
EMPTY = {
    compile(text, "", "exec").co_consts[0].co_code
    for text in ("def f(): ...", "def f():\n '...'", "def f():\n return ...", "def f():\n '...'\n return ...")
}


def untried(answer) -> bool:
    """Whether a `...` still stands where the answer should be: as a value, a body or a method."""
    if isinstance(answer, (list, tuple)):
        return any(map(untried, answer))
    if isinstance(answer, nn.Module):
        answer = type(answer)
    if inspect.isclass(answer):
        return any(untried(method) for method in vars(answer).values() if inspect.isfunction(method))
    code = getattr(answer, "__code__", None)
    constants = (None, ..., getattr(answer, "__doc__", None))
    empty = code is not None and code.co_code in EMPTY and all(constant in constants for constant in code.co_consts)
    return answer is ... or empty


class TooLong(BaseException):
    """Raised inside an answer that runs past its time limit."""


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raise TooLong in this thread after `seconds`: from a second thread, since Windows has no `signal.alarm`."""
    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), threading.Event()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop():
        with lock:
            if not over.is_set():
                throw(thread, ctypes.py_object(TooLong))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over.set()
            throw(thread, None)  # not to be raised after all, if it is on its way


STATES = {
    "gradient tracking is": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the default dtype is": (torch.get_default_dtype, torch.set_default_dtype),
    "the number of threads is": (torch.get_num_threads, torch.set_num_threads),
}


@contextlib.contextmanager
def restored(changed: set):
    """Put PyTorch's global settings back, and note in `changed` which of them were not what they were."""
    before = {name: get() for name, (get, _) in STATES.items()}
    try:
        yield
    finally:
        for name, (get, put) in STATES.items():
            if get() != before[name]:
                changed.add(name)
                put(before[name])


@contextlib.contextmanager
def same_randomness():
    """The random numbers of the notebook are the same afterwards as if nothing had run in between."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class Calls(TorchFunctionMode):
    """Notes the names of the PyTorch functions and methods that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def copied(value):
    if isinstance(value, Tensor):
        return value.clone()
    return copy.deepcopy(value) if isinstance(value, (list, dict, set, nn.Module)) else value


class Check:
    """What all checks have in common: one line for a right answer, Mistake for a wrong one, and no other exception."""

    def __call__(self, *answers) -> None:
        try:
            with same_randomness():
                said = UNTRIED if all(map(self.blank, answers)) else self.examine(*answers)
        except KeyboardInterrupt as error:
            where = line_of(error)
            raise Mistake(f"interrupted{where}: does the loop end?" if where else "the check was interrupted") from None
        except Mistake as mistake:
            raise mistake from None
        except (Exception, SystemExit) as error:  # a check never fails in its own name
            raise Mistake(f"the check cannot use this answer ({one_line(error)})") from None
        print(said)

    blank = staticmethod(untried)


class Exercise(Check):
    """`exercise` says what the arguments mean."""

    def __init__(
        self, solution, cases, mistakes, said, also=None, clues=(), probes=(), errors=None, call=None, demands=(),
        forbidden=None, value=None, plain_number=False, pairs=False, tolerance=1e-4, seconds=10.0,
    ):  # fmt: skip
        functools.update_wrapper(self, solution, updated=())
        self.solution, self.source, self.cases, self.mistakes = solution, source_of(solution), cases, mistakes
        self.said, self.also, self.clues, self.probes, self.demands = said, also or {}, clues, probes, demands
        self.errors, self.forbidden, self.value, self.plain_number = errors or {}, forbidden or {}, value, plain_number
        self.pairs, self.tolerance, self.seconds = pairs, tolerance, seconds
        self.call = call or (lambda answer, *inputs: answer(*inputs))
        self.names = [*inspect.signature(call).parameters][1:] if call else [*inspect.signature(solution).parameters]
        self.same = functools.partial(compare.same, tolerance=tolerance)

    def edited(self, *edits: tuple[str, str]):
        """The solution with each (old, new) replaced; an edit of the whole has '' as old."""
        source = self.source
        for old, new in edits:
            if old and source.count(old) != 1:
                raise ValueError(f"{self.__name__}: {old!r} occurs {source.count(old)} times in\n{source}")
            source = source.replace(old, new) if old else textwrap.dedent(new)
        space = {**vars(inspect.getmodule(self.solution)), "right": self.solution}
        if not source.startswith(("def ", "class ", "@")):
            source = f"{self.__name__} = lambda {', '.join(inspect.signature(self.solution).parameters)}: {source}"
        exec(compile(source, "<edited solution>", "exec"), space)
        return space[self.__name__]

    def single(self) -> list[tuple[str, str, str]]:
        return [(old, new, why) for old, edits in self.mistakes.items() for new, why in edits.items()]

    def wrong_answers(self):
        """Every known mistake: how it is made, the answers that make it, what they are told."""
        for old, new, why in self.single():
            yield f"{old!r} -> {new!r}", (self.edited((old, new)),), why

    def known(self):
        """Every mistake alone, then, if asked for, every two that do not overlap: what is said, and how it is made."""
        single = self.single()
        for old, new, why in single:
            yield why, [(old, new)]
        for (a, x, one), (b, y, other) in itertools.combinations(single if self.pairs else [], 2):
            first, second = sorted((self.source.index(old), self.source.index(old) + len(old)) for old in (a, b))
            if a and b and first[1] <= second[0]:
                yield f"two mistakes: {one}; and {other}", [(a, x), (b, y)]

    def attempt(self, answer, inputs: tuple, changed: set):
        """What the answer returns for a copy of the inputs, or the exception that it raises; Mistake if it goes on."""
        given = tuple(map(copied, inputs))
        try:
            with restored(changed), time_limit(self.seconds):
                result = self.call(answer, *given)
        except TooLong as error:
            why = f"still running after {self.seconds:g} seconds{line_of(error)}: does the loop end?"
            raise Mistake(why, inputs_shown(inputs, self.names, brief=True)) from None
        except (Exception, SystemExit) as error:
            return error
        if result is None:
            return Mistake("it returns nothing. Is the `return` missing?")
        if any(not compare.same(after, before) for after, before in zip(given, inputs) if copied(before) is not before
               and not isinstance(before, nn.Module)):  # fmt: skip
            return Mistake("it changes its input in place; work on a copy")
        return result

    def examine(self, answer, *values) -> str:
        said = "Right so far; still to do: the function." if untried(answer) else self.examine_function(answer)
        told = self.value.examine(dict(zip(self.value.parts, values))) if values else ""
        return told if told.startswith("Right so far") else said

    def examine_function(self, answer) -> str:
        if not callable(answer):
            wanted = "class: pass the class" if inspect.isclass(self.solution) else "function: pass the function"
            raise Mistake(f"this is {kind(answer)}, not a {wanted} itself")
        changed, tried, calls = set(), [], Calls()
        for note, cases in [("", self.cases), *self.also.items()]:
            for inputs in cases:
                right = self.call(self.solution, *map(copied, inputs))
                with calls if self.forbidden else contextlib.nullcontext():
                    result = compare.as_asked(self.attempt(answer, inputs, changed), right)
                tried.append((inputs, result, right))
            first = next((i for i, (_, result, right) in enumerate(tried) if not self.same(result, right)), None)
            if first is not None:
                raise self.diagnosis(answer, tried, first, note)
        for inputs, result, right in tried:
            if problem := compare.unlike(result, right) or compare.wrong_dtype(result, right):
                raise Mistake(problem, counter_example(inputs, self.names, result, right))
            if self.plain_number and isinstance(result, Tensor):
                raise Mistake("the value is right, but it is a tensor: return a plain number, with `.item()`")
        for name in changed:
            raise Mistake(f"the values are right, but {name} not what it was before the call: undo what you change")
        for names, why in self.forbidden.items():
            for name in names.split():
                if name.rpartition(".")[2] in calls.names:
                    raise Mistake(f"the values are right, but `{name}` is called: {why}")
        for demand in self.demands:
            if problem := demand(answer):
                raise Mistake(problem)
        return f"Right: {self.said}"

    def diagnosis(self, answer, tried: list, first: int, note: str) -> Mistake:
        inputs, result, right = tried[first]
        example = counter_example(inputs, self.names, result, right)
        if found := compare.degenerate([result for _, result, _ in tried], [right for *_, right in tried]):
            return Mistake(found, example)
        if known := self.agreeing(tried, first):
            return Mistake(known, example)
        if isinstance(result, BaseException):
            found, example = self.stopped(result, example)
        else:
            found = self.symptom(answer, tried, first)
        if note:
            found = note if found == "the numbers differ" else f"{note}: {found}"
        elif first and not found.endswith("?") and not isinstance(result, Mistake):
            found += "; the cases before this one are right"
        return Mistake(found, example)

    def agreeing(self, tried: list, first: int) -> str | None:
        """What is said of the known mistake that gives the same in every case, if there is one."""
        stopped = all(isinstance(result, BaseException) for _, result, _ in tried)
        for why, edits in self.known():
            mistake, finite = self.edited(*edits), False
            for inputs, result, right in [tried[first], *tried[:first], *tried[first + 1 :]]:
                try:
                    made = compare.as_asked(self.attempt(mistake, inputs, set()), right)
                except Mistake:
                    break  # this mistake goes on, and the answer came to an end
                if not self.same(result, made) or stopped and one_line(result) != one_line(made):
                    break
                finite = finite or not isinstance(made, Tensor) or bool(made.isfinite().any()) or not made.numel()
            else:
                if finite:  # what is nan everywhere has many causes
                    return why
        return None

    def stopped(self, error: BaseException, example: str) -> tuple[str, str]:
        if isinstance(error, Mistake):
            return error.why, error.example or example
        for words, why in self.errors.items():
            if words in one_line(error):
                return why, f"  {one_line(error)}{line_of(error)}\n\n{example}"
        return f"it stops with {one_line(error)}{',' if line_of(error) else ''}{line_of(error)}", example

    def symptom(self, answer, tried: list, first: int) -> str:
        """The best name for what is wrong when no known mistake explains it."""
        inputs, result, right = tried[first]
        if (
            found := compare.unlike(result, right)
            or compare.not_finite(result, right)
            or compare.rounded(result, right)
        ):
            return found
        if not self.same(result, compare.as_asked(self.attempt(answer, inputs, set()), right)):
            return "two calls with the same input differ: is something in it random, or kept from one call to the next?"
        for look, one in [*((probe, answer) for probe in self.probes), *((clue, result) for clue in self.clues)]:
            with contextlib.suppress(Exception):  # it is looked for in an answer that is wrong: that may do anything
                if found := look(one, *map(copied, inputs)):
                    return found
        if isinstance(right, (int, float)) and not isinstance(right, bool):
            numbers = [(compare.plain(result), right) for _, result, right in tried[first:]]
            return compare.number_symptom(*zip(*(pair for pair in numbers if pair[0] is not None)))
        return compare.symptom(result, right)


def source_of(solution) -> str:
    """The text of a function or class, without decorator and docstring."""
    lines = textwrap.dedent(inspect.getsource(solution)).splitlines()
    tree = ast.parse("\n".join(lines)).body[0]
    if ast.get_docstring(tree):
        lines[tree.body[0].lineno - 1 : tree.body[0].end_lineno] = []
    return "\n".join(lines[tree.lineno - 1 :]).strip()


def exercise(cases: list, mistakes: dict, said: str, **more):
    """Make a check of a right answer.

    cases: tuples of inputs, the smallest first. also: {note: more cases}, tried when those are right.
    mistakes: {old: {new: why}}, edits of the solution's text; under "" whole other answers, which may call `right`.
    pairs: two mistakes at once are named too. errors: {words of an exception: why}.
    clues: (result, *inputs) -> why or None; probes: (answer, *inputs) -> why or None; they find a symptom.
    call: (answer, *inputs) -> result: how an answer is used that is not called plainly.
    demands: (answer) -> why or None: what is asked for beside the values. forbidden: {"torch.multinomial": why}.
    value: a prediction that is checked too, where the learner passes what the function has shown.
    """
    return lambda solution: Exercise(solution, cases, mistakes, said, **more)


class Prediction(Check):
    """A number, shape, letter, list or set: the right value, and wrong ones with what is said, as {value: why}.

    For several at once, `right` is {part: value}, and `wrong` holds {part: {value: why}} for one part and {value: why}
    for all of the same kind. That a value is right for another part is told without being listed.
    """

    def __init__(self, right, wrong: dict, said: str, clue=None, tolerance: float = 0.01):
        self.right, self.wrong, self.said, self.clue, self.tolerance = right, wrong, said, clue, tolerance
        self.parts = right if isinstance(right, dict) else {"": right}

    def blank(self, answer) -> bool:
        return all(map(self.blank, answer.values())) if isinstance(answer, dict) and answer else untried(answer)

    def wrong_of(self, name: str) -> dict:
        if not isinstance(self.right, dict):
            return self.wrong
        right = self.parts[name]
        like = next((types for types in (tuple, (int, float)) if isinstance(right, types)), ())
        known = {value: f"that is right for {part!r}" for part, value in self.parts.items() if isinstance(value, like)}
        known |= {value: why for value, why in self.wrong.items() if isinstance(value, like)}
        return {value: why for value, why in known.items() if value != right} | self.wrong.get(name, {})

    def wrong_answers(self):
        for name in self.parts:
            for value, why in self.wrong_of(name).items():
                answer = {**self.parts, name: value}
                yield f"{name} {value!r}", (answer,) if name else (value,), why

    def examine(self, *answers) -> str:
        given = dict(zip(self.parts, answers)) if not isinstance(self.right, dict) or len(answers) > 1 else answers[0]
        if not isinstance(given, dict) or set(given) != set(self.parts):
            entries = ", ".join(map(repr, self.parts))
            raise Mistake(f"this is {kind(given)}, and a dictionary with the entries {entries} is expected")
        for name, right in self.parts.items():
            if not self.blank(given[name]) and (why := self.problem(name, given[name], right, self.wrong_of(name))):
                raise Mistake(why, where=name)
        if left := [name for name in self.parts if self.blank(given[name])]:
            return f"Right so far; still to do: {', '.join(left)}."
        return f"Right: {self.said}"

    def problem(self, name: str, given, right, wrong: dict) -> str | None:
        if isinstance(right, str) and len(right) == 1:
            letter, choices = str(given).strip().lower().strip("()."), sorted({right, *wrong})
            if letter not in choices:
                return f"choose one of {', '.join(map(repr, choices))}, not {shortened(given)}"
            return None if letter == right else f"{letter}: {wrong[letter]}"
        if isinstance(right, tuple):
            return shape_problem(given, right, wrong)
        if isinstance(right, (int, float)):
            value = compare.plain(given)
            if value is None or isinstance(given, bool):
                return f"this is {kind(given)}, and a number is expected"

            def close(target):  # within the tolerance, relative; an integer must be met
                return abs(value - target) <= (0.1 if type(right) is int else self.tolerance * abs(target) + 1e-9)

            if close(right):
                return None
            nearest = min(filter(close, wrong), key=lambda number: abs(number - value), default=None)
            if nearest is not None:
                return f"{value:g}: {wrong[nearest]}"
            return self.hint(value) or compare.number_symptom([value], [right], coarse=True)
        if isinstance(right, set):  # a list in any order
            right = sorted(right)
            if isinstance(given, (list, tuple, set)) or getattr(given, "ndim", 0) == 1:
                given = sorted(set(map(compare.plain, given)), key=lambda n: (isinstance(n, (int, float)), n))
        if compare.same(compare.as_asked(given, right), right):
            return None
        if (problem := compare.unlike(given, right)) and not isinstance(given, (list, tuple)):
            return problem.replace("it returns", "this is")
        why = next((why for value, why in wrong.items() if compare.same(compare.as_asked(given, value), value)), None)
        return f"{shortened(given)}: {why or self.hint(given) or 'it is not right yet: look again'}"

    def hint(self, given) -> str | None:
        with contextlib.suppress(Exception):  # the value is wrong: it may be of any kind
            return self.clue and self.clue(given)


def shape_problem(given, right: tuple, wrong: dict) -> str | None:
    if not isinstance(given, (tuple, list)) or not all(type(size) in (int, float) for size in given):
        return f"this is {kind(given)}, and a shape is expected: a tuple of integers, like (2, 3)"
    if fractions := [size for size in given if type(size) is float]:
        return f"{fractions[0]} is not an integer, and every size is: divide with //"
    sizes = tuple(given)
    if sizes == right or sizes in wrong:
        return f"{sizes}: {wrong[sizes]}" if sizes != right else None
    if len(sizes) != len(right):
        return f"{sizes} has length {len(sizes)}, and the tensor has {len(right)} axes"
    if sorted(sizes) == sorted(right):
        return f"{sizes} holds the right sizes in the wrong order"
    axis = next(i for i, (one, other) in enumerate(zip(sizes, right)) if one != other)
    return f"in {sizes}, axis {axis} has the wrong size"


prediction = Prediction
