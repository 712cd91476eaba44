"""Which code, data and libraries the stored outputs of a notebook depend on, as one checksum.

The rule. A notebook reaches a module of gptlib when it uses its name (`gptlib.model`, or `plot` after
`from gptlib import plot`) or a name that `gptlib/__init__.py` imports from it (`gptlib.GPT`). From there, every import
is followed. What cannot be resolved (a bare `gptlib`, an alias, a star, a cell that is no Python) reaches every module.
A package inside gptlib is one module with all its files. Of each module that is reached, the syntax tree counts without
docstrings, so comments do not count either. The data and the versions of the libraries that compute and draw count for
every notebook. The set-up cells and the exercises' checks do not count: no stored output depends on them.

Importing a module must therefore change no output by itself: what only `gptlib/__init__.py` imports is not followed.
"""

import ast
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "numpy", "matplotlib")


def without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return tree


def canonical(node: object) -> str:
    """The tree as text, the same in every version of Python: `ast.dump` differs in which empty fields it shows."""
    if isinstance(node, list):
        return "[" + ",".join(map(canonical, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name != "kind"]
    given = [f"{name}={canonical(value)}" for name, value in fields if value is not None and value != []]
    return f"{type(node).__name__}({','.join(given)})"


class Package:
    """The modules of gptlib under `root`: their files, trees, and how they import each other."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.files: dict[str, list[Path]] = {}
        self.trees: dict[str, list[ast.AST]] = {}
        for path in sorted((root / "gptlib").rglob("*")):
            name = path.relative_to(root / "gptlib").parts[0].removesuffix(".py")
            if path.is_file() and "__pycache__" not in path.parts:
                self.files.setdefault(name, []).append(path)
                if path.suffix == ".py":
                    tree = without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
                    self.trees.setdefault(name, []).append(tree)
        self.exported: dict[str, str] = {}  # name -> the module that gptlib/__init__.py imports it from
        for node in [node for tree in self.trees.get("__init__", []) for node in ast.walk(tree)]:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gptlib."):
                self.exported |= {alias.asname or alias.name: str(node.module).split(".")[1] for alias in node.names}

    def resolve(self, name: str) -> set[str]:
        """The modules behind `gptlib.name`: all of them when the name is not known."""
        if name == "__version__":
            return set()
        found = self.exported.get(name, name)
        return {found} if found in self.trees else set(self.trees) - {"__init__"}

    def named(self, tree: ast.AST, only_used: bool = False, name: str = "") -> set[str]:
        """The modules that a piece of code names; with `only_used`, an imported name counts only when it is used."""
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        found: set[str] = set()
        bases = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gptlib":
                bases.add(id(node.value))
                found |= self.resolve(node.attr)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("gptlib."):
                        found |= self.resolve(alias.name.split(".")[1])
                    elif alias.name == "gptlib" and alias.asname:
                        found |= self.resolve("*")
            elif isinstance(node, ast.ImportFrom):
                module = (node.module or "").split(".")
                if node.level or module[0] == "gptlib":
                    part = module[0] if node.level else ".".join(module[1:2])
                    names = [
                        a.name for a in node.names if not only_used or a.name == "*" or (a.asname or a.name) in used
                    ]
                    if node.level == 1 and len(self.files.get(name, [])) > 1:
                        continue  # within a package: all of its files count anyway
                    found |= self.resolve(part) if part and names else set().union(*map(self.resolve, names))
        if any(isinstance(n, ast.Name) and n.id == "gptlib" and id(n) not in bases for n in ast.walk(tree)):
            found |= self.resolve("*")
        return found

    def reached(self, tree: ast.AST) -> set[str]:
        """The modules that a notebook's code reaches, directly or through others."""
        found: set[str] = set()
        new = self.named(tree, only_used=True)
        while new:
            found |= new
            trees = [(name, tree) for name in new for tree in self.trees[name]]
            new = set().union(*(self.named(tree, name=name) for name, tree in trees)) - found
        return found

    def data(self) -> list[Path]:
        """The files of data/, without pages and the scripts that made them."""
        paths = sorted((self.root / "data").rglob("*"))
        return [path for path in paths if path.is_file() and path.suffix not in (".md", ".py", ".pyc")]


def code_of(nb) -> ast.AST:
    """The notebook's code as one tree; lines for IPython are left out."""
    cells = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    lines = ["\n".join(line for line in cell.splitlines() if line.lstrip()[:1] not in ("%", "!")) for cell in cells]
    body: list[ast.stmt] = []
    for cell in lines:
        try:
            body += ast.parse(cell).body
        except SyntaxError:  # not Python: what it uses is unknown
            body += ast.parse("gptlib").body
    return ast.Module(body=body, type_ignores=[])


def digest(nb, package: Package) -> str:
    """The checksum of a notebook's code and of all that its outputs depend on."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code" and cell.get("id") not in ("set-up", "imports")]
    found = hashlib.sha256(
        json.dumps([[cell.source, sorted(cell.metadata.get("tags", []))] for cell in cells]).encode()
    )
    for name in sorted(package.reached(code_of(nb))):
        found.update(name.encode() + "".join(map(canonical, package.trees[name])).encode())
        for path in package.files[name]:
            if path.suffix != ".py":
                found.update(path.name.encode() + path.read_bytes())
    for path in package.data():
        found.update(path.relative_to(package.root).as_posix().encode() + path.read_bytes())
    for library in LIBRARIES:
        found.update(f"{library} {version(library).partition('+')[0]}".encode())  # CPU and CUDA builds count as one
    return found.hexdigest()
