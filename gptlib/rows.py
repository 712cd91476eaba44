"""Rows: the same matrix products, in an order that suits the few rows of a text being drawn.

A training step multiplies a matrix with thousands of rows, drawing text with one row for each text: then nearly all of
the time goes into reading the matrix from memory, and the order in which it is read decides.

B batch · T positions · C channels in · O channels out
"""

from torch import Tensor, nn

FEW = 4  # rows; with more, the usual order is as fast


class FewRows(nn.Linear):
    """A linear layer that multiplies up to four rows as W xᵀ, transposed back, and more rows as usual, x Wᵀ.

    To an algebra book both are one product. To the library that computes it, the first is a matrix times a few
    columns, read once in the order in which it is stored. A single row goes in twice, since one column alone is
    passed to another routine, which is slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., O)"""
        rows = x.reshape(-1, self.in_features)  # (B * T, C)
        if not 0 < len(rows) <= FEW:
            return super().forward(x)
        pair = rows.repeat(2, 1) if len(rows) == 1 else rows
        y = (self.weight @ pair.mT).mT[: len(rows)].unflatten(0, x.shape[:-1])  # (..., O)
        return y if self.bias is None else y + self.bias


def few_rows(model: nn.Module) -> nn.Module:
    """Turn every linear layer of `model` that does not narrow into `FewRows`, in place: same weights, same results.

    For one to four texts drawn at a time by a large model on a processor; small ones gain nothing.
    `tests/benchmarks/generation.py` says how much it brings on yours, with and without.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.out_features >= module.in_features:
            module.__class__ = FewRows
    return model
