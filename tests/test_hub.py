"""Downloads: the right file is asked for, a wrong one refused, and without a network one sentence says what to do."""

import errno
import hashlib
import os
import re
import subprocess
import sys

import pytest

from gptlib import hub
from gptlib.gpt2 import SIZES
from gptlib.pretrained import load_gpt2

huggingface_hub = pytest.importorskip("huggingface_hub")

CONTENT = b"weights" * 500_000  # some megabytes, so that more than one piece is read
ADDRESS = (
    "https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e/model.safetensors"
)
SENTENCE = re.escape(
    "connect to the internet once, or get " + ADDRESS + " elsewhere (548 MB) and give the path of that file"
)


class FakeHub:
    """In place of huggingface_hub: a server, its cache, and a record of what was asked."""

    def __init__(self, folder, content=CONTENT, error=None):
        self.file, self.content, self.error, self.asked = folder / "cached", content, error, []

    def hf_hub_download(self, *, local_files_only=False, **place):
        self.asked.append(("cache" if local_files_only else "download", place))
        if local_files_only and not self.file.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            self.fail()
            self.file.write_bytes(self.content)
        return str(self.file)

    def get_hf_file_metadata(self, address, timeout):
        self.asked.append(("look", address))
        assert timeout <= 10
        if not isinstance(self.error, OSError) or self.error.errno != errno.ENOSPC:
            self.fail()

    def fail(self):
        if self.error:
            raise self.error


@pytest.fixture
def fake(tmp_path, monkeypatch):
    def make(**options):
        server = FakeHub(tmp_path, **options)
        for name in ("hf_hub_download", "get_hf_file_metadata"):
            monkeypatch.setattr(huggingface_hub, name, getattr(server, name))
        return server

    released = hub.RELEASES["124M"]._replace(sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(hub.RELEASES, "124M", released)
    return make


def test_the_released_files_are_pinned():
    assert hub.RELEASES.keys() == SIZES.keys()
    for release in hub.RELEASES.values():
        assert re.fullmatch("openai-community/gpt2(-medium|-large|-xl)?", release.repository)
        assert re.fullmatch("[0-9a-f]{40}", release.revision) and re.fullmatch("[0-9a-f]{64}", release.sha256)
    for column in zip(*hub.RELEASES.values()):
        assert len(set(column)) == 4


@pytest.mark.parametrize("size", SIZES)
def test_the_files_are_as_large_as_their_weights_and_masks(size):
    """Each block's file holds a causal mask of context x context numbers beside its weights."""
    c = SIZES[size]
    C, T = c.n_embd, c.context_length
    numbers = (c.vocab_size + T + 2) * C + c.n_layer * (12 * C * C + 13 * C + T * T)
    assert hub.RELEASES[size].megabytes == round(4 * numbers / 1e6)


def test_the_pinned_file_is_downloaded_once(fake):
    server = fake()
    place = {
        "repo_id": "openai-community/gpt2",
        "filename": "model.safetensors",
        "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    }
    assert hub.download("124M").read_bytes() == CONTENT
    assert server.asked == [("cache", place), ("look", ADDRESS), ("download", place)]
    server.asked.clear()
    server.error = ConnectionError("no network any more")
    assert hub.download("124M").read_bytes() == CONTENT
    assert server.asked == [("cache", place)], "what is in the cache needs no network"


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"s", b"", b"v" + CONTENT[1:]], ids=len)
def test_another_file_is_refused(content, fake, monkeypatch):
    server = fake(content=content)
    monkeypatch.setattr("gptlib.gpt2.list_tensors", lambda files: pytest.fail("the file was opened"))
    for _ in range(2):  # also when it comes from the cache
        with pytest.raises(ValueError, match="cached is not the file that was released .*: delete it, load again"):
            load_gpt2("124M")
    server.file.unlink()
    server.content = CONTENT
    assert hub.download("124M") == server.file


class NoNetwork(Exception):
    """Such as the library below huggingface_hub has: neither OSError nor ValueError."""


@pytest.mark.parametrize(
    "error", [NoNetwork("x\ny"), ConnectionRefusedError(111, "refused"), TimeoutError(), OSError()]
)
def test_without_a_network(error, fake):
    server = fake(error=error)
    with pytest.raises(
        ConnectionError, match=rf"GPT-2 124M is not in the cache .*\({type(error).__name__}\): {SENTENCE}"
    ):
        load_gpt2("124M")
    assert [name for name, _ in server.asked] == ["cache", "look"]


def test_a_full_disk_is_said_as_it_is(fake):
    fake(error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left on device") as caught:
        hub.download("124M")
    assert not isinstance(caught.value, ConnectionError)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        load_gpt2("124M")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_the_real_library_with_an_empty_cache(empty_cache, capfd):
    assert huggingface_hub.constants.HF_HUB_OFFLINE, "set by conftest.py at the top"
    with pytest.raises(
        ConnectionError, match=rf"^GPT-2 124M is not in the cache .* \(OfflineModeIsEnabled\): {SENTENCE}$"
    ):
        load_gpt2("124M")
    assert capfd.readouterr() == ("", "")


def test_the_real_librarys_cache_is_used_offline(empty_cache):
    revision = hub.RELEASES["124M"].revision
    place = empty_cache / "models--openai-community--gpt2" / "snapshots" / revision
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"not GPT-2")
    with pytest.raises(ValueError, match=f"{revision}/model.safetensors is not the file that was released"):
        load_gpt2("124M")


UNREACHABLE = """
import sys, time
from gptlib.pretrained import load_gpt2
print("huggingface_hub" in sys.modules)
from huggingface_hub import hf_hub_download, get_hf_file_metadata
began = time.perf_counter()
try:
    load_gpt2("124M")
except ConnectionError as error:
    print(error)
print(time.perf_counter() - began)
"""


def test_a_network_that_is_not_there_is_said_at_once(tmp_path):
    """Left to itself, the real library would try again for half a minute. Here every address is a closed port."""
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", UNREACHABLE], capture_output=True, text=True, env=environment)
    imported, sentence, seconds = done.stdout.splitlines()
    assert done.stderr == "" and float(seconds) < 15
    assert re.fullmatch(rf"GPT-2 124M is not in the cache and could not be downloaded \(\w+\): {SENTENCE}", sentence)
    assert imported == "False", "the library is imported for a download alone"
