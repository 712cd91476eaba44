"""Data: named texts, the split into a training and a validation set, and random batches.

B batch · T positions (context_length) · N tokens of a text
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gptlib.files import data_dir, read_verified

# Each text's path in the data folder, and the SHA-256 hash of its bytes (sources and licenses: data/README.md).
TEXTS = {
    "shakespeare": ("tinyshakespeare.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
    "lincoln": ("speeches/lincoln.txt", "c630db96c2a5bca1bd20b113ec2a7935491fbbd6818aae633b5937433254f4f1"),
    "roosevelt": ("speeches/roosevelt.txt", "3b6978a7c2d5de386d3d70ad25ce1f162f61d04ac0b60dcea9f007ecbdf8e1e5"),
    "kennedy": ("speeches/kennedy.txt", "2501559a294c35a77fdf9357c2e4ab62a5cefb223f557c09deca8bb55a85abce"),
}


def load_text(name_or_path: str | Path) -> str:
    """A named text ('shakespeare', 'lincoln', 'roosevelt', 'kennedy'), or the text of any UTF-8 file.

    Line ends stay as they are. A byte-order mark at the start of a file is dropped: it is no part of the text.
    Raises ValueError when a file is not UTF-8, or when a named text has been altered.
    """
    if str(name_or_path) in TEXTS:
        file, sha256 = TEXTS[str(name_or_path)]
        return read_verified(data_dir() / file, sha256).decode("utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give a path to a text, or one of {', '.join(TEXTS)}")
    content = path.read_bytes()
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start} is {content[error.start]:#04x}. "
            "Save the file as UTF-8, or read it with its own encoding and use that text"
        ) from None


def train_val_split(ids: Sequence[int] | Tensor, train_fraction: float = 0.9) -> tuple[Tensor, Tensor]:
    """Split `ids` (N,) into a training set, the first `train_fraction`, and a validation set, the rest.

    The ids are not shuffled: overlapping windows would leak validation text into the training set.

    >>> train_val_split(list(range(10)))
    (tensor([0, 1, 2, 3, 4, 5, 6, 7, 8]), tensor([9]))
    """
    if isinstance(ids, str):
        raise TypeError("the text must be token ids before it is split: pass tokenizer.encode(text)")
    if len(ids) == 0:
        raise ValueError("there is nothing to split: the text is empty")
    if not 0 < train_fraction <= 1:
        raise ValueError(f"train_fraction must be above 0 and at most 1, got {train_fraction}")
    ids = torch.as_tensor(ids)
    if ids.ndim != 1 or ids.is_floating_point():
        raise ValueError(f"ids must be integers of shape (N,), got {ids.dtype} of shape {tuple(ids.shape)}")
    n_train = int(train_fraction * len(ids))
    return ids[:n_train].long(), ids[n_train:].long()


def get_batch(
    ids: Tensor, batch_size: int, context_length: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Sample `batch_size` windows of `ids` (N,): inputs x (B, T) and targets y (B, T), the token after each input.

    >>> get_batch(torch.arange(4), batch_size=1, context_length=3)
    (tensor([[0, 1, 2]]), tensor([[1, 2, 3]]))
    """
    check_length(ids, context_length)
    windows = ids.unfold(0, context_length + 1, 1)  # (N - T, T + 1), a view: nothing is copied yet
    starts = torch.randint(len(windows), (batch_size,), generator=generator)
    batch = windows[starts.to(ids.device)]  # (B, T + 1)
    return batch[:, :-1], batch[:, 1:]


def check_length(ids: Tensor, context_length: int) -> None:
    """Raises ValueError when `ids` (N,) is shorter than one window and its last target."""
    if context_length < 1:
        raise ValueError(f"context_length must be at least 1, got {context_length}")
    if len(ids) < context_length + 1:
        raise ValueError(
            f"{len(ids)} tokens are too few for a window of {context_length} and its last target: "
            f"use a longer text or a context_length of at most {max(len(ids) - 1, 0)}"
        )
