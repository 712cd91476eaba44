"""One source for the set-up cell and the repository's address, and the command that brings both into every file."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import nbformat
import pytest
from test_notebooks import NOTEBOOKS, code_cells, load

ROOT = Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("stamp", ROOT / ".ci" / "stamp.py")
stamp = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stamp)

FORK = "https://github.com/teacher/our.gpt_2"
SOURCE = (ROOT / ".ci" / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
OWN = re.search(r"https://github\.com/([\w.-]+/[\w.-]+)", SOURCE)[1]  # owner/name


# ---------------------------------------------------------------- the notebooks themselves


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_set_up_cell_and_the_badge_are_those_of_the_source(path):
    nb = load(path)
    first = code_cells(nb)[0]
    assert first.id == "set-up" and first.source == SOURCE, "make stamp puts the cell of .ci/setup_cell.py here"
    lines = nb.cells[0].source.splitlines()
    page = f"https://colab.research.google.com/github/{OWN}/blob/main/notebooks/{path.name}"
    assert lines[1:4] == ["", f"[![Open in Colab](../images/colab.svg)]({page})", ""], "make stamp puts the badge here"
    assert nb.cells[0].source.count("colab.research") == 1


def test_stamping_again_would_change_nothing():
    assert [path.name for path in stamp.stale(stamp.plan())] == []


def test_the_address_stands_once_in_the_source():
    assert SOURCE.count("github.com") == 1  # the name of the folder follows from it


def test_the_badge_is_a_picture_of_our_own():
    root = xml.etree.ElementTree.parse(ROOT / "images" / "colab.svg").getroot()
    said = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert said == ["Open in Colab"] and not [key for element in root.iter() for key in element.attrib if "href" in key]


# ---------------------------------------------------------------- the command, on a copy


@pytest.fixture
def course(tmp_path):
    """What the command reads and writes, stamped; the digests of the notebooks are those of their code."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for path in NOTEBOOKS[:2]:
        shutil.copy(path, tmp_path / "notebooks")
    stamp.write(stamp.plan(tmp_path))
    for path in (tmp_path / "notebooks").iterdir():
        change(path, lambda nb: nb.metadata.gptlib.update(digest=stamp.execute.digest(nb, outside(tmp_path))))
    return tmp_path


def outside(root):
    return stamp.execute.fingerprint(root)


def change(path, edit):
    nb = load(path)
    edit(nb)
    path.write_bytes((nbformat.writes(nb).rstrip("\n") + "\n").encode("utf-8"))


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def run(root, *address):
    command = [sys.executable, "-B", root / ".ci" / "stamp.py", *address]
    return subprocess.run(command, capture_output=True, text=True, cwd=root.parent)


def test_a_fork_gets_its_address_everywhere_and_may_go_back(course):
    before = contents(course)
    done = run(course, FORK + ".git/")
    assert done.returncode == 0, done.stderr
    after = contents(course)
    changed = [name for name in after if after[name] != before[name]]
    assert sorted(changed) == [".ci/setup_cell.py", "README.md", *(f"notebooks/{path.name}" for path in NOTEBOOKS[:2])]
    assert [name for name in changed if OWN.encode() in after[name]] == []
    readme = after["README.md"].decode()
    assert f"git clone {FORK}\ncd our.gpt_2\n" in readme
    assert f"github/teacher/our.gpt_2/blob/main/notebooks/{NOTEBOOKS[0].name})" in readme
    for path in NOTEBOOKS[:2]:
        written = after[f"notebooks/{path.name}"].decode()
        assert written.count("teacher/our.gpt_2") == 2  # the badge and the set-up cell
        assert f"github/teacher/our.gpt_2/blob/main/notebooks/{path.name})" in written
    assert "already" in run(course).stdout and contents(course) == after
    stamp.write(stamp.plan(course, f"https://github.com/{OWN}"))
    assert contents(course) == before  # outputs, ids, tags, digests: every byte


def test_without_an_address_what_was_lost_comes_back(course):
    before = contents(course)
    readme, path = course / "README.md", course / "notebooks" / NOTEBOOKS[1].name
    readme.write_bytes(before["README.md"].replace(OWN.encode(), b"some/other").replace(b"\ncd ", b"\ncd some-"))
    change(path, lambda nb: nb.cells[0].update(source=nb.cells[0].source.replace(stamp.BADGE, "lost", 1)))
    change(path, lambda nb: nb.cells[0].update(source=re.sub(r"\n\nlost.*", "", nb.cells[0].source)))
    assert set(stamp.stale(stamp.plan(course))) == {readme, path}
    stamp.write(stamp.plan(course))
    assert contents(course) == before


