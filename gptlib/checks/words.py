"""What a check says: kinds of values, errors in a line, and a counter-example as a little table."""

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def a(value) -> str:
    """The kind of a value with its article: 'a list', 'an int', 'nothing'."""
    kind = "tensor" if isinstance(value, Tensor) else "function" if inspect.isfunction(value) else type(value).__name__
    return "nothing" if value is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def type_name(dtype: torch.dtype) -> str:
    """
    >>> type_name(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


def told(error: BaseException) -> str:
    """An error in one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}" if lines else type(error).__name__


def shortened(value, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rows_of(value, decimals: int = 2) -> list[str]:
    """A value as lines of text: a small matrix, also as the only one of its batch, in columns; else one line."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else None
    while isinstance(value, Tensor) and value.ndim > 2 and len(value) == 1:
        value = value[0]
    if isinstance(value, Tensor) and value.device.type != "meta" and 1 <= value.ndim <= 2 and value.numel():
        value = value.detach().cpu().to_dense()
        table = value if value.ndim == 2 else value[None]
        if max(table.shape) <= 8:
            whole = not table.is_floating_point()
            cells = [[f"{int(x)}" if whole else f"{x:.{decimals}f}" for x in row] for row in table.tolist()]
            width = max(len(cell) for row in cells for cell in row)
            return ["  ".join(cell.rjust(width) for cell in row) for row in cells]
    if isinstance(value, Tensor):
        if value.ndim or value.device.type == "meta":
            return [f"a tensor {shape} of {type_name(value.dtype)}"]
        return [f"{value.item():.4g}"]
    return [f"{value:.4g}" if isinstance(value, float) else shortened(value, 100)]


def named(inputs: tuple, function: Callable) -> str:
    """The inputs of a case, under the names that the expected function gives them."""
    names = [*inspect.signature(function).parameters, *(f"input {i}" for i in range(len(inputs)))]
    return "\n".join(side_by_side([(f"{label} =", rows_of(value))]) for label, value in zip(names, inputs))


def side_by_side(blocks: Sequence[tuple[str, list[str]]]) -> str:
    """Titled blocks of lines: one block beside its title, several next to each other under theirs."""
    if len(blocks) == 1:
        title, lines = blocks[0]
        return "\n".join(f"  {title if i == 0 else ' ' * len(title)} {line}".rstrip() for i, line in enumerate(lines))
    columns = [[title, *lines] for title, lines in blocks]
    height, widths = max(map(len, columns)), [max(map(len, column)) for column in columns]
    columns = [column + [""] * (height - len(column)) for column in columns]
    return "\n".join(
        "  " + "     ".join(line.ljust(w) for line, w in zip(row, widths)).rstrip() for row in zip(*columns)
    )


def counter_example(inputs: tuple, result, right, function: Callable) -> str:
    """A little table: the inputs, then yours beside expected, or the first places where they differ."""
    parts = [named(inputs, function)]
    if isinstance(right, Tensor) and isinstance(result, Tensor) and right.shape == result.shape and right.numel():
        if right.shape[:-2].numel() > 1 or max(right.shape[-2:], default=1) > 8:
            return "\n\n".join([*parts, differing_places(result, right)])
    decimals = next((n for n in (2, 3, 4) if rows_of(result, n) != rows_of(right, n)), 2)
    parts.append(side_by_side([("yours", rows_of(result, decimals)), ("expected", rows_of(right, decimals))]))
    return "\n\n".join(part for part in parts if part)


def differing_places(result: Tensor, right: Tensor, most: int = 4) -> str:
    if result.device.type == "meta":
        return ""  # such a tensor has a shape and no numbers
    result, right = result.detach().cpu().to_dense().double(), right.double()
    places = (~torch.isclose(result, right, rtol=1e-4, atol=1e-4, equal_nan=True)).nonzero()[:most].tolist()
    if not places:
        return ""
    pairs = [(result[tuple(place)].item(), right[tuple(place)].item()) for place in places]
    decimals = next((n for n in (2, 3) if all(f"{x:.{n}f}" != f"{y:.{n}f}" for x, y in pairs)), 4)
    values = [(str(place), *(f"{x:.{decimals}f}" for x in pair)) for place, pair in zip(places, pairs)]
    return side_by_side([(title, list(column)) for title, column in zip(("place", "yours", "expected"), zip(*values))])
