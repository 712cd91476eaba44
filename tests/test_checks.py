"""The checks: every known mistake is told its own diagnosis, right answers pass in any style, no check fails itself.

The mistakes are generated: each edit of a right answer is made and handed in. `answers/` holds the rest.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import io
import random
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import Several
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))  # where a notebook's kernel starts

from checks import compare, report  # noqa: E402
from checks.exercise import Check, Exercise, exercise, prediction, untried  # noqa: E402
from checks.report import Mistake  # noqa: E402

FILES = sorted(path.stem for path in (ROOT / "notebooks" / "checks").glob("n[0-9]*.py"))
MODULES = {name: importlib.import_module(f"checks.{name}") for name in FILES}
BANKS = {name: importlib.import_module(f"answers.{name}") for name in FILES}
EXERCISES = {
    f"{module[1:3]} {name}": (module, name, check)
    for module in FILES
    for name, check in vars(MODULES[module]).items()
    if isinstance(check, Check)
}
SAID = []  # all that was said in this run
each = pytest.mark.parametrize("module, name, check", EXERCISES.values(), ids=EXERCISES)


def verdict(check, *answers):
    """What a check says: its printed line, or the message of the mistake."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            check(*answers)
        except Mistake as mistake:
            message = str(mistake)
        else:
            message = printed.getvalue().strip()
    SAID.append(message)
    return message


def sentence(message):
    return message.partition("\n\n")[0]


@functools.cache
def told(module, name):
    """[(how a wrong answer is made, the sentence it is told, the sentence or words that it should be told)]"""
    check = getattr(MODULES[module], name)
    generated = [(how, sentence(verdict(check, *answers)), why) for how, answers, why in check.wrong_answers()]
    written = []
    for words, answer in BANKS[module].WRONG.get(name, {}).items():
        if isinstance(check, Exercise) and isinstance(answer, dict):
            answer = check.edited(*answer.items())
        answers = answer if isinstance(answer, Several) else (answer,)
        written.append((words, sentence(verdict(check, *answers)), words))
    return generated, written


# --- the exercises ------------------------------------------------------------------------------------------------


@each
def test_every_known_mistake_is_told_its_own_diagnosis(module, name, check):
    """The whole of it, and no two share one: edits that come to the same are one mistake."""
    generated, _ = told(module, name)
    faults = [f"{how}\n   is told   {said}\n   and not   {why}" for how, said, why in generated
              if not re.fullmatch(rf"Not yet: (.+: )?{re.escape(why)}[.]?", said)]  # fmt: skip
    assert not faults, "\n".join(faults)
    if isinstance(check, Exercise):
        whys = [why for *_, why in generated]
        assert sorted(set(whys)) == sorted(whys), "two mistakes share a diagnosis"


@each
def test_every_other_wrong_answer_is_told_its_words(module, name, check):
    generated, written = told(module, name)
    faults = [f"{words}: {said}" for _, said, words in written if not said.startswith("Not yet: ") or words not in said]
    faults += [f"{words!r} also fits {why!r}" for _, said, words in written for *_, why in generated
               if words in why and why not in said]  # fmt: skip
    assert not faults, "\n".join(faults)


@each
def test_right_answers_pass_in_any_style(module, name, check):
    right = [check.solution] if isinstance(check, Exercise) else [Several(check.parts.values())]
    right = right if isinstance(check, Exercise) or not isinstance(check.right, dict) else [check.right]
    assert BANKS[module].RIGHT[name], "a right answer in another style"
    for answer in [*right, *BANKS[module].RIGHT[name]]:
        said = verdict(check, *(answer if isinstance(answer, Several) else (answer,)))
        assert re.fullmatch(r"Right: \S.*\.", said), (answer, said)


@each
def test_pairs_of_mistakes_are_named(module, name, check):
    if not getattr(check, "pairs", False):
        return
    pairs = [(why, edits) for why, edits in check.known() if len(edits) == 2]
    for why, edits in random.Random(0).sample(pairs, 12):
        said = sentence(verdict(check, check.edited(*edits)))
        assert said.startswith("Not yet: "), edits
        if "two mistakes" in said:
            assert why in said or check.same(
                *(check.edited(*e)(*check.cases[-1]) for w, e in pairs if w in said or w == why)
            )