def test_a_digest_that_was_valid_stays_valid_and_a_stale_one_stays_stale(course):
    sound, spoilt = (course / "notebooks" / path.name for path in NOTEBOOKS[:2])
    change(spoilt, lambda nb: code_cells(nb)[1].update(source="changed = 1"))
    digests = [load(path).metadata.gptlib.digest for path in (sound, spoilt)]
    stamp.write(stamp.plan(course, FORK))
    assert stamp.execute.check(sound, outside(course)) == [] and load(sound).metadata.gptlib.digest != digests[0]
    assert stamp.execute.check(spoilt, outside(course)) != [] and load(spoilt).metadata.gptlib.digest == digests[1]


def test_another_set_up_cell_has_to_be_run(course):
    source = course / ".ci" / "setup_cell.py"
    source.write_text(source.read_text(encoding="utf-8").replace("Ready.", "Begin."), encoding="utf-8")
    stamp.write(stamp.plan(course))
    path = course / "notebooks" / NOTEBOOKS[0].name
    assert "Begin." in code_cells(load(path))[0].source and stamp.execute.check(path, outside(course)) != []


def test_a_notebook_that_was_never_run_is_stamped_too(course):
    path = course / "notebooks" / NOTEBOOKS[0].name
    change(path, lambda nb: nb.metadata.pop("gptlib"))
    stamp.write(stamp.plan(course, FORK))
    assert FORK in code_cells(load(path))[0].source and "gptlib" not in load(path).metadata


BAD = [
    "teacher/fork",
    "http://github.com/teacher/fork",
    "https://gitlab.com/teacher/fork",
    "https://github.com/teacher",
    "https://github.com/teacher/fork/tree/main",
    "https://github.com/teacher/.git",
    "https://github.com/teacher/-fork",
    "https://github.com/teacher/fork?tab=readme",
    "https://github.com/tea cher/fork",
    'https://github.com/teacher/fork")',
    "git@github.com:teacher/fork.git",
]


@pytest.mark.parametrize("address", BAD)
def test_no_other_address_is_taken(address):
    with pytest.raises(ValueError, match=r"ADDRESS=https://github.com/owner/repository"):
        stamp.parse(address)


def test_a_bad_address_changes_nothing(course):
    before = contents(course)
    done = run(course, BAD[0])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"Nothing was changed.*'teacher/fork'.*make stamp ADDRESS=", done.stderr)
    assert contents(course) == before


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda root, path: change(path, lambda nb: code_cells(nb)[0].update(id="other")), "id 'set-up'"),
        (lambda root, path: change(path, lambda nb: nb.cells[0].update(source="No title")), "begin with a title"),
        (lambda root, path: (root / "README.md").write_text("# Nothing", encoding="utf-8"), "git clone"),
        (lambda root, path: (root / ".ci/setup_cell.py").write_text("import os", encoding="utf-8"), "holds no address"),
    ],
)
def test_where_nothing_can_be_stamped_it_says_what_is_missing(course, spoil, said):
    spoil(course, course / "notebooks" / NOTEBOOKS[0].name)
    with pytest.raises(ValueError, match=said):
        stamp.plan(course, FORK)


@pytest.mark.parametrize("fails", ["write_bytes", "replace"])
def test_all_files_are_written_or_none(course, monkeypatch, fails):
    planned, before, calls = stamp.plan(course, FORK), contents(course), []
    owner = os if fails == "replace" else Path
    real = getattr(owner, fails)

    def third_time(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("the disk is full")
        return real(*args)

    monkeypatch.setattr(owner, fails, third_time)
    with pytest.raises(OSError, match="the disk is full"):
        stamp.write(planned)
    assert len(calls) >= 3 and contents(course) == before


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_passes_the_address_on():
    for given, line in (([], r"\.ci/stamp\.py *$"), ([f"ADDRESS={FORK}"], rf'\.ci/stamp\.py "{re.escape(FORK)}"$')):
        shown = subprocess.run(["make", "-n", "stamp", *given], cwd=ROOT, capture_output=True, text=True)
        assert shown.returncode == 0 and re.search(line, shown.stdout, re.MULTILINE), shown
