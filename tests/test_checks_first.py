"""The checks that are not ported to notebooks/checks yet, and their answers."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from answers import Several
from torch import nn

from gptlib import checks
from gptlib.checks import judge, words

NAMES = sorted(path.stem for path in (Path(__file__).parent / "answers").glob("[!_n]*.py"))
BANKS = {name: importlib.import_module(f"answers.{name}") for name in NAMES}
MODULES = {name: importlib.import_module(f"gptlib.checks.{name}") for name in NAMES}
EXERCISES = {
    name: check
    for name, check in vars(checks).items()
    if getattr(check, "__module__", "") in {module.__name__ for module in MODULES.values()}
}
RIGHT = [(name, answer) for bank in BANKS.values() for name, answers in bank.RIGHT.items() for answer in answers]
WRONG = [(name, *pair) for bank in BANKS.values() for name, pairs in bank.WRONG.items() for pair in pairs]


def verdict(name, answer, capsys):
    """What the check says of an answer: its printed line, or the message of the mistake."""
    try:
        EXERCISES[name](*(answer if isinstance(answer, Several) else (answer,)))
    except checks.Mistake as mistake:
        return str(mistake)
    return capsys.readouterr().out


def numbered(cases):
    return [f"{case[0]}-{i}" for i, case in enumerate(cases)]


@pytest.mark.parametrize("name, answer", RIGHT, ids=numbered(RIGHT))
def test_right_answers_pass_in_any_style(name, answer, capsys):
    said = verdict(name, answer, capsys)
    assert re.fullmatch(r"Right: \S.*\.\n", said), said


@pytest.mark.parametrize("name, answer, diagnosis", WRONG, ids=numbered(WRONG))
def test_wrong_answers_get_their_diagnosis(name, answer, diagnosis, capsys):
    said = verdict(name, answer, capsys)
    assert said.startswith("Not yet: "), said
    first = said.partition("\n\n")[0]
    assert any(part in first for part in diagnosis.split("|")), said
    assert "the check cannot use this answer" not in said, "the check gave up: it should name the mistake"


@pytest.mark.parametrize("name", EXERCISES)
def test_every_check_has_its_bank(name):
    """Four wrong answers at least, each with its own diagnosis, and a right one in another style."""
    bank = BANKS[EXERCISES[name].__module__.rpartition(".")[2]]
    assert len({diagnosis for _, diagnosis in bank.WRONG[name]}) >= 4
    assert bank.RIGHT[name]


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize(
    "answer",
    [None, 3.75, -4, "?", [], {}, (), torch.zeros(0), torch.zeros(2, 2), nn.Linear(2, 2), nn.Linear, object(), print]
    + [int, lambda: 1, lambda *a: a, lambda *a, **k: "?", lambda *a, **k: exec("raise SystemExit(1)")],
    ids=lambda value: type(value).__name__,
)
def test_nonsense_is_refused_and_never_crashes_a_check(name, answer, capsys):
    said = verdict(name, Several([answer] * arguments(name)), capsys)
    assert said.startswith("Not yet: "), said


def arguments(name):
    return EXERCISES[name].__wrapped__.__code__.co_argcount


@pytest.mark.parametrize("name", EXERCISES)
def test_what_is_not_tried_is_no_mistake(name, capsys):
    EXERCISES[name](*[...] * arguments(name))
    assert capsys.readouterr().out.startswith("Not tried yet")


def test_blank_bodies_are_not_tried():
    def blank(x): ...

    def explained(x):
        """What it should do."""
        ...

    def with_default(x, y=3): ...

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()

        def forward(self, x): ...

    for answer in (..., blank, explained, with_default, Layer, Layer(), (1, ...), [...], {"a": ...}):
        assert judge.untried(answer)
    for answer in (None, 0, "...", lambda: 1, lambda x: x, nn.Linear, nn.Linear(1, 1), (1, 2), torch.zeros(2), print):
        assert not judge.untried(answer)


def test_an_answer_that_breaks_the_check_itself_is_a_mistake():
    @judge.exercise
    def fragile(answer):
        return f"of length {len(answer)}."

    with pytest.raises(judge.Mistake, match=r"cannot use this answer \(TypeError: .*len"):
        fragile(3)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda x: -x, "the sign is wrong"),
        (lambda x: 3 * x, "every number is 3 times"),
        (lambda x: x + 2, "off by the same 2"),
        (lambda x: x.mT, "transposed"),
        (lambda x: x.flip(0), "right numbers in the wrong places"),
        (lambda x: x / 0 * 0, "nan"),
        (lambda x: x + torch.arange(9.0).view(3, 3), "the numbers differ"),
        (lambda x: x.int(), "the numbers are rounded to whole ones"),
        (lambda x: x.round(decimals=1), "the numbers are rounded to 1 decimal"),
        (lambda x: x + torch.tensor([0.0, 0.0, 1.0]), "the numbers are wrong in the last column \\(2\\), and right"),
        (lambda x: x + torch.tensor([[0.0], [1.0], [2.0]]), "from row 1 on, and right everywhere else"),
        (lambda x: x[None], "an axis of size 1 too many"),
        (lambda x: x.to_sparse(), None),
        (lambda x: x.requires_grad_().clone(), None),
        (lambda x: x.expand(3, 3), None),
    ],
)
def test_symptoms_of_unknown_mistakes(change, said):
    x = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.25, 1.0], [-2.0, 4.0, 1.5]])
    if said is None:
        judge.examine(change, [(x,)], lambda x: x)
        return
    with pytest.raises(judge.Mistake, match=said):
        judge.examine(change, [(x,)], lambda x: x)


@pytest.mark.parametrize(
    "places, said",
    [
        ((1,), "in window 1"),
        ((..., 0, slice(None)), "in row 0"),
        ((..., 3, slice(None)), "in the last row (3)"),
        ((1, ..., slice(2, None), slice(None)), "in window 1, from row 2 on"),
        ((slice(None), 1), "in head 1"),
        ((slice(None), slice(1, None), ..., [0, 2, 4]), "from head 1 on, in columns 0, 2 and 4"),
        ((..., slice(1, 3), slice(None)), "in rows 1 to 2"),
        ((0, 2, 3, 4), "in window 0, in the last head (2), in the last row (3), in the last column (4)"),
    ],
)
def test_what_is_wrong_in_one_place_only_is_told_by_the_place(places, said):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    wrong = x.clone()
    wrong[places] += torch.rand(wrong[places].shape, generator=torch.Generator().manual_seed(1)) + 0.5
    with pytest.raises(judge.Mistake) as raised:
        judge.examine(lambda x: wrong, [(x,)], lambda x: x)
    assert str(raised.value).startswith(f"Not yet: the numbers are wrong {said}, and right everywhere else.\n")


def test_numbers_that_differ_look_different():
    with pytest.raises(judge.Mistake) as raised:
        judge.examine(lambda x: x.round(decimals=2), [(torch.tensor([[0.123, 0.5], [0.25, 2.6666]]),)], lambda x: x)
    assert "  0.120  0.500     0.123  0.500\n" in str(raised.value)
    right = torch.full((2, 2, 2), 1.0)
    assert "1.0004" in words.differing_places(right + 0.0004, right) and "1.00 " not in words.differing_places(
        right + 0.01, right
    )


def test_a_number_may_be_rounded_too_soon():
    with pytest.raises(judge.Mistake, match="rounded to 2 decimals"):
        judge.examine(lambda x: round(x, 2), [(2.34567,)], lambda x: x)


@pytest.mark.parametrize("change, said", [(torch.Tensor.half, "float16"), (lambda x: x[..., :1].to("meta"), "shape")])
def test_the_right_numbers_in_another_kind_of_tensor(change, said):
    with pytest.raises(judge.Mistake, match=said):
        judge.examine(change, [(torch.full((1, 2, 3), 1 / 3),)], lambda x: x)


def test_a_batch_of_one_is_shown_as_its_matrix():
    with pytest.raises(judge.Mistake) as raised:
        judge.examine(lambda x: x + x.cumsum(-1), [(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]]),)], lambda x: x)
    assert "  2.00  5.00     1.00  2.00\n  0.00  6.00     0.00  3.00" in str(raised.value)


def test_a_size_is_a_whole_number():
    judge.shape([2, 3], (2, 3))
    for answer, said in [((2, 24 / 8), "divide with //"), ((2, "3"), "a shape is expected"), ((), "has 0 axes")]:
        with pytest.raises(judge.Mistake, match=said):
            judge.shape(answer, (2, 3))


def test_an_ignored_generator_is_noticed():
    judge.obeys_generator(lambda generator: torch.rand(3, generator=generator))
    with pytest.raises(judge.Mistake, match="same seed differ"):
        judge.obeys_generator(lambda generator: torch.rand(3))
    with pytest.raises(judge.Mistake, match="two seeds give the same"):
        judge.obeys_generator(lambda generator: torch.zeros(3))


def test_places_stand_in_for_large_tables():
    right = torch.zeros(2, 3, 4)
    result = right.index_put((torch.tensor(1), torch.tensor(2), torch.tensor(3)), torch.tensor(5.0))
    table = words.differing_places(result, right)
    assert table.split() == ["place", "yours", "expected", "[1,", "2,", "3]", "5.00", "0.00"]
