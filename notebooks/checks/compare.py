"""Whether two results are the same, and in what they differ: the symptoms that are told when no known mistake fits."""

import contextlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from .report import Mistake, dtype_name, kind


def plain(value) -> int | float | None:
    """A number as Python knows it, or None: int, float, and tensors or arrays that hold one number."""
    if isinstance(value, (int, float, Fraction)):
        return float(value) if isinstance(value, Fraction) else value
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        with contextlib.suppress(RuntimeError, ValueError):
            return value.item()
    return None


def as_asked(result, right):
    """The result as the kind of value that is expected, where nothing is lost: a tensor from a list or an array."""
    if isinstance(right, Tensor) and not isinstance(result, Tensor):
        if isinstance(result, (list, tuple)) and result or hasattr(result, "__array__"):
            with contextlib.suppress(RuntimeError, TypeError, ValueError):
                return torch.as_tensor(result)
    if isinstance(right, (list, tuple)) and isinstance(result, (list, tuple)):
        if len(result) == len(right):
            result = [as_asked(one, other) for one, other in zip(result, right)]
        return type(right)(result)
    return result


def same(one, other, tolerance: float = 1e-4) -> bool:
    """Whether two results hold the same values, whatever dtype holds them. Two exceptions are compared by type."""
    if isinstance(one, BaseException) or isinstance(other, BaseException):
        return type(one) is type(other) and (not isinstance(one, Mistake) or one.why == other.why)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or "meta" in (one.device.type, other.device.type):
            return False
        one, other = (value.detach().cpu().to_dense().double() for value in (one, other))
        return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(other, (tuple, list)):
        alike = isinstance(one, (tuple, list)) and len(one) == len(other)
        return alike and all(same(x, y, tolerance) for x, y in zip(one, other))
    if isinstance(other, dict):
        return isinstance(one, dict) and set(one) == set(other) and all(same(one[k], other[k], tolerance) for k in one)
    if isinstance(other, (int, float)):
        value = plain(one)
        if not isinstance(value, (int, float)) or isinstance(value, bool) != isinstance(other, bool):
            return False
        both_nan = value != value and other != other
        return both_nan or value == other or abs(value - other) <= tolerance * max(1, abs(other))
    return type(one) is type(other) and bool(one == other)


def unlike(result, right) -> str | None:
    """What kind of value was returned in place of the expected one, or of what shape; None when these are right."""
    if isinstance(right, Tensor):
        if not isinstance(result, Tensor):
            stack = ": `torch.stack` joins a list of tensors" if isinstance(result, (list, tuple)) and result else ""
            return f"it returns {kind(result)}, and a tensor is expected{stack}"
        if result.shape != right.shape:
            return f"the shape is {tuple(result.shape)}, expected {tuple(right.shape)}" + axis_of_one(result, right)
        if result.device != right.device:
            return f"the result is on the device {result.device}, its input on {right.device}: keep the input's device"
    elif isinstance(right, (tuple, list)):
        if not isinstance(result, (tuple, list)):
            return f"it returns {kind(result)}, and {kind(right)} is expected"
        if len(result) != len(right):
            return f"it returns {kind(result)} of length {len(result)}, expected length {len(right)}"
        for index, (one, other) in enumerate(zip(result, right)):
            if problem := unlike(one, other):
                return f"at index {index} of what it returns: {problem}"
    elif isinstance(right, (int, float)) and not isinstance(right, bool):
        if plain(result) is None or isinstance(result, bool):
            return f"it returns {kind(result)}, and a number is expected"
    elif type(result) is not type(right):
        return f"it returns {kind(result)}, and {kind(right)} is expected"
    return None


def axis_of_one(result: Tensor, right: Tensor) -> str:
    """What to add to two shapes that differ by an axis of size 1."""
    for more, fewer, said in ((result, right, "too many"), (right, result, "is lost")):
        if more.shape in [fewer.unsqueeze(axis).shape for axis in range(fewer.ndim + 1)]:
            return f": an axis of size 1 {said}"
    return ""


def wrong_dtype(result, right) -> str | None:
    """What to say of right values in the wrong dtype: float32 and float64 are alike, and so are all integers."""
    if isinstance(right, (list, tuple)):
        return next((found for pair in zip(result, right) if (found := wrong_dtype(*pair))), None)
    if not isinstance(right, Tensor):
        return None
    for dtypes, wanted in (
        ([torch.float32, torch.float64], "floating-point numbers (float32)"),
        ([torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], "integers (int64)"),
        ([torch.bool], "booleans"),
    ):
        if right.dtype in dtypes and result.dtype not in dtypes:
            return f"the values are right, but the result holds {dtype_name(result.dtype)}, and {wanted} are expected"
    return None


