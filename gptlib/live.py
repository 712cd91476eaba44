"""Live progress: what training shows while it runs, and nothing that it needs.

In a notebook the loss curve itself grows over its baselines; in a terminal a bar runs.
"""

import sys
import time

from matplotlib.figure import Figure
from tqdm import tqdm

from gptlib import plot
from gptlib.checkpoint import History


def choose(steps: int, baselines: dict[str, float] | None = None) -> "Curve | Bar":
    """The progress display that fits the place where this runs."""
    return Curve(steps, baselines) if in_notebook() else Bar(steps)


def in_notebook() -> bool:
    """Whether pictures can be shown and changed in place: Jupyter and Colab, not a terminal."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def summary(history: History, steps: int) -> str:
    """One line: how far, how good, how long still.

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
    elif done > 10:  # the first steps tell little about the others
        parts.append(f"about {history.seconds / done * (steps - done):.0f} s left")
    return " · ".join(parts)


class Bar:
    """A tqdm bar for a terminal."""

    def __init__(self, steps: int):
        self.bar = tqdm(total=steps, unit="step")

    def __call__(self, history: History) -> None:
        if history.val:
            self.bar.set_postfix_str(f"validation loss {history.val[-1][1]:.3f}", refresh=False)
        self.bar.update(len(history.train) - self.bar.n)
        if history.interrupted or len(history.train) == self.bar.total:
            self.bar.close()


class Curve:
    """The loss curve, drawn again in place every few seconds: drawing takes a twentieth of the time at most."""

    def __init__(self, steps: int, baselines: dict[str, float] | None):
        self.steps = steps
        self.baselines = baselines
        self.handle = None
        self.next_drawing = -float("inf")

    def __call__(self, history: History) -> None:
        finished = history.interrupted or len(history.train) == self.steps
        began = time.monotonic()
        if began < self.next_drawing and not finished:
            return
        figure = Figure(figsize=(7, 4), layout="constrained")
        ax = plot.loss_curve(history, self.baselines, steps=self.steps, ax=figure.subplots())
        ax.set_title(summary(history, self.steps))
        picture = plot.Picture(figure, f"Loss curve: {summary(history, self.steps)}.")
        if self.handle is None:
            from IPython.display import display

            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        now = time.monotonic()
        self.next_drawing = now + max(2, 20 * (now - began))
