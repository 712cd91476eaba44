"""Write the set-up cells and the Colab badge into every notebook, and the repository's address into the README.

python -m tools.stamp                                      as tools/setup_cell.py has them
python -m tools.stamp https://github.com/teacher/fork      with this address, from now on
"""

import re
import sys
from pathlib import Path

import nbformat
import nbformat.v4.nbjson

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
COLAB = "https://colab.research.google.com/github/"
BADGE = "[![Open in Colab](../images/colab.svg)]"


FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-input"]}  # Colab, JupyterLab, Book
SPLIT = re.compile(r"\s*^# %%.*\s*", re.MULTILINE)
NEEDS_SMOLLM2 = "# needs SmolLM2\n"  # the first line of the cells that are skipped without it


def first_cells(cells: str, needs_smollm2: bool = False) -> list[str]:
    """The set-up and the imports; the line that installs SmolLM2 is only in notebooks that need it."""
    return SPLIT.split(cells if needs_smollm2 else re.sub(r".*  # SmolLM2.*\n", "", cells))


def stamp_notebook(nb, cells: str, page: str) -> None:
    """Put the set-up, folded, the imports, and the badge as a paragraph of its own under the title."""
    set_up, imports = ([one for one in nb.cells if one.get("id") == name] for name in ("set-up", "imports"))
    if (len(set_up), len(imports)) != (1, 1) or not nb.cells[0].source.startswith("# "):
        raise ValueError("a notebook begins with a title ('# …') and has code cells with ids 'set-up' and 'imports'")
    needs_smollm2 = any(cell.source.startswith(NEEDS_SMOLLM2) for cell in nb.cells if cell.cell_type == "code")
    set_up[0].source, imports[0].source = first_cells(cells, needs_smollm2)
    set_up[0].metadata = nbformat.from_dict(FOLDED)
    title, *rest = [line for line in nb.cells[0].source.splitlines() if not line.startswith(BADGE)]
    nb.cells[0].source = f"{title}\n\n{BADGE}({page})\n\n{chr(10).join(rest).strip()}".strip()


def stamped(root: Path = ROOT, address: str | None = None) -> dict[Path, str]:
    """What every file should hold, with `address` or with the one that tools/setup_cell.py has."""
    source = root / "tools" / "setup_cell.py"
    cell = source.read_text(encoding="utf-8").strip("\n")
    address = (address or "".join(ADDRESS.findall(cell))).rstrip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"{address!r} is no repository on GitHub: make stamp ADDRESS=https://github.com/owner/name")
    cell, name = ADDRESS.sub(address, cell, count=1), address.removeprefix("https://github.com/")
    readme = (root / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"(?m)^git clone \S+\ncd \S+$", f"git clone {address}\ncd {name.split('/')[1]}", readme)
    readme = re.sub(re.escape(COLAB) + r"[^/\s]+/[^/\s]+/blob/", f"{COLAB}{name}/blob/", readme)
    found = {source: cell + "\n", root / "README.md": readme}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        nb = nbformat.v4.nbjson.reads(path.read_text(encoding="utf-8"))
        stamp_notebook(nb, cell, f"{COLAB}{name}/blob/main/notebooks/{path.name}")
        found[path] = nbformat.writes(nb).rstrip("\n") + "\n"
    return {path: text for path, text in found.items() if path.read_text(encoding="utf-8") != text}


if __name__ == "__main__":
    try:
        changed = stamped(ROOT, *sys.argv[1:2])
    except ValueError as error:
        sys.exit(f"Nothing was changed. {error}")
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT).as_posix()}: stamped")
