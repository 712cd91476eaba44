"""The repository as a whole: which module imports which, links, checksums, the dependencies."""

import ast
import hashlib
import re
from graphlib import TopologicalSorter
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from test_notebooks import NOTEBOOKS, anchors, broken, links

from tools import course_map

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gptlib"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
DATA_PAGES = [ROOT / "data" / "README.md", *sorted((ROOT / "data").glob("*/README.md"))]
MARKDOWN = [*sorted(ROOT.glob("*.md")), ROOT / "images" / "README.md", *DATA_PAGES]

# What is studied and trained knows nothing of what draws it, shows its progress or looks inside it.
CORE = {"attention", "positions", "model", "sampling", "training", "data", "tokenizers", "bpe"}
AROUND = {"plot", "live", "explorer", "probe"}
MAY_PRINT = {"live", "pretrain", "shards"}  # live progress, and what a command has done


def imported(tree):
    """The modules of gptlib that a piece of source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gptlib.")}
        elif isinstance(node, ast.ImportFrom):
            module = ("gptlib." if node.level else "") + (node.module or "")  # from . import x: "gptlib."
            module = module.rstrip(".")
            if module == "gptlib":
                found |= {alias.name for alias in node.names}
            elif module.startswith("gptlib."):
                found.add(module.split(".")[1])
    return found


def calls(tree):
    """Every call, as the text of what is called and the node."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe_loads(tree):
    """Calls that could run code hidden in a file."""
    found = []
    for name, node in calls(tree):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if re.fullmatch(r"(pickle|dill|joblib|marshal)\.(loads?|Unpickler)|eval|exec", name):
            found.append(name)
        if given.get("allow_pickle") == "True":
            found.append(f"{name} with allow_pickle=True")
    return found


def test_modules_import_one_way():
    arrows = {}
    for name, tree in MODULES.items():
        part = name.partition(".")[0]
        arrows[part] = arrows.get(part, set()) | imported(tree) - {part}
    arrows.pop("__init__")
    TopologicalSorter(arrows).prepare()  # raises CycleError


@pytest.mark.parametrize("module", sorted(CORE & set(MODULES)))
def test_the_core_reaches_nothing_that_draws_or_watches(module):
    reached, new = set(), {module}
    while new:
        reached |= new
        new = {name for one in new if one in MODULES for name in imported(MODULES[one])} - reached
    assert reached & AROUND == set()


@pytest.mark.parametrize(
    "source",
    [
        "import gptlib.plot",
        "from gptlib import plot",
        "from gptlib.plot import x",
        "from . import plot",
        "from .plot import x",
    ],
)
def test_every_way_to_import_is_seen(source):
    assert imported(ast.parse(f"import torch\ndef f():\n    {source}")) == {"plot"}


def test_nothing_prints_but_live_progress():
    printing = {name for name, tree in MODULES.items() if "print" in [called for called, _ in calls(tree)]}
    assert printing <= MAY_PRINT


def test_no_file_can_run_code_when_it_is_loaded():
    assert {name: found for name, tree in MODULES.items() if (found := unsafe_loads(tree))} == {}
    hostile = ["torch.load(f)", "torch.load(f, weights_only=False)", "pickle.load(f)", "np.load(f, allow_pickle=True)"]
    for source in hostile:
        assert unsafe_loads(ast.parse(source)), source


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_resolve(path):
    text = path.read_text(encoding="utf-8")
    assert broken(text, path.parent) == []
    inside = [target[1:] for target in links(text)[0] if target.startswith("#")]
    assert set(inside) - anchors(text) == set(), "a link leads to no heading of the page"


def test_the_readme_leads_to_every_notebook():
    followed, _ = links((ROOT / "README.md").read_text(encoding="utf-8"))
    missing = {f"notebooks/{path.name}" for path in NOTEBOOKS} - set(followed)
    assert missing == set(), "the README's table has no row for it"


def test_the_map_is_drawn_from_the_notebooks_that_exist():
    stored = (ROOT / "images" / "course.svg").read_text(encoding="utf-8")
    assert stored == course_map.draw(course_map.existing()), "draw it again: make pictures"


def test_a_notebook_that_is_not_planned_is_named():
    with pytest.raises(ValueError, match="99_new"):
        course_map.draw({"99_new"})


def test_the_version_stands_in_one_place():
    assert "version =" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_readme_gives_the_minutes_of_the_headers(path):
    stated = r"\*\*Time\*\* about (\d+) minutes to read(?:, and (\d+) for the exercises)?;"
    found = re.search(stated, path.read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next((line for line in readme.splitlines() if f"](notebooks/{path.name})" in line and line[0] == "|"), None)
    assert row, f"the README's table has no row for {path.name}"
    assert found, f"{path.name} does not say how long it takes"
    assert [cell.strip() for cell in row.split("|")][3:5] == list(found.groups(default=""))


def test_the_glossary_has_each_term_once_and_in_its_index():
    glossary = (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"(?m)^### (.*)$", glossary)
    index = next(line for line in glossary.splitlines() if line.startswith("**All terms**"))
    assert len(terms) == len(set(terms)) and re.findall(r"\[(.*?)\]\(#", index) == sorted(terms, key=str.lower)
    assert re.findall(r"(?m)^## (\d\d)", glossary) == [path.name[:2] for path in NOTEBOOKS]


def test_every_data_file_has_its_checksum_on_the_page():
    files = [path for path in sorted((ROOT / "data").rglob("*")) if path.is_file()]
    files = [path for path in files if path.suffix not in (".md", ".py", ".pyc") and path.name != "LICENSE"]
    sums = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DATA_PAGES)
    told = set(re.findall(r"\b[0-9a-f]{64}\b", pages))
    assert files and {path.name for found, path in sums.items() if found not in told} == set(), "altered, or not listed"
    assert told - set(sums) == set(), "a checksum of no file"


def test_conda_takes_the_dependencies_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    python, pip, packages = environment["dependencies"]
    assert python.startswith("python") and pip == "pip" and packages == {"pip": ["-e .[dev]"]}


def test_every_dependency_has_an_exact_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split(";")[0].strip().split("==") for line in lines if not line.startswith("#"))
    assert not [version for version in pinned.values() if "+" in version], "a build of one machine"
    needed = {re.match(r"[\w.-]+", line)[0].lower() for line in requires("gptlib")}
    assert needed - {name.lower() for name in pinned} == set()


def test_the_package_keeps_to_the_budgets_of_contributing():
    """Lines per module and in all, as stated there, docstrings included."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`[^|]+) \|[^|]+\| ([\d, ]+) \|$", text, re.M)
    (in_all,) = re.findall(r"at most ([\d,]+) lines in\s+all", text)
    budgets = {}
    for names, lines in table:
        budgets |= dict(zip(re.findall(r"`(\w+)/?`", names), map(int, lines.split(", ")), strict=True))
    found: dict[str, int] = {}
    for path in (ROOT / "gptlib").rglob("*.*"):
        name = path.relative_to(ROOT / "gptlib").parts[0].removesuffix(".py")
        if path.suffix in (".py", ".js", ".css") and name != "__init__":
            found[name] = found.get(name, 0) + len(path.read_text(encoding="utf-8").splitlines())
    assert found.keys() == budgets.keys()
    assert {name: lines for name, lines in found.items() if lines > budgets[name]} == {}
    assert sum(found.values()) <= int(in_all.replace(",", ""))
