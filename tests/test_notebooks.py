"""What every notebook keeps to, beyond running: pytest --nbval runs the cells, these rules read the file.

A rule takes a notebook and returns its faults. Each rule is first seen to fail on a small notebook broken for it.
"""

import base64
import copy
import io
import re
from importlib.metadata import version
from pathlib import Path

import matplotlib.image
import nbformat
import nbformat.v4.nbjson
import pytest

from tools import execute
from tools.digest import Package, digest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

PINNED = dict(re.findall(r"^(torch|numpy|matplotlib)==([^;\s]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))

IGNORED, RAISES = "nbval-ignore-output", "raises-exception"
LONGEST_CELL = 20  # lines, of a cell that is not folded
MOST_CELLS = 90  # before the exercises, beside the folded set-up
BLANK = 0.01  # standard deviation of the pixels, of 1

# Ways to the network, and folders that exist on one machine only.
NETWORK = re.compile(
    r"^\s*(?:import|from)\s+(?:urllib|urllib3|requests|http|httpx|aiohttp|ftplib|wget)\b"
    r"|\burlopen\b|\burlretrieve\b|\bhf_hub_download\b|\bsnapshot_download\b|\bload_dataset\b|\btorch\.hub\b"
    r"|^\s*[!%].*\b(?:wget|curl)\b|[\"'](?:wget|curl)\b",
    re.MULTILINE,
)
FOLDER = r"(?:/(?:home|root|Users|tmp|work|content|mnt|opt|usr|var)/|(?<![A-Za-z])[A-Z]:\\\\?[A-Za-z])"


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def prose(nb):
    """The markdown cells, without their fenced code."""
    return [re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL) for cell in nb.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def outputs(nb):
    """Every output, with the number of its cell."""
    return [(n, output) for n, cell in enumerate(code_cells(nb), 1) for output in cell.outputs]


def texts(output):
    """What an output says in words: streams, text and HTML, the message of an error."""
    data = output.get("data", {})
    found = (output.get("text"), data.get("text/plain"), data.get("text/html"), output.get("evalue"))
    return ["".join(text) for text in found if text]


def links(markdown):
    """Targets of links and of images in markdown or HTML: ([link, …], [image, …])."""
    image = r"!\[[^\]]*\]\(\s*<?([^\s)>]+)"
    images = re.findall(image, markdown) + re.findall(r"<img\b[^>]*\bsrc=[\"']([^\"']+)", markdown)
    rest = re.sub(image + r"[^)]*\)", "image", markdown)  # [![picture](a.svg)](page) is a link too
    return re.findall(r"\]\(\s*<?([^\s)>]+)", rest) + re.findall(r"<a\b[^>]*\bhref=[\"']([^\"']+)", rest), images


def anchors(markdown):
    """The places that GitHub lets a link point to: headings, and named elements."""
    headings = re.findall(r"^#+\s+(.*)$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"\b(?:id|name)=[\"']([^\"']+)", markdown))


def broken(markdown, folder):
    """Relative links and images that lead nowhere, and images fetched from elsewhere."""
    found = []
    followed, images = links(markdown)
    for target in followed + images:
        if re.match(r"[a-z]+:", target):
            if target in images:
                found.append(f"the image {target} is not in images/")
            continue
        path, _, anchor = target.partition("#")
        if path and not (folder / path).exists():
            found.append(f"{target} does not exist")
        elif path.endswith(".md") and anchor and anchor not in anchors((folder / path).read_text(encoding="utf-8")):
            found.append(f"{target}: no such heading")
    return found


# ---------------------------------------------------------------- the rules


def rule_executed_in_order(nb):
    counts = [cell.execution_count for cell in code_cells(nb)]
    return [] if counts and counts == list(range(1, len(counts) + 1)) else [f"cells are numbered {counts}"]


def rule_no_empty_cell(nb):
    return [f"cell {i} of the file is empty" for i, cell in enumerate(nb.cells) if not cell.source.strip()]


def rule_format(nb):
    found = [] if (nb.nbformat, nb.nbformat_minor) == (4, 5) else ["the format is not 4.5"]
    if set(nb.metadata) - {"kernelspec", "language_info", "gptlib"}:
        found.append(f"metadata {set(nb.metadata)}")
    if nb.metadata.get("kernelspec") != execute.KERNELSPEC:
        found.append("the kernelspec is not plain Python 3")
    if nb.metadata.get("language_info") != {"name": "python"}:
        found.append("language_info holds more than the name")
    return found


def rule_ids(nb):
    ids = [cell.get("id") for cell in nb.cells]
    return [] if None not in ids and len(set(ids)) == len(ids) else ["an id is missing or used twice"]


def rule_cell_metadata(nb):
    return [f"metadata {set(cell.metadata)}" for cell in nb.cells if set(cell.metadata) - execute.CELL_METADATA]


def rule_tags(nb):
    """A cell that only draws is folded: `source_hidden` for JupyterLab and VS Code, `hide-input` for Jupyter Book."""
    found = [f"tags {tags(cell)}" for cell in nb.cells if set(tags(cell)) - {IGNORED, RAISES, "hide-input"}]
    for cell in nb.cells:
        if bool(cell.metadata.get("jupyter", {}).get("source_hidden")) != ("hide-input" in tags(cell)):
            found.append(f"only one of source_hidden and hide-input: {cell.source[:30]!r}")
    return found


def rule_short_cells(nb):
    lengths = [0 if "hide-input" in tags(cell) else len(cell.source.splitlines()) for cell in code_cells(nb)]
    return [f"cell {n} has {lines} lines" for n, lines in enumerate(lengths, 1) if lines > LONGEST_CELL]


def rule_room_for_the_exercises(nb):
    cells = [cell for cell in nb.cells if cell.get("id") != "set-up"]
    titles = [i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises")]
    before = titles[0] if titles else len(cells)
    return [f"{before} cells before the exercises, at most {MOST_CELLS}"] if before > MOST_CELLS else []


def rule_predict_first(nb):
    """The output that answers a question is stored collapsed: the answer is one click away, not in view."""
    found = []
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown" and re.search(r"(?mi)^[*_]*predict first", cell.source):
            answer = next((one for one in nb.cells[i + 1 :] if one.cell_type == "code"), None)
            if "**Predict first.**" not in cell.source:
                found.append(f"not marked as **Predict first.**: {cell.source[:40]!r}")
            elif answer is None or not answer.metadata.get("jupyter", {}).get("outputs_hidden"):
                found.append(f"the answer is in view: {cell.source[:40]!r}")
    return found


def rule_hidden_answers(nb):
    """Of a collapsed output, JupyterLab shows the first line that is not empty: a heading, never the answer."""
    found = []
    for n, cell in enumerate(code_cells(nb), 1):
        hidden = cell.metadata.get("jupyter", {}).get("outputs_hidden")
        first = cell.outputs[0] if hidden and cell.outputs else {}
        data = first.get("data", {"text/plain": first.get("text", "")})
        lines = [line for line in (data.get("text/html") or data.get("text/plain", "")).split("\n") if line]
        if lines and (len(lines) == 1 or re.search(r"\d\.\d|[\[({<]\S", lines[0])):
            found.append(f"cell {n} begins with its answer: {lines[0][:40]!r}")
    return found


def rule_no_semicolon(nb):
    return [f"cell {n} ends in ;" for n, cell in enumerate(code_cells(nb), 1) if cell.source.rstrip().endswith(";")]


def rule_no_stderr(nb):
    return [f"cell {n} writes to stderr" for n, output in outputs(nb) if output.get("name") == "stderr"]


def rule_no_address(nb):
    return [f"cell {n} prints an address" for n, output in outputs(nb) if any(" at 0x" in t for t in texts(output))]


def rule_errors_announced(nb):
    found = []
    for n, cell in enumerate(code_cells(nb), 1):
        if (RAISES in tags(cell)) != any(output.output_type == "error" for output in cell.outputs):
            found.append(f"cell {n}: the tag {RAISES} and its output disagree")
    return found


def rule_ignored_output_is_asserted(nb):
    cells = code_cells(nb)
    return [
        f"cell {n}: its output is ignored, and nothing in it or the next two cells is asserted"
        for n, cell in enumerate(cells)
        if IGNORED in tags(cell)
        and not any(re.search(r"^\s*assert\b", c.source, re.MULTILINE) for c in cells[n : n + 3])
    ]


def rule_pictures(nb):
    found, pictures = [], 0
    for n, output in outputs(nb):
        picture = output.get("data", {}).get("image/png")
        if picture is None:
            continue
        pictures += 1
        try:
            pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)), format="png")
        except Exception as error:
            found.append(f"cell {n}: the picture is broken ({error})")
            continue
        if pixels[..., :3].std() < BLANK:
            found.append(f"cell {n}: the picture is blank")
        if not output.metadata.get("image/png", {}).get("alt", "").strip():
            found.append(f"cell {n}: the picture has no alt text")
    return found if pictures else ["there is no picture"]


