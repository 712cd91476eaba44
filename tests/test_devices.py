"""The classes built on the pages run on the device of their input, so that a reader with a GPU can use them there.

The meta device stands in for a GPU: its tensors have a shape and no numbers.
"""

import ast
import inspect

import pytest
import torch
from test_notebooks import NOTEBOOKS, RAISES, code_cells, load, tags
from torch import nn

from conftest import OneDevice
from gptlib import GPTConfig

V, T, C = 11, 4, 8
SIZES = {  # by the names that the pages give to the arguments of their classes
    "vocab_size": V, "V": V, "n_embd": C, "C": C, "head_size": C // 2, "n_head": 2, "n_layer": 2, "T": T, "k": 2,
    "n_kv_head": 1, "n_hidden": C,
    "context_length": T, "config": GPTConfig(V, T, n_layer=2, n_head=2, n_embd=C), "low": 1, "high": 2,
    "middle": nn.Identity(), "attention": nn.Identity(), "encoder": nn.Embedding(V, C, device="meta"),
}  # fmt: skip
REQUIRED = {"base": nn.Linear(C, C, device="meta"), "rank": 2}  # arguments that other pages give default values to
INPUTS = {"idx": torch.zeros(2, T, dtype=torch.long, device="meta"), "x": torch.zeros(2, T, C, device="meta")}
INPUTS |= {"memory": torch.zeros(2, T + 1, C, device="meta"), "ids": INPUTS["idx"]}
INPUTS |= {"turn": (torch.zeros(T, C // 4, device="meta"),) * 2}  # cosine and sine, for the pairs of a head
INPUTS |= {"mask": torch.ones(2, 1, 1, T, dtype=torch.bool, device="meta")}
INPUTS |= {"contexts": INPUTS["idx"][:, :2], **dict.fromkeys("qkv", torch.zeros(2, 2, T, C // 2, device="meta"))}


def constant(node):
    """Whether a statement gives names in capitals to values that are written out: PAD, START = 0, 1"""
    if not isinstance(node, ast.Assign):
        return False
    names = [name.id for name in ast.walk(node.targets[0]) if isinstance(name, ast.Name)]
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return all(name.isupper() for name in names)


def definitions(path):
    """What a page imports and defines, as a list of statements."""
    cells = [cell for cell in code_cells(load(path)) if RAISES not in tags(cell)]
    return [
        node
        for cell in cells
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Import | ast.FunctionDef | ast.ClassDef)
        or constant(node)
        or (isinstance(node, ast.ImportFrom) and node.module != "checks")
    ]


def modules(path):
    """The names of a page's classes that are modules of PyTorch."""
    names = {"nn.Module"}
    for node in definitions(path):
        if isinstance(node, ast.ClassDef) and names & {ast.unparse(base) for base in node.bases}:
            names.add(node.name)
    return sorted(names - {"nn.Module"})


def run_elsewhere(module):
    """Build the class on the meta device, and call it with inputs that lie there; its output must lie there too."""
    given = inspect.signature(module.__init__).parameters.values()
    sizes = SIZES | {p.name: REQUIRED[p.name] for p in given if p.name in REQUIRED and p.default is p.empty}
    with torch.device("meta"):
        built = module(**{p.name: sizes[p.name] for p in given if p.name in sizes})
    wanted = [p.name for p in inspect.signature(built.forward).parameters.values() if p.default is p.empty]
    with OneDevice():
        assert built(**{name: INPUTS[name] for name in wanted}).device.type == "meta"


CLASSES = [(path, name) for path in NOTEBOOKS for name in modules(path)]


@pytest.mark.parametrize("path, name", CLASSES, ids=[f"{path.stem[:2]}-{name}" for path, name in CLASSES])
def test_a_class_of_the_page_follows_its_input(path, name):
    space = {"__name__": path.stem, **SIZES}
    exec(compile(ast.Module(definitions(path), []), path.name, "exec"), space)
    run_elsewhere(space[name])


class Positions(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.table = nn.Embedding(T, n_embd)

    def forward(self, x):
        return x + self.table(torch.arange(x.shape[1]))


class Mask(nn.Module):
    def forward(self, x):
        return (x @ x.mT).masked_fill(torch.ones(T, T).triu(1) == 1, -torch.inf)


class Constant(nn.Module):
    def __init__(self, T):
        super().__init__()
        with torch.device("cpu"):
            self.weights = torch.ones(T, T)

    def forward(self, x):
        return self.weights @ x


@pytest.mark.parametrize("module", [Positions, Mask, Constant])
def test_a_tensor_on_the_wrong_device_is_noticed(module):
    with pytest.raises(RuntimeError):
        run_elsewhere(module)
