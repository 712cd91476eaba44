"""Run the notebooks in order and store their outputs; nothing in a file changes when nothing behind it has.

    python -m tools.execute [--fresh] [notebook ...]     run and store
    python -m tools.execute --check                      run nothing, say which stored outputs belong to other code
    python -m tools.execute --adopt [notebook ...]       run nothing, say that the stored outputs belong to this code

Timings and training come out differently on every run. Their cells carry the tag `nbval-ignore-output`, and keep the
outputs that are stored while the notebook's digest stays the same (tools/digest.py). A picture is kept by the same
rule, since another CPU may round a pixel differently. `--fresh` keeps nothing.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import nbformat.v4.nbjson
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools.digest import Package, digest

ROOT = Path(__file__).resolve().parent.parent
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_METADATA = {"tags", "jupyter", "collapsed", "cellView"}
IGNORED, RAISES = "nbval-ignore-output", "raises-exception"
TIMEOUT = 1200  # seconds for one cell
SLOW = 60  # seconds: a cell above this is named


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def stated_minutes(nb) -> int | None:
    """How many minutes the opening grants to the cells, on two cores; None when it does not say."""
    opening = "\n".join(cell.source for cell in nb.cells[:3] if cell.cell_type == "markdown")
    stated = re.search(r"the cells take (?:less than|about) (\d+) minutes? on two cores", opening)
    return int(stated[1]) if stated else None


def read(path: Path):
    """The notebook, with an id for every cell that lacks one or shares it with an earlier cell."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["nbformat"], raw["nbformat_minor"] = 4, 5
    used: set[str] = set()
    free = (name for i in range(10_000) if (name := f"cell-{i}") not in {cell.get("id") for cell in raw["cells"]})
    for cell in raw["cells"]:
        if cell.get("id") in used | {None}:
            cell["id"] = next(free)
        used.add(cell["id"])
    return nbformat.v4.nbjson.reads(json.dumps(raw))


def normalise(nb, checksum: str) -> None:
    """Leave in the file only what a reader sees and the digest needs."""
    nb.metadata = nbformat.from_dict(
        {"gptlib": {"digest": checksum}, "kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    )
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA and v != []})
    for cell in code_cells(nb):
        merged: list = []
        for output in cell.outputs:
            if merged and output.output_type == "stream" and output.get("name") == merged[-1].get("name"):
                merged[-1].text += output.text  # how a print is cut into messages varies
                continue
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]  # the rest holds paths of this machine
            merged.append(output)
        cell.outputs = merged


def keep(nb, stored) -> list[str]:
    """Put the stored outputs back where only chance or rounding can differ; says which pictures were kept."""
    notes = []
    for cell, before in zip(code_cells(nb), code_cells(stored)):
        if before.get("execution_count") is None:
            continue
        if IGNORED in tags(cell):
            cell.outputs = before.outputs
        elif len(cell.outputs) == len(before.outputs):
            for new, old in zip(cell.outputs, before.outputs):
                fresh, picture = (output.get("data", {}).get("image/png") for output in (new, old))
                if fresh and picture and fresh != picture:
                    new.data["image/png"] = picture
                    notes.append(f"cell {cell.execution_count}: the picture came out otherwise; the stored one is kept")
    return notes


def faults(nb) -> list[str]:
    """What must not be stored: anything on stderr, any warning, any error that the cell does not announce."""
    found = []
    for cell in code_cells(nb):
        for output in cell.outputs:
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            if output.output_type == "error" and RAISES not in tags(cell):
                found.append(f"cell {cell.execution_count} raises {output.ename}: {output.evalue}")
            if output.get("name") == "stderr" or re.search(r"\w*Warning:", text):
                found.append(f"cell {cell.execution_count} writes a warning or to stderr:\n{text}")
    return found


def execute(path: Path, package: Package, fresh: bool = False) -> list[str]:
    """Run one notebook from its folder and store it; returns its faults, and then stores nothing."""
    nb, stored = read(path), read(path)
    seconds: dict[int, float] = {}

    def started(cell, cell_index, **_):
        seconds[cell_index] = -time.perf_counter()

    def executed(cell, cell_index, **_):
        seconds[cell_index] += time.perf_counter()

    client = NotebookClient(
        nb,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=started,
        on_cell_executed=executed,
    )
    begun = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        return [f"a cell fails:\n{error}"]
    finally:
        whole = time.perf_counter() - begun
        minutes = stated_minutes(nb)
        over = f", over the {minutes} min that it states" if minutes and whole > 60 * minutes else ""
        print(f"{path.name}: {whole:.1f} s{over}", flush=True)
    for index, taken in seconds.items():
        if taken > SLOW:
            print(f"  cell {nb.cells[index].execution_count} takes {taken:.0f} s", flush=True)

    now = digest(nb, package)
    normalise(nb, now)
    if not fresh and stored.metadata.get("gptlib", {}).get("digest") == now:
        for note in keep(nb, stored):
            print(f"  {note}", flush=True)
    if found := faults(nb):
        return found

    if store(path, nb):
        print("  stored afresh", flush=True)
    return []


def store(path: Path, nb) -> bool:
    """Write the notebook where it differs, atomically; True when it did."""
    nbformat.validate(nb)
    text = nbformat.writes(nb).rstrip("\n") + "\n"
    if text == path.read_bytes().decode("utf-8"):
        return False
    new = path.with_suffix(".tmp")
    new.write_bytes(text.encode("utf-8"))
    os.replace(new, path)
    return True


def adopt(path: Path, package: Package) -> list[str]:
    """Store the digest of the code as it is beside the outputs as they are; refused for a notebook that was not run."""
    nb = read(path)
    if not all(cell.execution_count for cell in code_cells(nb)):
        return ["it has cells that were never run: make notebooks"]
    nb.metadata["gptlib"] = {"digest": digest(nb, package)}
    if store(path, nb):
        print(f"{path.name}: adopted", flush=True)
    return []


def check(path: Path, package: Package) -> list[str]:
    nb = read(path)
    if nb.metadata.get("gptlib", {}).get("digest") == digest(nb, package):
        return []
    return ["the code, data or libraries that it reaches changed since it was run: make notebooks"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of notebooks/ when none is named")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--fresh", action="store_true", help="keep no stored output")
    how.add_argument("--check", action="store_true", help="run nothing, name the notebooks with outputs of other code")
    how.add_argument(
        "--adopt",
        action="store_true",
        help="run nothing, store the new digests: only for a change that provably cannot change an output, "
        "such as a renamed local variable; when in doubt, run the notebooks",
    )
    args = parser.parse_args()
    paths = [path.resolve() for path in args.notebooks] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        sys.exit("There are no notebooks in notebooks/.")

    os.environ.pop("MPLBACKEND", None)  # the kernel draws into the notebook
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tools/setup_cell.py has it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_OFFLINE="1")
    package = Package()
    failed = False
    with tempfile.TemporaryDirectory() as profile:
        os.environ["IPYTHONDIR"] = profile  # no start-up files of the person who runs this
        for path in paths:
            if args.check or args.adopt:
                found = check(path, package) if args.check else adopt(path, package)
            else:
                found = execute(path, package, args.fresh)
            for fault in found:
                failed = True
                print(f"{path.name}: {fault}", file=sys.stderr, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
