"""Auto: the solver that gives most for a matrix of this size at this sparsity."""

from __future__ import annotations

from typing import ClassVar, Literal

from espalier.methods.base import Cost, MaskProblem, Refit, Solver
from espalier.methods.solvers.admm import Admm
from espalier.methods.solvers.alps import Alps
from espalier.methods.solvers.sparsegpt import SparseGpt

HIGH_SPARSITY = 0.6
"""From here on ALPS pays for its iterations; below, ADMM ends at the same perplexity."""
WIDE_FOR_ALPS, WIDE_FOR_ADMM = 8192, 16_384
"""Inputs up to which an eigendecomposition and an inverse, both cubic in them, are reasonable."""


class Auto(Solver):
    """ALPS at high sparsity, ADMM below, SparseGPT for matrices too wide for either."""

    summary: ClassVar[str] = "Picks alps, admm or sparsegpt by size and sparsity; the report says which."
    paper: ClassVar[str] = "arXiv 2406.07831, 2401.02938, 2301.00774"
    cost: ClassVar[Cost] = "high"
    chooses_mask: ClassVar[bool] = True

    kind: Literal["auto"] = "auto"

    def solver_for(self, shape: tuple[int, int], *, sparsity: float) -> Solver:
        """Decide by the number of inputs and the share pruned."""
        inputs = shape[1]
        if sparsity >= HIGH_SPARSITY and inputs <= WIDE_FOR_ALPS:
            return Alps()
        return Admm() if inputs <= WIDE_FOR_ADMM else SparseGpt(mask="own")

    def solve(self, problem: MaskProblem) -> Refit:
        """Return what the solver picked returns."""
        outputs, inputs = problem.weight_OI.shape
        return self.solver_for((outputs, inputs), sparsity=problem.sparsity).solve(problem)
