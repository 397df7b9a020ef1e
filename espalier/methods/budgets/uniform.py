"""Uniform: every matrix gets the requested sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from espalier.methods.base import Budget, MatrixFacts


class Uniform(Budget):
    """Gives every matrix the requested sparsity."""

    summary: ClassVar[str] = "The same sparsity everywhere."
    paper: ClassVar[str] = "none"

    kind: Literal["uniform"] = "uniform"

    def sparsities(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> dict[str, float]:
        """Return the request for every matrix."""
        return {matrix.name: sparsity for matrix in matrices}
