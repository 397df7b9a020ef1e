"""AWP: projected gradient steps on the layer's error; matrix products only."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, MaskProblem, Refit, Solver
from espalier.methods.lazy_torch import torch
from espalier.methods.quadratic import Scaled, squared_output_error
from espalier.progress import counted

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Awp(Solver):
    """Steps along the gradient and projects on the pattern; the best projected point is the result."""

    summary: ClassVar[str] = "Chooses mask and weights together by projected gradients: matrix products only."
    paper: ClassVar[str] = "Liu et al. 2025 (arXiv 2506.10205)"
    cost: ClassVar[Cost] = "high"
    chooses_mask: ClassVar[bool] = True

    kind: Literal["awp"] = "awp"
    iterations: int = Field(100, ge=1, le=100_000)
    step: Literal["lipschitz", "frobenius"] = Field(
        "lipschitz", description="1 / lambda_max with momentum, or the paper's 2 / ||G||_F."
    )
    damping: float = Field(0.01, ge=0, le=10, description="Ridge, in units in which every input has norm one.")

    def solve(self, problem: MaskProblem) -> Refit:
        """Start at the mask given and return the best point met, by the error of the whole matrix."""
        scaled = Scaled.of(problem, self.damping)
        hessian_II = scaled.hessian_II.to(problem.weight_OI.dtype)
        frobenius = self.step == "frobenius"
        curvature = float(hessian_II.norm()) / 2 if frobenius else largest_eigenvalue(hessian_II, problem.generator)
        point_OI = scaled.weight_OI.masked_fill(~problem.mask_OI, 0)
        best_OI, best_mask_OI = point_OI, problem.mask_OI
        lowest_error = float(squared_output_error(scaled.weight_OI - point_OI, hessian_II).sum())
        ahead_OI, inertia = point_OI, 1.0
        for _ in counted(range(self.iterations)):
            stepped_OI = ahead_OI + (scaled.weight_OI - ahead_OI) @ hessian_II / curvature
            kept_OI = problem.pattern.keep(stepped_OI.abs(), sparsity=problem.sparsity)
            before_OI, point_OI = point_OI, stepped_OI.masked_fill(~kept_OI, 0)
            error = float(squared_output_error(scaled.weight_OI - point_OI, hessian_II).sum())
            if error < lowest_error:
                best_OI, best_mask_OI, lowest_error = point_OI, kept_OI, error
                following = (1 + (1 + 4 * inertia**2) ** 0.5) / 2
            else:
                inertia = following = 1.0  # momentum overshot: start it over
            pull = 0.0 if frobenius else (inertia - 1) / following
            ahead_OI, inertia = point_OI + pull * (point_OI - before_OI), following
        return Refit(scaled.back(best_OI).masked_fill(~best_mask_OI, 0), best_mask_OI)


def largest_eigenvalue(matrix_II: Tensor, generator: Generator) -> float:
    """Estimate the largest eigenvalue of a positive matrix by power iteration, plus 5 % so that no step is too long."""
    vector_I = torch.rand(len(matrix_II), generator=generator).to(matrix_II) + 0.5
    for _ in counted(range(50)):
        vector_I = matrix_II @ (vector_I / vector_I.norm())
    return 1.05 * float(vector_I.norm())