def rule_headings(nb):
    found = []
    text = "\n".join(prose(nb))
    if not (nb.cells and nb.cells[0].cell_type == "markdown" and nb.cells[0].source.startswith("# ")):
        found.append("the first cell is not a '# ' title")
    if execute.stated_minutes(nb) is None:
        found.append("the opening does not say how many minutes 'the cells take … on two cores'")
    for heading in ("## What you built", "## Recap"):
        if not re.search(rf"^{heading}\b", text, re.MULTILINE):
            found.append(f"no '{heading}'")
    return found


def rule_no_network(nb):
    cells = enumerate(code_cells(nb), 1)
    return [f"cell {n} reaches for the network" for n, cell in cells if NETWORK.search(cell.source)]


def rule_no_absolute_path(nb):
    code = [(n, cell.source) for n, cell in enumerate(code_cells(nb), 1)]
    said = [(n, text) for n, output in outputs(nb) for text in texts(output)]
    found = [f"cell {n} names a folder of one machine" for n, text in code if re.search(rf"[\"']{FOLDER}", text)]
    return found + [f"cell {n} shows a folder of one machine" for n, text in said if re.search(FOLDER, text)]


def rule_links(nb):
    return [fault for text in prose(nb) for fault in broken(text, ROOT / "notebooks")]


