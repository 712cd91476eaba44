"""Checkpoints: everything that a training run needs to go on as if it had never stopped.

A checkpoint belongs to one run on its way; a finished model to keep or share is written by `pretrained.save`.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from gptlib.files import check_file, write_whole


@dataclass
class History:
    """What a training run measured, in nats a token."""

    train: list[float] = field(default_factory=list)  # each step's batch, before the step
    val: list[tuple[int, float]] = field(default_factory=list)  # (steps done, loss on the validation text)
    interrupted: bool = False
    seconds: float = field(default=0.0, compare=False)


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    settings: dict,
    history: History,
) -> None:
    """Write the whole state of a run to `path`, or nothing; raises OSError when there is no room or no such folder."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "batches": generator.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout on GPUs": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "settings": settings,
        "history": asdict(history),
    }
    check_file(path)
    write_whole(path, lambda new: torch.save(state, new))


def load_checkpoint(
    path: str | Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    settings: dict,
) -> History:
    """Put a run back to where `path` left it, random generators included, and return its history.

    Only tensors and plain values are read: a file that asks for code to be run is refused.
    Raises FileNotFoundError, or ValueError when the file is damaged or belongs to another model or other settings;
    then nothing has been changed.
    """
    if path is None or not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path} to resume from: start with resume=False")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found, weights, history = dict(state["settings"]), dict(state["model"]), History(**state["history"])
    except Exception as error:  # there is no saying what a damaged file makes its reader raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a whole checkpoint of this package ({reason}): start again with resume=False"
        ) from error
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path} belongs to another run: its {name} is {found.get(name)}, here it is {value}. "
                "Give the same settings, or start again with resume=False"
            )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        there = tuple(weights[name].shape) if name in weights else None
        if shapes.get(name) != there:
            raise ValueError(
                f"{path} belongs to another model: its {name} has shape {there}, here it is {shapes.get(name)}. "
                "Build the model with the same configuration"
            )
    model.load_state_dict(weights)
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["batches"])
    torch.set_rng_state(state["dropout"])
    if state["dropout on GPUs"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["dropout on GPUs"])
    history.interrupted = False
    return history
