"""Checkpoints: everything that a training run needs in order to continue as if it had never stopped.

A checkpoint belongs to one run; a finished model to keep or share is written by `pretrained.save`.
"""

import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

from gptlib.files import atomic_write, check_writable
from gptlib.training import History, Run


class Saver:
    """An `on_step` callback that writes a checkpoint to `path` every `every` steps and at the end, atomically.

    `every` is the run's `eval_every` unless given. With `resume=True` the run first continues from `path`, bit for bit;
    the settings must be the same. Raises OSError at once when `path` cannot be written.

        train(model, ids, steps=5000, on_step=Saver("run.checkpoint", resume=Path("run.checkpoint").exists()))
    """

    def __init__(self, path: str | Path, every: int | None = None, resume: bool = False):
        self.path, self.every, self.resume = Path(path), every, resume
        check_writable(self.path)

    def __call__(self, run: Run) -> None:
        done = len(run.history.train)
        if self.resume:
            load(self.path, run)
            self.resume = False
        elif done and not run.history.interrupted and (
            done % (self.every or run.settings["eval_every"]) == 0 or done == run.steps
        ):  # fmt: skip
            save(self.path, run)


def save(path: Path, run: Run) -> None:
    """Write the state of the run, unless its parameters are no longer finite: then the last good checkpoint stays."""
    model = getattr(run.model, "_orig_mod", run.model)  # what torch.compile has wrapped
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        return
    state = {
        "model": model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "batches": run.generator.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout on GPUs": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "settings": run.settings,
        "history": asdict(run.history),
    }
    atomic_write(path, lambda new: torch.save(state, new))
    run.checkpoint = path


def load(path: Path, run: Run) -> None:
    """Put the run into the state that `path` holds. Only tensors and plain values are read: no code is run.

    Raises FileNotFoundError, or ValueError when the file is damaged or belongs to another run; then nothing is changed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path} to resume from: start with resume=False")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found, weights, history = dict(state["settings"]), dict(state["model"]), History(**state["history"])
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} is not a complete checkpoint of gptlib ({error!r:.200}): use resume=False") from error
    model = getattr(run.model, "_orig_mod", run.model)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for what, ours, theirs in [("run", run.settings, found), ("model", shapes, there)]:
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{path} belongs to another {what}: its {name} is {theirs.get(name)}, here it is {ours.get(name)}. "
                    "Use the same settings and configuration, or start with resume=False"
                )
    model.load_state_dict(weights)
    run.optimizer.load_state_dict(state["optimizer"])
    run.generator.set_state(state["batches"])
    torch.set_rng_state(state["dropout"])
    if state["dropout on GPUs"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["dropout on GPUs"])
    vars(run.history).update(vars(history), interrupted=False)
    run.checkpoint = path


def newest(folder: Path) -> Path | None:
    """The newest complete one of the checkpoints step-….pt in `folder`; a damaged one is named and renamed.

    What is left of files that were being written when a process was killed is deleted.
    """
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished)
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            with ZipFile(path) as file:
                damaged = file.testzip()  # compares the checksum of each of its parts
        except (BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            damaged = str(error)
        if damaged is None:
            return path
        path = path.replace(path.with_suffix(".damaged"))
        warnings.warn(f"this checkpoint is damaged, and the one before it is used: {path} ({damaged})", stacklevel=2)
    return None
