"""What a check says: the message of a mistake, values as small tables, and a counter-example."""

import linecache
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
LIBRARIES = (str(HERE), str(HERE.parent.parent / "gptlib"), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
LIBRARIES += (str(Path(torch.__file__).parent), "<frozen", "<edited solution>")
WIDEST = 12  # numbers in one direction that are still printed


class Mistake(AssertionError):
    """What is wrong with an answer: `why` in a sentence, `where` names the part of the answer, `example` shows it.

    A notebook shows the message alone, without a traceback through the checks.
    """

    def __init__(self, why: str, example: str = "", where: str = ""):
        super().__init__(why)
        self.why, self.example, self.where = why, example, where

    def __str__(self) -> str:
        first = ": ".join(part for part in ("Not yet", self.where, self.why) if part)
        first += "" if first.endswith(("?", ".")) else "."
        return "\n\n".join(part for part in (first, self.example) if part)

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def kind(value) -> str:
    """The kind of a value with its article: 'a list', 'an int', 'nothing'."""
    name = "tensor" if isinstance(value, Tensor) else type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' or name == 'ndarray' else 'a'} {name}"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shortened(value, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}" if lines else type(error).__name__


def line_of(error: BaseException) -> str:
    """The last line of the learner's own code that an exception came through: ' in line 2: `x = y`', or ''."""
    steps = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    own = [step for step in steps if not step[0].startswith(LIBRARIES)]
    if not own:
        return ""
    source = linecache.getline(*own[-1]).strip()
    source = source if len(source) <= 80 else source[:79] + "…"
    return f" in line {own[-1][1]}" + (f": `{source}`" if source else "")


def described(value: Tensor) -> str:
    return f"a tensor {tuple(value.shape)} of {dtype_name(value.dtype)}"


def rows(value, decimals: int = 2) -> list[str]:
    """A value as lines of text: a small tensor as a table (a batch as several), anything else in one line."""
    if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and any(isinstance(part, Tensor) for part in value.values()):
        parts = [titled(f"[{name!r}]", rows(part, decimals)).splitlines() for name, part in value.items()]
        return [line.removeprefix("  ") for part in parts for line in part]
    if not isinstance(value, Tensor):
        return [f"{value:.4g}" if isinstance(value, float) else shortened(value, 100)]
    large = value.ndim > 3 or value.shape[:-1].numel() > WIDEST or max(value.shape, default=1) > WIDEST
    if large or value.device.type == "meta" or not value.numel():
        return [described(value)]
    value = value.detach().cpu().to_dense()
    if value.ndim == 0:
        return [f"{value.item():.4g}"]
    if value.ndim == 3:
        tables = [rows(table, decimals) for table in value]
        return [line for i, table in enumerate(tables) for line in ([""] if i else []) + table]
    table = value if value.ndim == 2 else value[None]
    cells = [[f"{x:.{decimals}f}" if value.is_floating_point() else f"{x:d}" for x in row] for row in table.tolist()]
    width = max(len(cell) for row in cells for cell in row)
    return ["  ".join(cell.rjust(width) for cell in row) for row in cells]


def titled(title: str, lines: Sequence[str]) -> str:
    return "\n".join(f"  {title if i == 0 else ' ' * len(title)} {line}".rstrip() for i, line in enumerate(lines))


def side_by_side(*blocks: tuple[str, Sequence[str]]) -> str:
    """Blocks of lines under their titles, next to each other where they fit into 100 characters, else one below."""
    columns = [[title, *lines] for title, lines in blocks]
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + 5 * len(widths) > 100:
        return "\n".join(f"  {line}".rstrip() for column in columns for line in column)
    height = max(map(len, columns))
    filled = [column + [""] * (height - len(column)) for column in columns]
    return "\n".join("  " + "     ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*filled))


def inputs_shown(inputs: tuple, names: Sequence[str], brief: bool = False) -> str:
    """The inputs of a case by name; `brief` shows the shape alone of a tensor that takes more than four lines."""
    shown = []
    for name, value in zip([*names, *(f"input {i}" for i in range(len(names), len(inputs)))], inputs):
        lines = rows(value)
        small = not brief or len(lines) <= 4 or not isinstance(value, Tensor)
        shown.append(titled(f"{name} =", lines if small else [described(value)]))
    return "\n".join(shown)


def counter_example(inputs: tuple, names: Sequence[str], result, right) -> str:
    """The inputs, then the result beside the right one, or the first entries where two large tensors differ."""
    given = inputs_shown(inputs, names)
    if isinstance(result, BaseException):
        return inputs_shown(inputs, names, brief=True)
    if isinstance(right, Tensor) and isinstance(result, Tensor) and right.shape == result.shape:
        if right.ndim > 3 or right.ndim > 2 and len(right) > 1 or max(right.shape, default=1) > WIDEST:
            return f"{given}\n\n{differing_entries(result, right)}".rstrip()
    decimals = next((n for n in (2, 3, 4) if rows(result, n) != rows(right, n)), 2)
    return f"{given}\n\n" + side_by_side(("yours", rows(result, decimals)), ("expected", rows(right, decimals)))


def differing_entries(result: Tensor, right: Tensor, most: int = 4) -> str:
    if result.device.type == "meta":
        return ""  # such a tensor has a shape and no numbers
    result, right = result.detach().cpu().to_dense().double(), right.detach().double()
    where = (~torch.isclose(result, right, rtol=1e-4, atol=1e-4, equal_nan=True)).nonzero()[:most].tolist()
    pairs = [(result[tuple(index)].item(), right[tuple(index)].item()) for index in where]
    decimals = next((n for n in (2, 3) if all(f"{x:.{n}f}" != f"{y:.{n}f}" for x, y in pairs)), 4)
    columns = [[str(index) for index in where], *([f"{x:.{decimals}f}" for x in column] for column in zip(*pairs))]
    return side_by_side(*zip(("index", "yours", "expected"), columns))
