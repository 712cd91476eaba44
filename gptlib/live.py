"""Live progress: what training shows while it runs. In a notebook the loss curve grows; in a terminal a bar moves."""

import sys
import time

from matplotlib.figure import Figure
from tqdm import tqdm

from gptlib import plot
from gptlib.training import History, Run


def progress(baselines: dict[str, float] | None = None) -> "Curve | Bar":
    """An `on_step` callback that fits where this runs; a notebook's curve is drawn over the `baselines`.

    train(model, train_ids, val_ids, steps=1000, on_step=live.progress(baselines))
    """
    return Curve(baselines) if in_notebook() else Bar()


def in_notebook() -> bool:
    """Whether pictures can be shown and updated in place: in Jupyter and Colab, not in a terminal."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def skip_cells(marker: str) -> None:
    """From now on, a notebook's cell whose first line is `marker` prints that it is skipped: for what is missing."""
    from IPython import get_ipython

    def skip(lines: list[str]) -> list[str]:
        return ["print('This cell is skipped.')\n"] if lines and lines[0].strip() == marker else lines

    get_ipython().input_transformers_cleanup.append(skip)


def summary(history: History, steps: int) -> str:
    """One line: steps done, validation loss, time left.

    >>> summary(History(train=[4.0] * 20, val=[(0, 4.17)], seconds=1.0), steps=100)
    'step 20 of 100 · validation loss 4.17 · about 4 s left'
    """
    done = len(history.train)
    parts = [f"step {done} of {steps}"]
    if history.val:
        parts.append(f"validation loss {history.val[-1][1]:.2f}")
    if history.interrupted:
        parts.append("interrupted")
    elif done == steps:
        parts.append(f"{history.seconds:.0f} s")
    elif done > 10:  # the first steps are slower
        parts.append(f"about {history.seconds / done * (steps - done):.0f} s left")
    return " · ".join(parts)


class Bar:
    """A tqdm bar for a terminal."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, run: Run) -> None:
        self.bar = self.bar or tqdm(total=run.steps, unit="step")
        if run.history.val:
            self.bar.set_postfix_str(f"validation loss {run.history.val[-1][1]:.3f}", refresh=False)
        self.bar.update(len(run.history.train) - self.bar.n)
        if run.history.interrupted or len(run.history.train) == run.steps:
            self.bar.close()


class Curve:
    """The loss curve, redrawn in place every few seconds; drawing takes at most a twentieth of the time."""

    def __init__(self, baselines: dict[str, float] | None):
        self.baselines = baselines
        self.handle = None
        self.next_drawing = -float("inf")

    def __call__(self, run: Run) -> None:
        finished = run.history.interrupted or len(run.history.train) == run.steps
        start = time.monotonic()
        if not run.history.train or start < self.next_drawing and not finished:
            return
        line = summary(run.history, run.steps)
        figure = Figure(figsize=(7, 4), layout="constrained")
        plot.loss_curve(run.history, self.baselines, steps=run.steps, ax=figure.subplots()).set_title(line)
        picture = plot.Picture(figure, f"Loss curve: {line}.")
        if self.handle is None:
            from IPython.display import display

            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        now = time.monotonic()
        self.next_drawing = now + max(2, 20 * (now - start))
