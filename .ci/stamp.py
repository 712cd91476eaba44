"""Write the set-up cell and the Colab badge into every notebook, and the repository's address into the README.

    python .ci/stamp.py                                      as .ci/setup_cell.py has them
    python .ci/stamp.py https://github.com/teacher/fork      with this address, from now on

The set-up cell has one source, .ci/setup_cell.py, and the address stands in it once. Everything else follows: the badge
under each notebook's title, the README's `git clone`, `cd` and Colab lines. Outputs, ids and tags stay as they are.
"""

import argparse
import importlib.util
import os
import re
import sys
from pathlib import Path

import nbformat
import nbformat.v4.nbjson

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(".ci/setup_cell.py")

spec = importlib.util.spec_from_file_location("execute", Path(__file__).with_name("execute.py"))
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

ADDRESS = re.compile(r"https://github\.com/(?P<owner>[A-Za-z0-9][A-Za-z0-9-]*)/(?P<name>[A-Za-z0-9_][\w.-]*)", re.ASCII)
COLAB = "https://colab.research.google.com/github/"
BADGE = "[![Open in Colab](../images/colab.svg)]"


def parse(address: str) -> str:
    """The address of a repository on GitHub, without a trailing slash or .git.

    Raises ValueError for anything else: Colab opens notebooks from there.
    """
    plain = address.strip().rstrip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(plain):
        raise ValueError(
            f"{address!r} is not the address of a repository on GitHub: give it as your browser shows it, "
            "make stamp ADDRESS=https://github.com/owner/repository"
        )
    return plain


def readdress(cell: str, address: str) -> str:
    """The set-up cell with another address in the one place where it has one."""
    return ADDRESS.sub(address, cell, count=1)


def badge(address: str, notebook: str) -> str:
    return f"{BADGE}({COLAB}{address.removeprefix('https://github.com/')}/blob/main/notebooks/{notebook})"


def stamp_notebook(path: Path, cell: str, address: str, outside: str) -> str:
    """The text of the notebook with the set-up cell, and with the badge as a paragraph of its own under the title.

    Raises ValueError when it has no cell with the id `set-up` or does not begin with a title.
    """
    nb = nbformat.v4.nbjson.reads(path.read_text(encoding="utf-8"))
    places = [one for one in nb.cells if one.get("id") == "set-up" and one.cell_type == "code"]
    if len(places) != 1:
        raise ValueError(f"{path.name} has no code cell with the id 'set-up': give its first code cell this id")
    if nb.cells[0].cell_type != "markdown" or not nb.cells[0].source.startswith("# "):
        raise ValueError(f"{path.name} does not begin with a title: make its first cell markdown that starts with '# '")

    lines = [line for line in nb.cells[0].source.splitlines() if not line.startswith(BADGE)]
    title, rest = lines[0], "\n".join(lines[1:]).strip("\n")
    nb.cells[0].source = f"{title}\n\n{badge(address, path.name)}\n\n{rest}".rstrip("\n")

    stored = nb.metadata.get("gptlib", {}).get("digest")
    valid = stored is not None and stored == execute.digest(nb, outside)
    same_code = readdress(places[0].source, address) == cell
    places[0].source = cell
    # The digest covers the code, and the address stands in it; but off Colab the cell never reads the address, so the
    # stored outputs belong to the new code as they did to the old. A digest that was stale before stays stale, and one
    # over another set-up cell becomes so: then only running the notebook tells what it puts out.
    if valid and same_code:
        nb.metadata.gptlib.digest = execute.digest(nb, outside)
    return nbformat.writes(nb).rstrip("\n") + "\n"


def stamp_readme(text: str, address: str) -> str:
    """The README with the address in its `git clone` and `cd` lines and in its links to Colab.

    Raises ValueError when one of these is not there.
    """
    repository = address.removeprefix("https://github.com/")
    edits = [
        (r"(?m)^git clone \S+\ncd \S+$", f"git clone {address}\ncd {repository.partition('/')[2]}"),
        (re.escape(COLAB) + r"[^/\s]+/[^/\s]+/blob/", f"{COLAB}{repository}/blob/"),
    ]
    for pattern, new in edits:
        text, found = re.subn(pattern, new, text)
        if not found:
            raise ValueError(f"README.md has no line like {new!r} to put the address into: write one")
    return text


def plan(root: Path = ROOT, address: str | None = None) -> dict[Path, str]:
    """What every file should hold, with `address`, or with the one that the source has."""
    cell = (root / SOURCE).read_text(encoding="utf-8").strip("\n")
    if not ADDRESS.search(cell):
        raise ValueError(f"{SOURCE} holds no address like https://github.com/owner/repository: write it there")
    address = parse(address or ADDRESS.search(cell)[0])
    cell = readdress(cell, address)
    outside = execute.fingerprint(root)
    found = {root / SOURCE: cell + "\n"}
    readme = root / "README.md"
    found[readme] = stamp_readme(readme.read_text(encoding="utf-8"), address)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        found[path] = stamp_notebook(path, cell, address, outside)
    return found


def stale(planned: dict[Path, str]) -> dict[Path, str]:
    return {path: text for path, text in planned.items() if path.read_bytes() != text.encode("utf-8")}


def write(files: dict[Path, str]) -> None:
    """Write all of them or none: beside their places first; only when all are on the disk do they take their places."""
    before = {path: path.read_bytes() for path in files}
    scratch = {path.with_name(path.name + ".tmp"): path for path in files}
    try:
        for new, path in scratch.items():
            new.write_bytes(files[path].encode("utf-8"))
        try:
            for new, path in scratch.items():
                os.replace(new, path)
        except OSError:
            for path, content in before.items():
                path.write_bytes(content)
            raise
    finally:
        for new in scratch:
            new.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", nargs="?", help="https://github.com/owner/repository")
    args = parser.parse_args()
    try:
        changed = stale(plan(ROOT, args.address))
        write(changed)
    except (ValueError, OSError) as error:
        sys.exit(f"Nothing was changed. {error}")
    for path in changed:
        print(f"{path.relative_to(ROOT).as_posix()}: stamped")
    if not changed:
        print("Every file has this address and this set-up cell already.")


if __name__ == "__main__":
    main()