def degenerate(results: Sequence, rights: Sequence) -> str | None:
    """Whether an answer returns nothing, only zeros, or the same in every case: then no known mistake is meant."""
    if len(results) < 2 or any(type(result) is not type(right) for result, right in zip(results, rights)):
        return None
    if all(hasattr(result, "__len__") for result in results) and not isinstance(results[0], Tensor):
        if not any(map(len, results)) and any(map(len, rights)):
            return "the result is empty in every case"
    if isinstance(results[0], Tensor) and all(value.device.type == "cpu" for value in results):
        if not any(result.any() for result in results) and all(right.any() for right in rights):
            return "every number in the result is 0, in every case"
    one_result, one_right = (all(same(value, values[0]) for value in values) for values in (results, rights))
    if one_result and not one_right and not_finite(results[0], rights[0]) is None:
        return f"it returns the same in each of {len(results)} different cases: what does it take from its inputs?"
    return None


def symptom(result, right) -> str:
    """In what a result of the right kind and shape differs from the right one."""
    if isinstance(right, Tensor):
        result, right = result.detach().cpu().to_dense().double(), right.detach().double()
        return likeness(result, right) or whereabouts(result, right) or "the numbers differ"
    if isinstance(right, (list, tuple)):
        index = next(i for i, pair in enumerate(zip(result, right)) if not same(*pair))
        if len(right) > 1 and all(isinstance(part, Tensor) for part in (result[index], right[index])):
            return f"at index {index} of what it returns: {symptom(result[index], right[index])}"
        return f"the first difference is at index {index}"
    return "the result differs"


def not_finite(result, right) -> str | None:
    if not isinstance(right, Tensor) or not isinstance(result, Tensor) or result.shape != right.shape:
        value = plain(result) if isinstance(right, (int, float)) else None
        return "the result is nan" if value is not None and value != value and right == right else None
    bad = result.detach().isnan() & ~right.isnan()
    said = "nan (from 0 / 0, 0 · inf, inf - inf, or a softmax over a row of only -inf)"
    return f"{how_many(bad)} {said}" if bad.any() else None


def how_many(those: Tensor) -> str:
    return "every number is" if those.all() else f"{int(those.sum())} of {those.numel()} numbers are"


def rounded(result, right) -> str | None:
    """Whether right numbers were rounded, and to what; a tensor of only two values may hold integers by itself."""
    low = isinstance(result, Tensor) and result.dtype in (torch.float16, torch.bfloat16)
    if isinstance(right, (int, float)) and not isinstance(right, bool):
        result, right = torch.tensor(float(plain(result))), torch.tensor(float(right))
    if not isinstance(right, Tensor) or not result.numel():
        return None
    values, right = result.detach().cpu().to_dense().double(), right.detach().double()
    if low and torch.allclose(values, right, rtol=0.02, atol=0.02):
        return f"the result holds {dtype_name(result.dtype)}, which keeps only two or three digits: use float32"
    for places in range(4):
        if torch.allclose(values, values.round(decimals=places), rtol=0, atol=1e-6):
            near = (values - right).abs().max() <= 0.501 * 10**-places
            if near and (values.unique().numel() > 2 or (places and values.numel() == 1)):
                return "the numbers are rounded to " + ("integers", "1 decimal", "2 decimals", "3 decimals")[places]
    return None


def likeness(result: Tensor, right: Tensor) -> str | None:
    """How wrong numbers of the right shape relate to the right ones, when they do so plainly."""

    def close(one, other):
        return torch.allclose(one, other, rtol=1e-3, atol=1e-4)

    if result.ndim >= 2 and result.shape[-1] == result.shape[-2] and close(result, right.mT):
        return "transposed: rows and columns are exchanged"
    for found, wanted, said in ((result, right, "infinite"), (right, result, "finite, not infinite as expected")):
        if (odd := found.isinf() & wanted.isfinite()).any():
            return f"{how_many(odd)} {said}"
    finite = right.isfinite()
    if close(result, -right):
        return "the sign is wrong everywhere"
    result, right = result[finite], right[finite]
    if not result.isfinite().all():
        return None
    if result.numel() > 1:
        factor = (result * right).sum() / right.square().sum().clamp(min=1e-12)
        if factor.abs() > 1e-3 and close(result, factor * right):
            return f"every number is {factor.item():.3g} times what it should be"
        if close(result - right, (result - right).mean().expand_as(right)):
            return f"every number is off by the same amount, {(result - right).mean().item():.3g}"
        if (right.abs() > 1e-6).all() and close(result, 1 / right):
            return "every number is the reciprocal of what it should be"
        if close(result.flatten().sort().values, right.flatten().sort().values):
            return "the right numbers in the wrong order"
    return None


def whereabouts(result: Tensor, right: Tensor) -> str | None:
    """Where numbers are wrong, if whole windows, heads, rows or columns are right."""
    wrong, found = ~torch.isclose(result, right, rtol=1e-3, atol=1e-3, equal_nan=True), []
    names = {1: ["index"], 2: ["row", "column"], 3: ["window", "row", "column"]}
    for axis, name in enumerate(names.get(wrong.ndim, ["window", "head", "row", "column"][: wrong.ndim])):
        slices = wrong.transpose(0, axis).flatten(1) if wrong.ndim > 1 else wrong[:, None]
        indices = slices.any(dim=1).nonzero().flatten().tolist()
        if 0 < len(indices) < len(slices):
            found.append(located(name, indices, len(slices)))
    return f"the numbers are wrong {', '.join(found)}, and right everywhere else" if found else None