NONSENSE = [
    None,
    3.75,
    -4,
    "?",
    [],
    {},
    (),
    torch.zeros(0),
    torch.zeros(2, 2),
    nn.Linear(2, 2),
    nn.Linear,
    object(),
    print,
]
NONSENSE += [int, lambda: 1, lambda *a: a, lambda *a, **k: "?", lambda *a, **k: exec("raise SystemExit(1)")]


@each
def test_nonsense_is_refused_and_never_crashes_a_check(module, name, check):
    example = BANKS[module].RIGHT[name][0]
    count = len(example) if isinstance(example, Several) else 1
    for answer in NONSENSE:
        said = verdict(check, *[answer] * count)
        assert said.startswith("Not yet: ") or (answer in ([], {}) and said.startswith("Not tried")), (answer, said)
        assert "the check cannot use this answer" not in said, (answer, said)
    assert verdict(check, *[...] * count).startswith("Not tried yet")


# --- every diagnosis is reached -----------------------------------------------------------------------------------


def leaves(node):
    """The texts that an expression may come to, as patterns: of `a if c else b` both."""
    if isinstance(node, ast.IfExp):
        return leaves(node.body) + leaves(node.orelse)
    if isinstance(node, ast.BoolOp):
        return [leaf for value in node.values for leaf in leaves(value)]
    if isinstance(node, ast.BinOp):
        return leaves(node.left) + leaves(node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [re.escape(node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in node.values]
        return ["".join(parts)]
    return []


def diagnoses(module):
    """Patterns of all that the functions of a file may say: what they return, and what `Mistake` is given."""
    found, tree = set(), ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value:
            found.update(leaves(node.value))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Mistake" and node.args:
            found.update(leaves(node.args[0]))
    return {
        pattern for pattern in found if len(re.sub(r"\\.|\.\*", "", pattern).split()) > 2 or pattern.count("\\ ") > 2
    }


@pytest.mark.parametrize("module", FILES)
def test_every_diagnosis_is_reached(module):
    checks = {name: check for name, check in vars(MODULES[module]).items() if isinstance(check, Check)}
    said = [message for name in checks for part in told(module, name) for _, message, _ in part]
    wanted = diagnoses(MODULES[module])
    for check in checks.values():
        if isinstance(check, Exercise):
            wanted.update(map(re.escape, [*check.errors.values(), *check.also, *check.forbidden.values()]))
    missing = [pattern for pattern in wanted if not any(re.search(pattern, message) for message in said)]
    assert not missing, "no answer is told:\n" + "\n".join(missing)


# --- the engine ---------------------------------------------------------------------------------------------------


def made(solution, cases, mistakes=None, **more):
    """A check of a small function."""
    return exercise(cases, mistakes or {}, said="it is right.", **more)(solution)


def identity(x):
    return x


def double(n):
    return 2 * n


def power(n):
    return 2**n


def interrupted(*given):
    raise KeyboardInterrupt


def plus_two(n):
    value = n + 1
    return value + 1


X = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.25, 1.0], [-2.0, 4.0, 1.5]])
ROWS = torch.arange(9.0).view(3, 3)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda x: -x, "the sign is wrong everywhere"),
        (lambda x: 3 * x, "every number is 3 times what it should be"),
        (lambda x: x + 2, "every number is off by the same amount, 2"),
        (lambda x: 1 / x, "every number is the reciprocal of what it should be"),
        (lambda x: x.mT, "transposed: rows and columns are exchanged"),
        (lambda x: x.flip(0), "the right numbers in the wrong order"),
        (lambda x: x / 0 * 0, "every number is nan"),
        (lambda x: x / 0, "every number is infinite"),
        (lambda x: x.where(x > 0, -torch.inf), "2 of 9 numbers are infinite"),
        (lambda x: x.where(x > 0, torch.nan), "2 of 9 numbers are nan"),
        (lambda x: x + ROWS + 1, "the numbers differ"),
        (lambda x: x.int(), "the numbers are rounded to integers"),
        (lambda x: x.round(decimals=1), "the numbers are rounded to 1 decimal"),
        (lambda x: x + torch.tensor([0.0, 0.0, 1.0]), "the numbers are wrong in the last column (2), and right"),
        (lambda x: x + torch.tensor([[0.0], [1.0], [2.0]]), "from row 1 on, and right everywhere else"),
        (lambda x: x[None], "the shape is (1, 3, 3), expected (3, 3): an axis of size 1 too many"),
        (lambda x: x[0], "the shape is (3,), expected (3, 3)"),
        (lambda x: x.to("meta"), "the result is on the device meta, its input on cpu"),
        (lambda x: [x, x], "it returns a list, and a tensor is expected: `torch.stack`"),
        (lambda x: print(end=""), "it returns nothing. Is the `return` missing?"),
        (lambda x: x.mul_(2), "it changes its input in place"),
        (lambda x: x + torch.rand(3), "two calls with the same input differ"),
        (lambda x: (x + 0.0005).half(), "the result holds float16, which keeps only two or three digits"),
        (lambda x: x > 0, "the numbers differ"),
        (lambda x: x.half(), "the values are right, but the result holds float16"),
        (lambda x: x.double(), "Right"),
        (lambda x: x.tolist(), "Right"),
        (lambda x: x.numpy(), "Right"),
        (lambda x: x.to_sparse(), "Right"),
        (lambda x: x.requires_grad_().clone(), "Right"),
        (lambda: 1, "takes 0 positional arguments but 1 was given"),
        (3, "this is an int, not a function: pass the function itself"),
    ],
)
def test_symptoms(change, said):
    message = verdict(made(identity, [(X,)]), change)
    assert said in sentence(message), message