def rule_no_attachment(nb):
    return ["a picture is attached to a cell: put it in images/" for cell in nb.cells if cell.get("attachments")]


RULES = [rule for name, rule in globals().items() if name.startswith("rule_")]


# ---------------------------------------------------------------- every rule is seen to fail


def png(value=None):
    """A one-colour picture, or, without a value, one with something in it."""
    file = io.BytesIO()
    pixels = [[0.0, 1.0], [1.0, 0.0]] if value is None else [[value, value]]
    matplotlib.image.imsave(file, pixels, cmap="gray", vmin=0, vmax=1, format="png")
    return base64.b64encode(file.getvalue()).decode()


def sound():
    """A small notebook that keeps to every rule."""
    v4 = nbformat.v4
    picture = v4.new_output("display_data", data={"image/png": png()}, metadata={"image/png": {"alt": "Four squares"}})
    text = v4.new_output("stream", name="stdout", text="7\n")
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    cells = [
        v4.new_markdown_cell("# A title\n\nthe cells take about 2 minutes on two cores [x](../README.md)"),
        v4.new_code_cell("import gptlib", execution_count=1),
        v4.new_code_cell("draw()", execution_count=2, outputs=[picture]),
        v4.new_code_cell("train()", execution_count=3, outputs=[text], metadata={"tags": [IGNORED]}),
        v4.new_code_cell("assert loss < 2", execution_count=4),
        v4.new_code_cell("raise ValueError('no')", execution_count=5, outputs=[error], metadata={"tags": [RAISES]}),
        v4.new_markdown_cell("## What you built"),
        v4.new_markdown_cell("## Recap"),
    ]
    metadata = {"kernelspec": dict(execute.KERNELSPEC), "language_info": {"name": "python"}}
    return v4.new_notebook(cells=cells, metadata=metadata)


def output(nb, cell=2):
    return nb.cells[cell].outputs[0]


def add_cells(nb, n):
    nb.cells[6:6] = [nbformat.v4.new_markdown_cell("A paragraph.") for _ in range(n)]


def collapse(nb, text):
    nb.cells[1].metadata["jupyter"] = {"outputs_hidden": True}
    nb.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]


def warn(nb):
    output(nb, 3).name = "stderr"


