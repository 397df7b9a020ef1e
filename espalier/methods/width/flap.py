"""FLAP: units that hardly fluctuate go, and their mean becomes a bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import UnitEvidence, UnitScore, WidthUpdate

if TYPE_CHECKING:
    from torch import Tensor


class Flap(UnitScore):
    """Scores a unit by Var(X_i) ||W_:i||^2 over its columns."""

    summary: ClassVar[str] = (
        "Units whose input hardly fluctuates go; their mean output stays as a bias where the family can carry one."
    )
    paper: ClassVar[str] = "An et al. 2023, FLAP (arXiv 2312.11983), at equal widths"
    cost: ClassVar[Cost] = "low"
    constraints: ClassVar[tuple[str, ...]] = ("biases on the consuming map, or a setting that adds them",)
    own_update: ClassVar[WidthUpdate] = "bias_mean"

    method: Literal["flap"] = "flap"

    def score(self, evidence: UnitEvidence) -> Tensor:
        """Return the scores."""
        norms_I = evidence.weight_OI.double().square().sum(dim=0)
        return evidence.per_unit(evidence.moments.variance * norms_I)