@pytest.mark.parametrize(
    "where, said",
    [
        ((1,), "in window 1"),
        ((..., 0, slice(None)), "in row 0"),
        ((1, ..., slice(2, None), slice(None)), "in window 1, from row 2 on"),
        ((slice(None), slice(1, None), ..., [0, 2, 4]), "from head 1 on, in columns 0, 2 and 4"),
        ((..., slice(1, 3), slice(None)), "in rows 1 to 2"),
        ((0, 2, 3, 4), "in window 0, in the last head (2), in the last row (3), in the last column (4)"),
    ],
)
def test_what_is_wrong_at_some_indices_only_is_told_by_them(where, said):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    wrong = x.clone()
    wrong[where] += torch.rand(wrong[where].shape, generator=torch.Generator().manual_seed(1)) + 0.5
    message = verdict(made(identity, [(x,)]), lambda x: wrong)
    assert message.startswith(f"Not yet: the numbers are wrong {said}, and right everywhere else.\n")


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda n: 7, "it returns the same in each of 3 different cases"),
        (lambda n: -2 * n, "every result is the negative"),
        (lambda n: 1 / (2 * n), "every result is the reciprocal"),
        (lambda n: 200 * n, "every result is a percentage"),
        (lambda n: 4.6 * n, "every result is 2.3 times what it should be"),
        (lambda n: n + 1.6, "2.6 is too high"),
        (lambda n: 2.0 * n + (n == 3), "the result is 1.17 times what it should be"),
        (lambda n: float("nan"), "the result is nan"),
        (lambda n: float("inf"), "inf cannot be right: the right value is finite"),
        (lambda n: str(2 * n), "it returns a str, and a number is expected"),
        (lambda n: torch.tensor(2 * n), "Right"),
        (lambda n: np.int64(2 * n), "Right"),
    ],
)
def test_symptoms_of_a_number(answer, said):
    assert said in verdict(made(double, [(1,), (2,), (3,)]), answer)


