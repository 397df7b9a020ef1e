"""LAMP: the layer-wise sparsities that one global threshold on LAMP scores gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.allocation import (
    counts_below_threshold,
    refuse_fixed_sparsity,
    refuse_global,
    refuse_units,
)
from espalier.methods.base import Axes, Budget, Cost, MatrixFacts
from espalier.methods.criteria.lamp import lamp_scores

if TYPE_CHECKING:
    from torch import Tensor


class LampBudget(Budget):
    """Gives every matrix the share of its weights whose LAMP score is among the lowest of the model."""

    summary: ClassVar[str] = "Sparsity by the spread of the weights' sizes; reads the weights, no data."
    paper: ClassVar[str] = "Lee et al. 2021 (arXiv 2010.07611)"
    cost: ClassVar[Cost] = "low"
    constraints: ClassVar[tuple[str, ...]] = ("unstructured patterns of scope row or matrix",)

    kind: Literal["lamp"] = "lamp"

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse patterns that set shares themselves or move whole units."""
        return refuse_global(axes, self.kind) or refuse_fixed_sparsity(axes, self.kind) or refuse_units(axes, self.kind)

    def sparsities(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> dict[str, float]:
        """Return the sparsities; exact counts, one matrix of scores in memory at a time."""

        def sweep() -> Iterable[tuple[str, Tensor]]:
            for matrix in matrices:
                yield matrix.name, lamp_scores(matrix.load())

        num_pruned = round(sparsity * sum(matrix.size for matrix in matrices))
        counts = counts_below_threshold(sweep, num_pruned=num_pruned)
        return {matrix.name: counts[matrix.name] / matrix.size for matrix in matrices}
