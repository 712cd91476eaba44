"""The repository as a whole: what lies where, which module imports which, links, checksums, the dependencies."""

import ast
import fnmatch
import hashlib
import re
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from test_notebooks import NOTEBOOKS, anchors, broken, links

import gptlib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gptlib"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
DATA_PAGES = [ROOT / "data" / "README.md", *sorted((ROOT / "data").glob("*/README.md"))]
MARKDOWN = [ROOT / "README.md", ROOT / "images" / "README.md", *DATA_PAGES]

TOP_LEVEL = set(
    "notebooks gptlib data images tests README.md LICENSE Makefile pyproject.toml constraints.txt environment.yml "
    "conftest.py .ci .gitignore .gitattributes".split()
)

# Which module may import which others of the package: the arrows of the design, all pointing one way.
MAY_IMPORT = {
    "bpe": set(),
    "tokenizers": {"bpe", "files"},
    "data": {"tokenizers", "files"},
    "bigram": set(),
    "cache": set(),
    "attention": {"cache"},
    "positions": set(),
    "model": {"attention", "cache", "positions"},
    "sampling": set(),
    "rows": set(),
    "files": set(),
    "checkpoint": {"files"},
    "live": {"plot", "checkpoint"},
    "training": {"data", "files", "checkpoint", "live"},
    "hub": set(),
    "gpt2_files": {"bpe", "hub", "model", "tokenizers"},
    "gpt2": {"files", "gpt2_files", "hub", "model", "tokenizers"},
    "pretrained": {"data", "files", "gpt2", "model", "tokenizers"},
    "probe": {"attention"},
    "checks": {"checks"},  # the right results come from PyTorch alone
    "explorer": set(),
    "plot": {"explorer"},
}
MAY_PRINT = {"live", "checks.judge"}

# The public names, in the order in which the course introduces them.
PUBLIC = {
    "tokenizers": ["CharTokenizer", "WordTokenizer"],
    "data": ["load", "split", "batch"],
    "bigram": ["BigramLM", "NGram"],
    "attention": ["attention_weights", "Head", "MultiHeadAttention"],
    "cache": ["Cache", "LayerCache"],
    "model": ["GPTConfig", "FeedForward", "Block", "GPT"],
    "sampling": ["keep_top_k", "keep_top_p", "distribution", "stream", "generate", "complete"],
    "rows": ["few_rows"],
    "training": ["evaluate", "train"],
}


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
    parts = {name.partition(".")[0] for name in MODULES} - {"__init__"}
    assert parts <= set(MAY_IMPORT), "a new module: say here what it may import"
    for name, tree in MODULES.items():
        if name != "__init__":
            allowed = MAY_IMPORT[name.partition(".")[0]]
            assert imported(tree) <= allowed, f"{name} imports {imported(tree) - allowed}"


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


def test_public_names_stand_in_the_order_of_the_course():
    for module, names in PUBLIC.items():
        for name in names:
            assert getattr(gptlib, name) is getattr(getattr(gptlib, module), name)
    lines = [node.module for node in MODULES["__init__"].body if isinstance(node, ast.ImportFrom)]
    order = [line.removeprefix("gptlib.") for line in lines if line.startswith("gptlib.")]
    assert [module for module in order if module in PUBLIC] == list(PUBLIC)


def ignored():
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    return [line.rstrip("/") for line in lines] + [".git"]


def test_only_what_belongs_lies_at_the_top():
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    entries = {line.split("/")[0].strip('"') for line in git.stdout.splitlines()}
    if not entries:  # a download without git
        entries = {p.name for p in ROOT.iterdir() if not any(fnmatch.fnmatch(p.name, i) for i in ignored())}
    assert entries - TOP_LEVEL == set()
    assert [name for name in sorted(TOP_LEVEL - {".gitattributes"}) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_resolve(path):
    text = path.read_text(encoding="utf-8")
    assert broken(text, path.parent) == []
    inside = [target[1:] for target in links(text)[0] if target.startswith("#")]
    assert set(inside) - anchors(text) == set(), "a link leads to no heading of the page"


def test_the_readme_leads_to_every_notebook():
    followed, _ = links((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS} - set(followed) == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_readme_gives_the_minutes_of_the_headers(path):
    stated = r"\*\*Time\*\* about (\d+) minutes to read(?:, and (\d+) for the exercises)?;"
    read, practise = re.search(stated, path.read_text(encoding="utf-8")).groups(default="")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith("|") and f"](notebooks/{path.name})" in line)
    assert [cell.strip() for cell in row.split("|")][3:5] == [read, practise]


def test_every_data_file_has_its_checksum_on_the_page():
    files = [path for path in sorted((ROOT / "data").rglob("*")) if path.is_file()]
    files = [path for path in files if path.suffix not in (".md", ".py") and path.name != "LICENSE"]
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