BREAK = [
    ("executed_in_order", lambda nb: nb.cells[2].update(execution_count=None)),
    ("executed_in_order", lambda nb: nb.cells[2].update(execution_count=9)),
    ("no_empty_cell", lambda nb: nb.cells[1].update(source=" \n")),
    ("format", lambda nb: nb.update(nbformat_minor=4)),
    ("format", lambda nb: nb.metadata.kernelspec.update(display_name="mine")),
    ("format", lambda nb: nb.metadata.language_info.update(version="3.11.7")),
    ("format", lambda nb: nb.metadata.update(widgets={})),
    ("ids", lambda nb: nb.cells[2].update(id=nb.cells[1].id)),
    ("ids", lambda nb: nb.cells[2].pop("id")),
    ("cell_metadata", lambda nb: nb.cells[1].metadata.update(execution={"started": 0})),
    ("tags", lambda nb: nb.cells[1].metadata.update(tags=["nbval-skip"])),
    ("short_cells", lambda nb: nb.cells[1].update(source="x = 1\n" * 26)),
    ("room_for_the_exercises", lambda nb: add_cells(nb, 90)),
    ("predict_first", lambda nb: nb.cells[6].update(source="## What you built\n**Predict first.** What is 3 + 4?")),
    ("predict_first", lambda nb: nb.cells[0].update(source=nb.cells[0].source + "\n\n*Predict first:* what is 7?")),
    ("hidden_answers", lambda nb: collapse(nb, "7\n")),
    ("hidden_answers", lambda nb: collapse(nb, "loss 2.5\nof two\n")),
    ("no_semicolon", lambda nb: nb.cells[1].update(source="draw();\n")),
    ("no_stderr", warn),
    ("no_address", lambda nb: output(nb).data.update({"text/plain": "<Line2D at 0x7f00>"})),
    ("no_address", lambda nb: output(nb, 5).update(evalue="<Line2D at 0x7f00>")),
    ("errors_announced", lambda nb: nb.cells[5].metadata.update(tags=[])),
    ("errors_announced", lambda nb: nb.cells[5].update(outputs=[])),
    ("ignored_output_is_asserted", lambda nb: nb.cells[4].update(source="print('assert')")),
    ("pictures", lambda nb: nb.cells[2].update(outputs=[])),
    ("pictures", lambda nb: output(nb).data.update({"image/png": png(0.5)})),
    ("pictures", lambda nb: output(nb).data.update({"image/png": "AAAA"})),
    ("pictures", lambda nb: output(nb).update(metadata={})),
    ("headings", lambda nb: nb.cells[0].update(source="A title. Two minutes.")),
    ("headings", lambda nb: nb.cells[0].update(source="# A title\n\n2 minutes")),
    ("headings", lambda nb: nb.cells[6].update(source="```\n## What you built\n```")),
    ("headings", lambda nb: nb.cells[7].update(source="Recap")),
    ("no_network", lambda nb: nb.cells[1].update(source="x = 1\nfrom urllib.request import urlopen as fetch")),
    ("no_network", lambda nb: nb.cells[1].update(source="!curl -O somewhere")),
    ("no_absolute_path", lambda nb: nb.cells[1].update(source="open('/home/me/text.txt')")),
    ("no_absolute_path", lambda nb: nb.cells[1].update(source=r"open('C:\\text.txt')")),
    ("no_absolute_path", lambda nb: output(nb, 3).update(text="PosixPath('/home/me/text.txt')")),
    ("links", lambda nb: nb.cells[7].update(source="## Recap\n[next](nowhere.ipynb)")),
    ("links", lambda nb: nb.cells[7].update(source="## Recap\n![a](../images/nowhere.svg)")),
    ("links", lambda nb: nb.cells[7].update(source="## Recap\n![a](https://example.org/a.png)")),
    ("links", lambda nb: nb.cells[7].update(source="## Recap\n<img alt='a' src='https://example.org/a.png'>")),
    ("links", lambda nb: nb.cells[7].update(source="## Recap\n[![a](https://example.org/a.svg)](https://example.org)")),
    ("no_attachment", lambda nb: nb.cells[7].update(attachments={"a.png": {"image/png": png()}})),
]


def test_a_sound_notebook_has_no_fault():
    assert {rule.__name__: rule(sound()) for rule in RULES} == {rule.__name__: [] for rule in RULES}


@pytest.mark.parametrize("n", range(len(BREAK)), ids=[f"{i}-{name}" for i, (name, _) in enumerate(BREAK)])
def test_each_rule_sees_its_fault_and_only_that(n):
    name, spoil = BREAK[n]
    nb = copy.deepcopy(sound())
    spoil(nb)
    assert [rule.__name__ for rule in RULES if rule(nb)] == [f"rule_{name}"]


