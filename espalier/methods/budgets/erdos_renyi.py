"""Erdős-Rényi: narrow matrices keep more, in proportion to what they connect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from espalier.methods.allocation import (
    HIGHEST,
    bisect_to_mean,
    refuse_fixed_sparsity,
    refuse_global,
    refuse_units,
)
from espalier.methods.base import Axes, Budget, MatrixFacts


class ErdosRenyi(Budget):
    """Gives a matrix the density min(1, e * (inputs + outputs) / (inputs * outputs)), e set by the request."""

    summary: ClassVar[str] = "Density by shape alone: small matrices stay denser; needs no data."
    paper: ClassVar[str] = "Mocanu et al. 2018 (arXiv 1707.04780); Evci et al. 2020 (arXiv 1911.11134)"
    constraints: ClassVar[tuple[str, ...]] = ("unstructured patterns of scope row or matrix",)

    kind: Literal["erdos_renyi"] = "erdos_renyi"

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse patterns that set shares themselves or move whole units."""
        return refuse_global(axes, self.kind) or refuse_fixed_sparsity(axes, self.kind) or refuse_units(axes, self.kind)

    def sparsities(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> dict[str, float]:
        """Return the sparsities; where a density would pass one, the others make up for it."""
        raw = {matrix.name: sum(matrix.shape) / matrix.size for matrix in matrices}
        top = max(HIGHEST, sparsity)

        def at(parameter: float) -> dict[str, float]:
            return {name: min(1 - min(1.0, -parameter * value), top) for name, value in raw.items()}

        return bisect_to_mean(at, matrices, sparsity, high=1 / min(raw.values()))
