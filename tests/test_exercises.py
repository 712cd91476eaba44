"""The exercises of notebooks 01 on: their layout, that each solution passes its check and is the check's right answer.

An exercise is a heading, a line in italics (type · difficulty · minutes, purpose), perhaps a cell with something given,
the cell to write in, the check, and one cell with a folded hint and a folded solution.
"""

import ast
import contextlib
import importlib
import io
import re

import nbformat
import pytest
from test_checks import Check, Exercise
from test_notebooks import NOTEBOOKS

SECTION = "## Exercises"
ABOUT = re.compile(r"^\*(\w[^·*]+) · (warm-up|easy|middle|stretch) · \d+ minutes?\. Purpose: [^*]+\.\*$", re.M)
FOLD = re.compile(r"<details><summary>(\w+)</summary>\n\n(.*?)\n\n</details>", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
TYPES = {"Write a function", "Predict a shape", "Predict a number", "Repair a broken piece", "Read a map", "Explain"}
TYPES |= {"Experiment", "Investigation"}
DIFFICULTY = ["warm-up", "easy", "middle", "stretch"]


class Page:
    """An exercise as it is on the page."""

    def __init__(self, notebook, cells, before):
        self.notebook, self.cells = notebook, cells
        self.title = cells[0].source.splitlines()[0]
        self.code = [cell for cell in cells if cell.cell_type == "code"]
        self.before = before  # the code of the section up to here, and the set-up cell
        self.folds = dict(FOLD.findall(cells[-1].source))

    @property
    def check(self):
        return re.search(r"^check\.(\w+)\(", self.code[-1].source, re.M)[1]

    @property
    def module(self):
        """The module that the notebook imports its checks from."""
        found = re.search(r"^from checks import (\w+) as check", "\n".join(self.before), re.M)
        return importlib.import_module(f"checks.{found[1]}")

    @property
    def difficulty(self):
        return ABOUT.search(self.cells[0].source)[2]


def exercises_of(path):
    cells = nbformat.read(path, as_version=4).cells
    starts = [i for i, cell in enumerate(cells) if cell.source.startswith(SECTION)]
    if not starts:
        return []
    end = next((i for i in range(starts[0] + 1, len(cells)) if cells[i].source.startswith("## ")), len(cells))
    section = cells[starts[0] : end]
    heads = [i for i, cell in enumerate(section) if cell.source.startswith("### ")] + [len(section)]
    setup = [cell.source for cell in cells if cell.get("id") in ("set-up", "imports")]
    given = [*setup, *(cell.source for cell in section[: heads[0]] if cell.cell_type == "code")]
    found = []
    for head, following in zip(heads, heads[1:]):
        found.append(Page(path.stem, section[head:following], list(given)))
        given += [cell.source for cell in section[head:following] if cell.cell_type == "code"]
    return found


BY_NOTEBOOK = {path.stem: exercises_of(path) for path in NOTEBOOKS if not path.stem.startswith("00")}
ALL = [exercise for found in BY_NOTEBOOK.values() for exercise in found]
each = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: f"{exercise.notebook[:2]} {exercise.title[4:]}")


@pytest.mark.parametrize("notebook", BY_NOTEBOOK)
def test_every_notebook_has_exercises_from_easy_to_hard(notebook):
    found = BY_NOTEBOOK[notebook]
    assert len(found) >= 3
    assert [exercise.title.split(":")[0] for exercise in found] == [f"### Exercise {n + 1}" for n in range(len(found))]
    places = [DIFFICULTY.index(exercise.difficulty) for exercise in found]
    assert places == sorted(places) and found[0].difficulty == "warm-up" and found[-1].difficulty == "stretch"


def test_there_are_enough_of_every_type_and_every_check_is_used():
    assert len(ALL) >= 24
    assert {ABOUT.search(exercise.cells[0].source)[1] for exercise in ALL} == TYPES


@pytest.mark.parametrize("notebook", BY_NOTEBOOK)
def test_every_check_is_used(notebook):
    module = BY_NOTEBOOK[notebook][0].module
    known = {name for name, check in vars(module).items() if isinstance(check, Check)}
    used = {exercise.check for exercise in BY_NOTEBOOK[notebook]}
    assert used == known


@each
def test_the_layout(exercise):
    assert ABOUT.search(exercise.cells[0].source), "the line under the title: type · difficulty · minutes. Purpose: …"
    assert ABOUT.search(exercise.cells[0].source)[1] in TYPES
    assert "..." in exercise.code[-2].source, "the cell to write in is not blank"
    assert exercise.code[-1].source.count("\n") == 0, "the check is one line"
    assert list(exercise.folds) == ["Hint", "Solution"]
    assert CODE.search(exercise.folds["Solution"]) and not CODE.search(exercise.folds["Hint"])
    assert CODE.sub("", exercise.folds["Solution"]).strip(), "a solution says why"
    tail = exercise.cells[-3:]
    assert [cell.cell_type for cell in tail] == ["code", "code", "markdown"]
    assert exercise.code[-1].outputs[0].text.startswith("Not tried yet"), "the stored page is unattempted"


@each
def test_the_solution_passes_its_check(exercise, monkeypatch):
    """With what the page gives: the set-up, the section's own cells, and nothing that ran before."""
    monkeypatch.chdir(NOTEBOOKS[0].parent)  # a kernel starts there
    space = {}
    solution = CODE.search(exercise.folds["Solution"])[1]
    sources = [*exercise.before, *(cell.source for cell in exercise.code[:-2]), solution, exercise.code[-1].source]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source in sources:
            exec(source, space)
    last = printed.getvalue().splitlines()[-1]
    assert last.startswith("Right: "), last


def code_of(source):
    """A function or class as a syntax tree, without decorators, docstrings and type hints."""
    tree = ast.parse(source).body[0]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list, node.returns = [], None
            if ast.get_docstring(node):
                node.body = node.body[1:]
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.dump(tree)


@each
def test_the_solution_is_the_right_answer_of_its_check(exercise):
    check = getattr(exercise.module, exercise.check)
    if not isinstance(check, Exercise):
        return  # a prediction is compared by its value, in the test above
    solution = CODE.search(exercise.folds["Solution"])[1]
    functions = {node.name: ast.unparse(node) for node in ast.parse(solution).body if hasattr(node, "name")}
    assert code_of(functions[check.solution.__name__]) == code_of(check.source)


@each
def test_the_solution_is_in_no_other_place(exercise):
    solution = CODE.search(exercise.folds["Solution"])[1]
    telling = [line.split("#")[0].strip() for line in solution.splitlines() if re.search(r"\breturn\b|^answer =", line)]
    others = [cell.source for cell in exercise.cells[:-1]] + [exercise.folds["Hint"]]
    assert not [line for line in telling for other in others if line in other]