def test_a_notebook_without_code_was_not_executed():
    nb = sound()
    nb.cells = nb.cells[:1]
    assert rule_executed_in_order(nb)


def test_every_rule_is_broken_once():
    assert {f"rule_{name}" for name, _ in BREAK} == {rule.__name__ for rule in RULES}


def test_anchors_are_found(tmp_path):
    (tmp_path / "a.md").write_text("# Words to know\n\n```\n# no heading\n```\n<a id='head'></a>", encoding="utf-8")
    assert broken("[a](a.md#words-to-know) [b](a.md#head) [c](https://example.org) [d](#here)", tmp_path) == []
    assert len(broken("[a](a.md#no-heading) [b](a.md#other)", tmp_path)) == 2


# ---------------------------------------------------------------- the notebooks themselves


def load(path):
    return nbformat.v4.nbjson.reads(path.read_text(encoding="utf-8"))


def test_there_are_notebooks():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers and len(set(numbers)) == len(numbers), "notebooks/ is empty, or two have the same number"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_to(path, rule):
    found = rule(load(path))
    if rule is rule_headings and path.stem.startswith("00"):  # nothing is built in the first
        found = [fault for fault in found if not fault.startswith("no '## ")]
    assert found == [], f"{path.name}: {found}"


def test_most_cells_are_compared_strictly():
    cells = [cell for path in NOTEBOOKS for cell in code_cells(load(path))]
    strict = sum(IGNORED not in tags(cell) for cell in cells)
    assert strict >= 0.88 * len(cells) > 0, f"{strict} of {len(cells)} cells are compared strictly"


# ---------------------------------------------------------------- `make notebooks`


@pytest.fixture
def stored(tmp_path):
    """Write a small notebook, run it as `make notebooks` does, and give a function that runs it again."""
    path = tmp_path / "small.ipynb"

    def run(cells, source="a = 1", fresh=False):
        (tmp_path / "gptlib").mkdir(exist_ok=True)
        (tmp_path / "gptlib" / "used.py").write_text(source, encoding="utf-8")
        nb = nbformat.v4.new_notebook(cells=[])
        for i, (source, *marks) in enumerate(cells):
            nb.cells.append(nbformat.v4.new_code_cell(source, id=f"c{i}", metadata={"tags": marks} if marks else {}))
        if path.exists():
            before = load(path)
            nb.metadata = before.metadata
            for cell, old in zip(nb.cells, before.cells):
                cell.update(execution_count=old.execution_count, outputs=old.outputs)
        path.write_text(nbformat.writes(nb), encoding="utf-8")
        return execute.execute(path, Package(tmp_path), fresh), path.read_bytes()

    return run


CHANCE = [
    ("import os\n'é'\nif 0:\n    import gptlib.used",),
    ("print(os.urandom(8))", IGNORED),
    ("def f():\n    raise ValueError('no')\nf()", RAISES),
]


def test_running_again_changes_no_byte_until_something_changes(stored):
    faults, first = stored(CHANCE, source="a = 1")
    assert faults == [] and "é".encode() in first and b"Traceback" not in first and first.endswith(b"}\n")
    assert stored(CHANCE, source="a = 1") == ([], first)
    _, other = stored(CHANCE, source="a = 2")  # the package, the data or a library changed
    assert load_text(other, 1) != load_text(first, 1)
    _, fresh = stored(CHANCE, source="a = 2", fresh=True)
    assert load_text(fresh, 1) != load_text(other, 1)
    nb = nbformat.v4.nbjson.reads(first.decode())
    assert rule_executed_in_order(nb) + rule_format(nb) + rule_ids(nb) + rule_cell_metadata(nb) == []


def test_adopting_changes_nothing_but_the_digest(stored, tmp_path):
    _, before = stored(CHANCE, source="a = 1")
    path = tmp_path / "small.ipynb"
    (tmp_path / "gptlib" / "used.py").write_text("a = 2", encoding="utf-8")
    package = Package(tmp_path)
    assert execute.check(path, package) != []
    assert execute.adopt(path, package) == [] == execute.check(path, package)
    old, new = nbformat.v4.nbjson.reads(before.decode()), load(path)
    assert old.metadata.pop("gptlib") != new.metadata.pop("gptlib") and old == new


