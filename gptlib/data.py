"""Data: named texts, the split into training and validation, and batches of windows.

Each window is its own lesson of `context_length` predictions: the target of every position is the token after it.

B batch · T positions (context_length)
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gptlib.files import folder, read_checked

# Where each named text lies below the data folder, and the SHA-256 of its bytes (sources and licences: data/README.md).
TEXTS = {
    "shakespeare": ("tinyshakespeare.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
    "lincoln": ("speeches/lincoln.txt", "c630db96c2a5bca1bd20b113ec2a7935491fbbd6818aae633b5937433254f4f1"),
    "roosevelt": ("speeches/roosevelt.txt", "3b6978a7c2d5de386d3d70ad25ce1f162f61d04ac0b60dcea9f007ecbdf8e1e5"),
    "kennedy": ("speeches/kennedy.txt", "2501559a294c35a77fdf9357c2e4ab62a5cefb223f557c09deca8bb55a85abce"),
}


def load(name_or_path: str | Path) -> str:
    """The text called `name_or_path` ('shakespeare', 'lincoln', 'roosevelt', 'kennedy'), or any UTF-8 file.

    Raises FileNotFoundError when there is no such file, and ValueError when it is not UTF-8, or when a named
    text differs from the one that the course was written with (by its SHA-256).
    """
    if str(name_or_path) in TEXTS:
        place, sha256 = TEXTS[str(name_or_path)]
        return read_checked(folder() / place, sha256).decode("utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"no text at {path}: give a path to a file, or one of {', '.join(TEXTS)}")
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start} ({content[error.start]:#04x}) fits no character. "
            "Save it as UTF-8, or decode it yourself and pass the text on"
        ) from None


def split(ids: Sequence[int] | Tensor, train_fraction: float = 0.9) -> tuple[Tensor, Tensor]:
    """Cut `ids` (N,) into a training part, the first `train_fraction`, and a validation part, the rest.

    The cut is one place, not a shuffle: neighbouring windows share text, and a shuffle would leak it.
    Raises ValueError for no ids, or a fraction outside 0 to 1.

    >>> split(list(range(10)))
    (tensor([0, 1, 2, 3, 4, 5, 6, 7, 8]), tensor([9]))
    """
    if len(ids) == 0:
        raise ValueError("there is nothing to split: the text is empty")
    if not 0 < train_fraction <= 1:
        raise ValueError(f"train_fraction must be above 0 and at most 1, got {train_fraction}")
    ids = torch.as_tensor(ids, dtype=torch.long)
    cut = int(train_fraction * len(ids))
    return ids[:cut], ids[cut:]


def batch(
    ids: Tensor, batch_size: int, context_length: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw `batch_size` windows at random places of `ids` (N,): inputs x (B, T), and targets y (B, T) one step on.

    Raises ValueError when `ids` is shorter than one window and its last target, context_length + 1.

    >>> batch(torch.arange(4), batch_size=1, context_length=3)
    (tensor([[0, 1, 2]]), tensor([[1, 2, 3]]))
    """
    check_length(ids, context_length)
    windows = ids.unfold(0, context_length + 1, 1)  # (N - T, T + 1), a view: nothing is copied yet
    starts = torch.randint(len(windows), (batch_size,), generator=generator)
    chosen = windows[starts.to(ids.device)]  # (B, T + 1)
    return chosen[:, :-1], chosen[:, 1:]


def check_length(ids: Tensor, context_length: int) -> None:
    """Raises ValueError when `ids` cannot fill one window of `context_length` tokens and their targets."""
    if context_length < 1:
        raise ValueError(f"context_length must be at least 1, got {context_length}")
    if len(ids) < context_length + 1:
        raise ValueError(
            f"{len(ids)} tokens cannot fill a window of {context_length} and its last target: "
            f"use a longer text or a context_length of at most {max(len(ids) - 1, 0)}"
        )
