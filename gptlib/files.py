"""Files: find and verify the files of the course, and write new ones atomically."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def data_dir() -> Path:
    """The course's data folder: GPTLIB_DATA if that is set, else `data` beside the package or, as in Colab, ../data."""
    beside = Path(__file__).parents[1] / "data"
    folder = Path(os.environ.get("GPTLIB_DATA") or (beside if beside.is_dir() else "../data"))
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no data folder at {folder}: set GPTLIB_DATA to that of the course")
    return folder


def read_verified(path: Path, sha256: str) -> bytes:
    """The content of a file of the course; raises ValueError when its SHA-256 hash is another one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it (git checkout {path})")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} differs from the file of the course: restore it (git checkout {path})")
    return content


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` create a temporary file beside `path`, then rename it to `path` in one step.

    After an error (a full disk, an interrupt) `path` is what it was before. A symbolic link stays a link: the file
    that it points to is replaced. Raises what `check_writable` raises, and OSError when writing fails.
    """
    path = Path(path).resolve()
    check_writable(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        new = Path(folder) / path.name
        try:
            write(new)
            with open(new, "rb+") as file:
                os.fsync(file.fileno())  # before the rename, so that a power cut leaves no partial file at `path`
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            raise OSError(f"{path} could not be written and is unchanged ({error}): free some space") from error
        os.replace(new, path)


def check_writable(path: str | Path) -> None:
    """Raises IsADirectoryError, FileNotFoundError (no such folder) or PermissionError if `path` cannot be written."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it, such as {path / 'name'}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into: create it first")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()  # os.access is wrong on some network drives and on Windows
    except OSError as error:
        raise PermissionError(f"the folder {path.parent} cannot be written ({error}): choose another") from error
