"""Wanda on whole units: weights times the norm of the input that they multiply."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import UnitEvidence, UnitScore

if TYPE_CHECKING:
    from torch import Tensor


class WandaSp(UnitScore):
    """Scores a unit by the sum of |W_oi| ||X_i|| over its columns."""

    summary: ClassVar[str] = "Units whose columns weigh little on quiet inputs go."
    paper: ClassVar[str] = "An et al. 2023 (arXiv 2312.11983), the structured form of Wanda (arXiv 2306.11695)"
    cost: ClassVar[Cost] = "low"

    method: Literal["wanda_sp"] = "wanda_sp"

    def score(self, evidence: UnitEvidence) -> Tensor:
        """Return the scores."""
        weighed = evidence.weight_OI.double().abs().sum(dim=0) * evidence.moments.squares_I.sqrt()
        return evidence.per_unit(weighed)
