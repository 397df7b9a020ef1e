"""The error that mask optimizers lower, and the choices that they are incompatible with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier.methods.base import Axes
from espalier.methods.quadratic import squared_output_error

if TYPE_CHECKING:
    from torch import Tensor


def mask_errors(weight_OI: Tensor, mask_OI: Tensor, gram_II: Tensor) -> Tensor:
    """Return ||X (w - m*w)||^2 of every row, float64 (O,), from G = X^T X."""
    return squared_output_error(weight_OI.masked_fill(mask_OI, 0), gram_II)


def refuse_optimizer(axes: Axes, name: str) -> str | None:
    """Refuse a mask optimizer where no single weight may move, or where the update chooses its own mask; return why."""
    if axes.pattern.line((1, 1)) is None:
        return f"`{name}` exchanges single weights, and the pattern moves whole units: use unstructured or nm"
    if axes.solver is not None and axes.solver.chooses_mask:
        return f"the update chooses the mask itself and would undo `{name}`: use least_squares, or no optimizer"
    return None