def test_a_notebook_that_was_not_run_is_not_adopted(tmp_path):
    path = tmp_path / "new.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])), encoding="utf-8")
    before = path.read_bytes()
    assert "never run" in execute.adopt(path, Package(tmp_path))[0] and path.read_bytes() == before


def load_text(written, cell):
    return nbformat.v4.nbjson.reads(written.decode()).cells[cell].outputs[0].text


@pytest.mark.parametrize(
    "source, said",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nprint('no', file=sys.stderr)", "stderr"),
        ("import warnings\nwarnings.warn('old', stacklevel=1)", "UserWarning"),
    ],
)
def test_an_error_or_a_warning_is_not_stored(stored, source, said):
    faults, written = stored([(source,)])
    assert said in faults[0] and b'"outputs": []' in written


# ---------------------------------------------------------------- what makes a stored output stale

INIT = "from gptlib import other\nfrom gptlib.model import GPT\n"
MODEL = '"""A model."""\nfrom gptlib.attention import head\n\nclass GPT:\n    """A GPT."""\n    x = head\n'


@pytest.fixture
def package(tmp_path):
    """GPT lives in model, which imports attention; the package part imports other. Gives a function: code -> digest."""
    files = {"__init__": INIT, "model": MODEL, "attention": "head = 1  # one\n", "other": "y = 1\n"}
    files["part/__init__"] = "from .inner import x\nfrom ..other import y\n"
    files["part/inner"] = "x = 1\n"
    more = {"gptlib/part/part.js": "1", "data/text.txt": "t"}
    for name, text in {**{f"gptlib/{name}.py": text for name, text in files.items()}, **more}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "notebooks" / "checks").mkdir(parents=True)

    def of(source, write=None):
        for name, text in (write or {}).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        return digest(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), Package(tmp_path))

    return of


USE_MODEL, USE_OTHER = "import gptlib\ngptlib.GPT", "from gptlib import other\nother.y"


@pytest.mark.parametrize("source", [USE_MODEL, USE_OTHER, "import gptlib as g\ng.GPT"])
@pytest.mark.parametrize(
    "edit",
    [
        {"gptlib/model.py": MODEL.replace("A model.", "The model.").replace("A GPT.", "Another sentence.")},
        {"gptlib/model.py": MODEL + "# a comment\n\n\n"},
        {"gptlib/attention.py": "head = (1)\n"},
        {"notebooks/checks/n01.py": "z = 1\n"},
        {"data/README.md": "words"},
    ],
)
def test_a_comment_a_docstring_or_a_check_makes_nothing_stale(package, source, edit):
    assert package(source) == package(source, edit)


SOURCES = [
    USE_MODEL,
    "from gptlib.model import GPT\nGPT",
    USE_OTHER,
    "import gptlib as g\ng",
    "import gptlib\nf(gptlib)",
    "from gptlib import *",
    "this is no Python",
    "import gptlib.part",
    "x = 1",
]


@pytest.mark.parametrize(
    "edit, stale",
    [
        ({"gptlib/attention.py": "head = 2\n"}, [1, 1, 0, 1, 1, 1, 1, 0, 0]),
        ({"gptlib/model.py": MODEL + "w = 1\n"}, [1, 1, 0, 1, 1, 1, 1, 0, 0]),
        ({"gptlib/other.py": "y = 2\n"}, [0, 0, 1, 1, 1, 1, 1, 1, 0]),
        ({"gptlib/part/part.js": "2"}, [0, 0, 0, 1, 1, 1, 1, 1, 0]),
        (
            {"gptlib/__init__.py": "from gptlib import other\nfrom gptlib.other import GPT\n"},
            [1, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        ({"data/text.txt": "u"}, [1] * 9),
    ],
)
def test_a_change_of_code_or_data_makes_exactly_those_stale_that_reach_it(package, edit, stale):
    before = [package(source) for source in SOURCES]
    assert [one != package(source, edit) for one, source in zip(before, SOURCES)] == [n == 1 for n in stale]


def test_an_import_that_is_not_used_reaches_nothing(package):
    source = "from gptlib import other"
    assert package(source) == package(source, {"gptlib/other.py": "y = 3\n"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_belong_to_this_code(path):
    if any(version(name).partition("+")[0] != pinned for name, pinned in PINNED.items()):
        pytest.skip("other versions of the libraries than those in constraints.txt")
    assert execute.check(path, Package()) == []
