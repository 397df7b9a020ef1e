"""Random: the floor that every other criterion must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Criterion, LayerProblem
from espalier.methods.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor


class Random(Criterion):
    """Scores every weight by a uniform draw, seeded by the calibration's seed and the matrix's name."""

    summary: ClassVar[str] = "Weights go at random: the floor to compare with; needs no calibration."
    paper: ClassVar[str] = "Liu et al. 2022 (arXiv 2202.02643)"
    seeded: ClassVar[bool] = True

    method: Literal["random"] = "random"

    def score(self, problem: LayerProblem) -> Tensor:
        """Return uniform numbers; drawn on the CPU, so that the mask does not depend on the device."""
        weight_OI = problem.weight_OI
        return torch.rand(weight_OI.shape, generator=problem.generator).to(weight_OI.device)
