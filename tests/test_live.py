"""Live progress: one line that says how it goes, a bar in a terminal, one growing picture in a notebook."""

import types

import pytest
import torch

from gptlib import live
from gptlib.ngram import BigramLM
from gptlib.training import History, train


@pytest.mark.parametrize(
    "history, expected",
    [
        (History(), "step 0 of 4"),
        (History([4.0], [(0, 4.125)], seconds=2.0), "step 1 of 4 · validation loss 4.12"),
        (History([4.0] * 11, seconds=2.2), "step 11 of 22 · about 2 s left"),
        (History([4.0] * 2, interrupted=True, seconds=1.0), "step 2 of 4 · interrupted"),
        (History([4.0] * 4, [(0, 4.0), (4, 3.0)], seconds=8.4), "step 4 of 4 · validation loss 3.00 · 8 s"),
    ],
)
def test_the_line(history, expected):
    steps = int(expected.split(" of ")[1].split()[0])
    assert live.summary(history, steps=steps) == expected


def notebook(monkeypatch):
    """Pretend to run in one; returns what is shown, and shown again in the same place."""
    IPython = pytest.importorskip("IPython")
    shown, updated = [], []

    def display(picture, display_id):
        shown.append(picture)
        return types.SimpleNamespace(update=updated.append)

    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setattr(IPython.display, "display", display)
    return shown, updated


def test_a_place_for_each(monkeypatch):
    assert isinstance(live.progress(), live.Bar)
    notebook(monkeypatch)
    assert isinstance(live.progress({"uniform": 4.17}), live.Curve)


def test_a_bar_in_a_terminal(capsys):
    history = train(
        BigramLM(5), torch.arange(50) % 5, torch.arange(20) % 5, steps=12, context_length=4,
        on_step=live.progress(),
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert out == "" and "12/12" in err and f"validation loss {history.val[-1][1]:.3f}" in err


def test_one_picture_in_a_notebook(monkeypatch, capsys):
    shown, updated = notebook(monkeypatch)
    train(
        BigramLM(5), torch.arange(50) % 5, torch.arange(20) % 5, steps=12, context_length=4,
        on_step=live.progress({"uniform": 1.6}),
    )  # fmt: skip
    assert len(shown) == 1 and updated, "drawn once, then changed in place"
    assert "step 12 of 12 · validation loss" in updated[-1].alt and "left" not in updated[-1].alt
    assert capsys.readouterr() == ("", "")


def test_the_curve_is_redrawn_every_few_seconds_and_at_the_end(monkeypatch):
    """By a clock that shows one second more after each step; drawing takes no time."""
    shown, updated = notebook(monkeypatch)
    curve, history = live.progress(), History()
    run = types.SimpleNamespace(history=history, steps=10)
    for second in range(11):
        monkeypatch.setattr(live.time, "monotonic", lambda second=second: float(second))
        curve(run)
        history.train.append(4.0)
    assert "step 1 of 10" in shown[0].alt and len(shown) == 1
    assert [picture.alt.split(" · ")[0].rstrip(".") for picture in updated] == [
        f"Loss curve: step {n} of 10" for n in (3, 5, 7, 9, 10)
    ]
    history.interrupted = True
    curve(run)
    assert "interrupted" in updated[-1].alt


def test_marked_cells_are_skipped_and_others_run(monkeypatch, capsys):
    IPython = pytest.importorskip("IPython")
    shell = IPython.core.interactiveshell.InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    live.skip_cells("# needs a file")
    assert shell.run_cell("# needs a file\nraise OSError").success
    assert capsys.readouterr().out == "This cell is skipped.\n"
    shell.run_cell("print('needs a file')  # needs a file")
    assert capsys.readouterr().out == "needs a file\n"