@pytest.mark.parametrize(
    "right, answer, said",
    [
        (lambda n: ["a"] * n, lambda n: ["a"] * n + ["b"], "it returns a list of length 2, expected length 1"),
        (lambda n: ["a"] * n, lambda n: [], "the result is empty in every case"),
        (lambda n: ["a"] * n, lambda n: ["a"] * (n - 1) + ["b"], "the first difference is at index 0"),
        (lambda n: ["a"] * n, lambda n: "a", "it returns a str, and a list is expected"),
        (lambda n: (X * n, X), lambda n: [X * n, -X], "at index 1 of what it returns: the sign is wrong everywhere"),
        (lambda n: (X * n, X), lambda n: (X * n, X[0]), "at index 1 of what it returns: the shape is (3,)"),
        (lambda n: X * n, lambda n: X * 0, "every number in the result is 0, in every case"),
        (lambda n: "a" * n, lambda n: "b" * n, "the result differs"),
        (lambda n: ROWS.long() * n, lambda n: ROWS.int() * n, "Right"),
        (lambda n: ROWS.long() * n, lambda n: ROWS * n, "the result holds float32, and integers (int64) are expected"),
    ],
)
def test_symptoms_of_lists_and_degenerate_results(right, answer, said):
    def solution(n):
        return RESULTS[0](n)

    RESULTS[:] = [right]
    assert said in verdict(made(solution, [(1,), (2,)]), answer)


RESULTS = []


def test_a_mistake_that_crashes_in_the_same_cases_is_named():
    check = made(
        plus_two, [(1,), (2,), (3,)], {"value + 1": {"value + [1][: n != 2][0]": "there is no item for n = 2"}}
    )

    def crashes(n):
        return n + 2 if n != 2 else [][0]

    assert sentence(verdict(check, crashes)) == "Not yet: there is no item for n = 2."


def test_an_exception_is_told_with_the_line_that_raised_it():
    def fails(n):
        size = n + 1
        return missing + size  # noqa: F821

    message = verdict(made(plus_two, [(1,)]), fails)
    line = fails.__code__.co_firstlineno + 2
    assert sentence(message).startswith(
        f"Not yet: it stops with NameError: name 'missing' is not defined, in line {line}: `return missing + size"
    )
    assert "n = 1" in message
    known = made(plus_two, [(1,)], errors={"is not defined": "a name is missing"})
    assert sentence(verdict(known, fails)) == "Not yet: a name is missing."
    later = verdict(made(plus_two, [(1,), (2,)]), lambda n: n + 2 if n == 1 else fails(n))
    assert "the cases before this one are right" in later


def test_a_mistake_that_agrees_in_most_cases_is_not_suggested():
    check = made(power, [(1,), (3,), (4,), (5,)], {"2**n": {"n**2": "n is squared"}})
    assert sentence(verdict(check, lambda n: n**2 + (n == 5))) == "Not yet: 1 is too low."


def test_an_endless_loop_ends(monkeypatch):
    def endless(n):
        while True:
            n += 1

    started = time.perf_counter()
    message = verdict(made(plus_two, [(1,)], seconds=0.2), endless)
    assert time.perf_counter() - started < 5
    assert re.match(
        r"Not yet: still running after 0.2 seconds in line \d+: `.*`: does the loop end\?\n\n  n = 1", message
    )


def test_a_known_mistake_that_loops_is_not_told_to_another_answer():
    check = made(plus_two, [(1,)], {"return value + 1": {"while True: n += 1": "it never ends"}}, seconds=0.2)
    assert sentence(verdict(check, lambda n: n)) == "Not yet: the result is 0.333 times what it should be."
    mistakes = {"return value + 1": {"raise KeyboardInterrupt": "as if it were interrupted here"}}
    assert verdict(made(plus_two, [(1,)], mistakes), lambda n: n) == "Not yet: the check was interrupted."


