"""The hub: GPT-2's released weights, downloaded once, and checked whenever they are used."""

import errno
import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

FILE = "model.safetensors"


class Release(NamedTuple):
    """Where one size of GPT-2 is on the hub, in which revision, how large, and the SHA-256 of its file."""

    repository: str
    revision: str
    megabytes: int
    sha256: str


RELEASES = {
    "124M": Release(
        "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", 548,
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "355M": Release(
        "openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da", 1520,
        "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
    ),
    "774M": Release(
        "openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519", 3247,
        "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
    ),
    "1.5B": Release(
        "openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2", 6432,
        "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
}  # fmt: skip


def download(size: str) -> Path:
    """The file of this size's weights, in huggingface_hub's cache; downloaded, with a progress bar, if it is not there.

    The library mends a short break of the connection by itself; whether it goes on where a download was stopped, or
    begins again, depends on its version.

    Raises ImportError when huggingface_hub is not installed, ConnectionError when the file is not in the cache and
    cannot be downloaded, and ValueError when it is not the file that was released.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a notebook, that its progress bar will be a plain one
            import huggingface_hub
    except ImportError as error:
        raise ImportError("GPT-2's weights come through huggingface_hub: pip install huggingface_hub") from error
    release = RELEASES[size]
    place = {"repo_id": release.repository, "filename": FILE, "revision": release.revision}
    address = huggingface_hub.hf_hub_url(**place)
    try:
        try:
            file = huggingface_hub.hf_hub_download(**place, local_files_only=True)
        except FileNotFoundError:
            # Without a network this fails at once; the download itself would warn and try again for half a minute.
            huggingface_hub.get_hf_file_metadata(address, timeout=10)
            file = huggingface_hub.hf_hub_download(**place)
    except Exception as error:  # each version has other ones for a network that is not there
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # the disk, not the network
        raise ConnectionError(
            f"GPT-2 {size} is not in the cache and could not be downloaded ({type(error).__name__}): connect to the "
            f"internet once, or get {address} elsewhere ({release.megabytes} MB) and give the path of that file"
        ) from error
    check(Path(file), release.sha256)
    return Path(file)


def check(file: Path, sha256: str) -> None:
    """Raises ValueError when the SHA-256 of the file is another. It takes a third of a second to a few for 548 MB."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ValueError(f"{file.resolve()} is not the file that was released (another SHA-256): delete it, load again")
