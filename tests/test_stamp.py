"""One source for the set-up cell and the repository's address, and the command that brings both into every file."""

import re
import shutil
from pathlib import Path

import pytest
from test_notebooks import NOTEBOOKS, code_cells, load

from tools import stamp

ROOT = Path(__file__).resolve().parent.parent
FORK = "https://github.com/teacher/our.gpt_2"


@pytest.fixture
def course(tmp_path):
    """A copy of what the command reads and writes."""
    for name in ("tools", "notebooks"):
        (tmp_path / name).mkdir()
    for name in ("README.md", "tools/setup_cell.py", *(f"notebooks/{path.name}" for path in NOTEBOOKS[:2])):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def write(root, *address):
    for path, text in stamp.stamped(root, *address).items():
        path.write_text(text, encoding="utf-8", newline="\n")


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_file_is_stamped():
    assert [path.name for path in stamp.stamped()] == [], "make stamp"


def test_a_fork_gets_its_address_everywhere_and_may_go_back(course):
    before = contents(course)
    old = re.search(r"github\.com/([\w.-]+/[\w.-]+)", (course / "tools" / "setup_cell.py").read_text())[1]
    write(course, FORK + ".git/")
    after = contents(course)
    assert [path.name for path in after if after[path] == before[path] or old.encode() in after[path]] == []
    assert f"git clone {FORK}\ncd our.gpt_2\n" in (course / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS[:2]:
        nb = load(course / "notebooks" / path.name)
        page = f"https://colab.research.google.com/github/teacher/our.gpt_2/blob/main/notebooks/{path.name}"
        assert nb.cells[0].source.splitlines()[2] == f"{stamp.BADGE}({page})"
        assert FORK in code_cells(nb)[0].source
    assert stamp.stamped(course) == {}
    write(course, f"https://github.com/{old}")
    assert contents(course) == before  # outputs, ids, tags, digests: every byte


@pytest.mark.parametrize(
    "address", ["teacher/fork", "https://gitlab.com/a/b", "https://github.com/a", 'https://github.com/a/b")']
)
def test_no_other_address_is_taken(address):
    with pytest.raises(ValueError, match=re.escape(repr(address))):
        stamp.stamped(ROOT, address)