def test_an_interrupt_shows_no_source_of_the_check():
    line = interrupted.__code__.co_firstlineno + 1
    message = verdict(made(plus_two, [(1,)]), interrupted)
    assert message == f"Not yet: interrupted in line {line}: `raise KeyboardInterrupt`: does the loop end?"
    assert verdict(made(plus_two, [(1,)], demands=[interrupted]), plus_two) == message
    with pytest.raises(Mistake) as raised:
        made(plus_two, [(1,)])(interrupted)
    assert raised.value._render_traceback_() == [message] and raised.value.__suppress_context__


def test_the_time_limit_leaves_nothing_behind():
    before = threading.active_count()
    check = made(plus_two, [(1,)], seconds=0.01)
    for _ in range(30):
        verdict(check, lambda n: time.sleep(0.0099) or n + 2)
    time.sleep(0.1)
    assert threading.active_count() <= before


def test_settings_and_random_numbers_are_as_before():
    def careless(n):
        torch.set_grad_enabled(False)
        torch.manual_seed(n)
        np.random.seed(n)
        random.seed(n)
        return n + 2

    def states():
        return torch.is_grad_enabled(), torch.rand(1).item(), np.random.rand(), random.random()

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = states()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    message = verdict(made(plus_two, [(1,)]), careless)
    assert "the values are right, but gradient tracking is not what it was" in message
    assert states() == expected


def test_what_the_text_forbids_or_asks_beside_the_values():
    check = made(identity, [(X,)], forbidden={"torch.relu torch.Tensor.relu": "write it out"})
    for answer in (lambda x: x + 0 * torch.relu(x), lambda x: x + 0 * x.relu()):
        assert (
            sentence(verdict(check, answer))
            == "Not yet: the values are right, but `torch.relu` is called: write it out."
        )
    assert verdict(check, lambda x: x + 0 * x.clamp(min=0)) == "Right: it is right."
    check = made(double, [(1,), (2,)], plain_number=True)
    assert "return a plain number" in verdict(check, lambda n: torch.tensor(2 * n))
    check = made(double, [(1,)], demands=[lambda answer: "it must also take 5" if answer(5) != 10 else None])
    assert sentence(verdict(check, lambda n: 2)) == "Not yet: it must also take 5."
    check = made(double, [(1,), (2,)], also={"wrong for n = 0": [(0,)]})
    assert sentence(verdict(check, lambda n: 2 * n or 1)) == "Not yet: wrong for n = 0: 1 is too high."


class Adder:
    def __init__(self, size):
        self.size = size

    def add(self, n):
        return self.size + n


def test_a_class_is_an_exercise_too():
    mistakes = {
        "self.size + n": {"self.size * n": "it multiplies"},
        "": {"right(size + 1)": "the size is one too large"},
    }
    check = made(Adder, [(1, 2), (3, 4)], mistakes, call=lambda answer, size, n: answer(size).add(n))
    assert verdict(check, Adder) == "Right: it is right." and check.names == ["size", "n"]
    told = {why: sentence(verdict(check, *answers)) for _, answers, why in check.wrong_answers()}
    assert told == {why: f"Not yet: {why}." for why in told} and len(told) == 2
    assert "pass the class itself" in verdict(check, Adder(2))


def test_clues_and_probes_may_fail():
    def broken(*given):
        raise ValueError

    check = made(identity, [(X,)], clues=[broken], probes=[broken])
    assert "off by the same amount, 1" in verdict(check, lambda x: x + 1)


def test_weights_that_look_ahead_or_do_not_sum_to_one():
    weights = torch.ones(3, 3).tril() / torch.arange(1, 4)[:, None]
    check = made(identity, [(weights,)], clues=[compare.looks_ahead, compare.rows_sum_to_one])
    assert "row 0 attends to column 2: the future leaks" in verdict(check, lambda x: x.flip(1))
    assert "columns sum to 1, rows do not" in verdict(check, lambda x: x.mT.flip(0, 1))
    assert "a row sums to 2.00, and every row must sum to 1" in verdict(check, lambda x: 2 * x)


