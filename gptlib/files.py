"""Files: the course's own found and checked, new ones written whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """The course's `data` folder: GPTLIB_DATA if set, else beside the package, here, or one folder up.

    Raises FileNotFoundError when none of these exists.
    """
    if named := os.environ.get("GPTLIB_DATA"):
        return Path(named)
    candidates = [Path(__file__).parents[1] / "data", Path("data"), Path("../data")]
    for candidate in candidates:
        if (candidate / "tinyshakespeare.txt").is_file():
            return candidate
    raise FileNotFoundError(
        "the course's data folder was not found: run from the course's folder, or set GPTLIB_DATA to its data folder"
    )


def read_checked(path: Path, sha256: str) -> bytes:
    """The content of one of the course's own files.

    Raises FileNotFoundError when it is missing, and ValueError when its SHA-256 is not the one it was shipped with.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from the course's data: restore it (git checkout {path})")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is not the file that the course was written with: restore it (git checkout {path})")
    return content


def write_whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file or folder at a temporary place beside `path`, then move it to `path` in one step.

    When anything fails (a full disk, an interrupt), what stood at `path` before still stands there.
    Raises FileNotFoundError when the folder that `path` belongs in does not exist, and OSError when writing fails.
    """
    path = Path(path)
    check_parent(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new, old = scratch / "new", scratch / "old"
        try:
            write(new)
            if new.is_file():  # on the disk before it gets its name, so that a power cut leaves no half file there
                with open(new, "rb+") as file:
                    os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            raise OSError(
                f"{path} could not be written ({error}): nothing at that place was changed. "
                "Free some space or choose another folder"
            ) from error
        if path.is_dir():  # a folder cannot be replaced in one step: put the old one aside first
            os.replace(path, old)
            try:
                os.replace(new, path)
            except OSError:
                os.replace(old, path)
                raise
        else:
            os.replace(new, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_file(path: str | Path) -> None:
    """Raises IsADirectoryError when `path` is a folder, FileNotFoundError when the folder around it does not exist."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it, such as {Path(path) / 'run.checkpoint'}")
    check_parent(path)


def check_parent(path: str | Path) -> None:
    """Raises FileNotFoundError when the folder that `path` belongs in does not exist."""
    parent = Path(path).parent
    if not parent.is_dir():
        raise FileNotFoundError(f"there is no folder {parent} to write {Path(path).name} into: create it first")