def located(name: str, indices: list[int], size: int) -> str:
    """
    >>> located("row", [2, 3], 4), located("head", [1], 2), located("row", [0, 2], 4)
    ('from row 2 on', 'in head 1', 'in rows 0 and 2')
    """
    first, last, plural = indices[0], indices[-1], "indices" if name == "index" else f"{name}s"
    if first == last:
        return f"in the last {name} ({last})" if 2 < size == last + 1 else f"in {name} {first}"
    if len(indices) == last - first + 1:
        return f"from {name} {first} on" if last == size - 1 else f"in {plural} {first} to {last}"
    *others, end = indices if len(indices) < 6 else [*indices[:4], "more"]
    return f"in {plural} {', '.join(map(str, others))} and {end}"


def number_symptom(values: Sequence[float], rights: Sequence[float], coarse: bool = False) -> str:
    """How wrong numbers relate to the right ones: over all cases, or for a single prediction (`coarse`)."""
    if odd := [value for value in values if not math.isfinite(value)]:
        return f"{odd[0]:g} cannot be right: the right value is finite"
    said = "the result is" if len(values) == 1 or coarse else "every result is"

    def all_close(change: Callable[[float], float]) -> bool:
        return all(abs(value - change(right)) <= 2e-3 * abs(change(right)) for value, right in zip(values, rights))

    if 0 not in rights:
        for change, name in (
            (lambda right: -right, "the negative of what it should be"),
            (lambda right: 1 / right, "the reciprocal of what it should be"),
            (lambda right: 100 * right, "a percentage, 100 times what it should be"),
        ):
            if all_close(change):
                return f"{said} {name}"
        ratio = values[0] / rights[0]
        if coarse and ratio > 0 and not 0.67 < ratio < 1.5:
            times = float(f"{max(ratio, 1 / ratio):.1g}")
            return f"{values[0]:g} is about {times:g} times too {'large' if ratio > 1 else 'small'}"
        if not coarse and abs(ratio) > 1e-6 and all_close(lambda right: ratio * right):
            return f"{said} {ratio:.3g} times what it should be"
    return f"{values[0]:g} is too {'high' if values[0] > rights[0] else 'low'}"


def looks_ahead(weights: Tensor, *inputs) -> str | None:
    """A clue for causal weights (..., T, T): the first entry above the diagonal that is not 0."""
    ahead = (weights.detach().triu(1).abs() > 1e-6).nonzero()[:, -2:].tolist()
    return f"row {ahead[0][0]} attends to column {ahead[0][1]}: the future leaks" if ahead else None


def rows_sum_to_one(weights: Tensor, *inputs) -> str | None:
    """A clue for weights (..., T, T) and tables of probabilities: which sums are 1, and which are not."""
    across, down = weights.detach().sum(dim=-1).flatten(), weights.detach().sum(dim=-2)
    row = (across - 1).abs().argmax().item()
    if abs(across[row].item() - 1) < 1e-3:
        return None
    if torch.allclose(down, torch.ones_like(down), atol=1e-3):
        return "columns sum to 1, rows do not"
    return f"a row sums to {across[row].item():.2f}, and every row must sum to 1"


def tensors(seed: int, *sizes: tuple, spread: float = 2.0) -> list[Tensor]:
    """Normally distributed numbers with one decimal, so that an example can be read."""
    generator = torch.Generator().manual_seed(seed)
    return [(spread * torch.randn(size, generator=generator)).round(decimals=1).add(0.0) for size in sizes]


class Reader(nn.Module):
    """A small model with dropout that uses all of its window, and records what it reads and how it is called."""

    def __init__(self, context_length: int):
        super().__init__()
        torch.manual_seed(5)
        self.table, self.dropout = nn.Embedding(4, 4), nn.Dropout(0.5)
        self.context_length, self.windows, self.grad = context_length, [], False

    def forward(self, idx: Tensor) -> Tensor:
        if idx.ndim != 2 or idx.shape[1] > self.context_length:
            raise ValueError(f"the model takes idx (B, T) with T ≤ {self.context_length}, got {tuple(idx.shape)}")
        if self.training:
            raise Mistake("the model is called in training mode: with its dropout on, the loss is random")
        self.windows, self.grad = self.windows + idx.tolist(), self.grad or torch.is_grad_enabled()
        return self.dropout(self.table(idx) + self.table(idx).cumsum(dim=1) / 2)


def obeys_generator(sample: Callable) -> Callable:
    """A demand: `sample(answer, generator)` depends on the generator's state and on no other randomness."""

    def demand(answer) -> str | None:
        samples = []
        for outer, seed in ((1, 7), (2, 7), (2, 8)):
            torch.manual_seed(outer)
            samples.append(sample(answer, torch.Generator().manual_seed(seed)))
        if not same(samples[0], samples[1]):
            return "two calls with the same seed differ: the generator is not used"
        alike = same(samples[1], samples[2])
        return "two seeds give the same samples: the generator is not used" if alike else None

    return demand