def test_an_ignored_generator_is_noticed():
    check = made(double, [(1,)], demands=[compare.obeys_generator(lambda answer, generator: answer(1, generator))])
    assert verdict(check, lambda n, g=None: 2 if g is None else torch.rand(3, generator=g)) == "Right: it is right."
    assert "two calls with the same seed differ" in verdict(check, lambda n, g=None: 2 if g is None else torch.rand(3))
    assert "two seeds give the same" in verdict(check, lambda n, g=None: 2)


PARTS = prediction(
    {"n": 240, "size": (2, 3), "letter": "b"}, {"n": {24: "ten times"}, "letter": {"a": "no", "c": "no"}}, "so."
)


@pytest.mark.parametrize(
    "answer, said",
    [
        ({"n": 240.0, "size": [2, 3], "letter": "(B)"}, "Right: so."),
        ({"n": 240, "size": ..., "letter": ...}, "Right so far; still to do: size, letter."),
        ({"n": ..., "size": ..., "letter": ...}, "Not tried yet"),
        ({"n": 24, "size": ..., "letter": ...}, "n: 24: ten times."),
        ({"n": 241, "size": ..., "letter": ...}, "n: 241 is too high."),
        ({"n": 20, "size": ..., "letter": ...}, "n: 20 is about 10 times too small."),
        ({"n": float("nan"), "size": ..., "letter": ...}, "n: nan cannot be right: the right value is finite."),
        ({"n": "240", "size": ..., "letter": ...}, "n: this is a str, and a number is expected."),
        ({"n": 240, "size": (3, 2), "letter": "b"}, "size: (3, 2) holds the right sizes in the wrong order."),
        ({"n": 240, "size": (2, 4), "letter": "b"}, "size: in (2, 4), axis 1 has the wrong size."),
        ({"n": 240, "size": (2,), "letter": "b"}, "size: (2,) has length 1, and the tensor has 2 axes."),
        ({"n": 240, "size": (2, 6 / 2), "letter": "b"}, "size: 3.0 is not an integer"),
        ({"n": 240, "size": "2, 3", "letter": "b"}, "size: this is a str, and a shape is expected"),
        ({"n": 240, "size": (2, 3), "letter": "d"}, "letter: choose one of 'a', 'b', 'c', not 'd'."),
        ({"n": 240}, "a dictionary with the entries 'n', 'size', 'letter' is expected"),
        (Several([240, (2, 3), "b"]), "Right: so."),
    ],
)
def test_predictions(answer, said):
    assert said in verdict(PARTS, *(answer if isinstance(answer, Several) else (answer,)))


def test_wrong_values_of_one_part_of_every_part_and_of_another_part():
    wrong = {4: "too many", (3, 2): "transposed", "b": {5: "five", 4: "four"}}
    check = prediction({"a": 3, "b": 7, "size": (2, 3)}, wrong, "so.")
    for part, value, said in (
        *[("a", 4, "4: too many"), ("b", 4, "4: four"), ("b", 5, "5: five"), ("a", 5, "5 is about 2 times too large")],
        *[("a", 7, "7: that is right for 'b'"), ("b", 3, "3: that is right for 'a'")],
        ("size", (3, 2), "(3, 2): transposed"),
    ):
        assert verdict(check, {"a": ..., "b": ..., "size": ..., part: value}) == f"Not yet: {part}: {said}."


def test_the_clue_of_a_prediction_may_fail():
    def broken(given):
        raise ValueError

    assert verdict(prediction(3, {}, "so.", clue=broken), 4) == "Not yet: 4 is too high."
    assert "look again" in verdict(prediction(["a"], {}, "so.", clue=broken), ["b"])


def test_a_prediction_of_a_set_in_any_form():
    check = prediction({2, 10}, {}, "so.")
    for answer in ([10, 2, 2], (2, 10.0), {2, 10}, torch.tensor([10, 2])):
        assert verdict(check, answer) == "Right: so."
    assert "look again" in verdict(check, [0, 1]) and "a list is expected" in verdict(check, 3)


def test_a_function_and_a_value():
    value = prediction({"n": 3}, {"n": {4: "one too many"}}, said="")
    check = made(plus_two, [(1,)], value=value)
    assert verdict(check, plus_two, 3) == verdict(check, plus_two) == "Right: it is right."
    assert verdict(check, plus_two, 4) == "Not yet: n: 4: one too many."
    assert verdict(check, ..., 3) == "Right so far; still to do: the function."
    assert verdict(check, plus_two, ...) == "Right so far; still to do: n."
    assert sentence(verdict(check, lambda n: n + 3, ...)) == "Not yet: the result is 1.33 times what it should be."
    assert verdict(check, ..., ...).startswith("Not tried yet")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda x: x.where(x.isfinite(), 9.0), "3 of 9 numbers are finite, not infinite as expected"),
        (lambda x: 2 * x, "every number is 2 times what it should be"),
        (lambda x: x.where(x.isinf(), -x), "every number is -1 times what it should be"),
    ],
)
def test_symptoms_where_the_right_numbers_are_infinite(change, said):
    scores = X.masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    assert said in verdict(made(identity, [(scores,)]), change)


def test_a_prediction_of_a_list():
    check = prediction(["th", "e"], {("t", "he"): "the other merge comes first"}, "so.")
    assert verdict(check, ("th", "e")) == "Right: so."
    assert verdict(check, ["t", "he"]).endswith("the other merge comes first.")
    assert "look again" in verdict(check, ["the"]) and "a list is expected" in verdict(check, "the")


def test_blank_answers_are_not_tried():
    def blank(x): ...

    def explained(x, y=3):
        """What it should do."""
        ...

    def returned(x):
        return ...

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()

        def forward(self, x): ...

    for answer in (..., blank, explained, returned, Layer, Layer(), (1, ...), [...]):
        assert untried(answer), answer
    for answer in (None, 0, "...", lambda: 1, lambda x: x, nn.Linear, nn.Linear(1, 1), (1, 2), torch.zeros(2), print):
        assert not untried(answer), answer


def test_counter_examples_are_small_tables():
    message = verdict(made(identity, [(X,)]), lambda x: x + ROWS + 1)
    assert "  x =  0.50  -1.00   2.00\n" in message and "  yours                   expected\n" in message
    assert "  7.00   5.25   7.00      3.00   0.25   1.00" in message
    batch = torch.zeros(2, 3, 4)
    other = batch.index_put((torch.tensor(1), torch.tensor(2), torch.tensor(3)), torch.tensor(5.0))
    assert report.differing_entries(other, batch).split() == [
        "index",
        "yours",
        "expected",
        "[1,",
        "2,",
        "3]",
        "5.00",
        "0.00",
    ]
    assert "1.0004" in report.differing_entries(batch + 1.0004, batch + 1)
    assert len(report.rows(torch.zeros(12))) == 1 and report.rows(torch.zeros(12))[0].count("0.00") == 12
    assert report.rows(torch.zeros(13)) == ["a tensor (13,) of float32"]
    assert report.rows(torch.zeros(2, 2, 2)).count("") == 1
    wide = report.side_by_side(("yours", ["0" * 60]), ("expected", ["1" * 60]))
    assert wide.count("\n") == 3


def test_a_check_never_fails_in_its_own_name():
    class Fragile(Check):
        def examine(self, answer):
            return f"of length {len(answer)}"

    assert "the check cannot use this answer (TypeError: " in verdict(Fragile(), 3)


def test_every_diagnosis_of_the_engine_is_reached(request):
    if len(request.session.items) < len(FILES) + 5 * len(EXERCISES):
        pytest.skip("only when the whole file runs")
    wanted = diagnoses(compare) | diagnoses(sys.modules["checks.exercise"])
    missing = [pattern for pattern in wanted if not any(re.search(pattern, message) for message in SAID)]
    assert not missing, "no answer is told:\n" + "\n".join(missing)


def test_the_readme_shows_what_a_check_says():
    def over_the_queries(scores):
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(dim=-2)

    said = verdict(MODULES["n03_masked_average"].repaired_weights, over_the_queries)
    assert f"```\n{said}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
