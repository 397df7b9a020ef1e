"""The first stage of 2SSP: quiet neurons go."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import UnitEvidence, UnitScore

if TYPE_CHECKING:
    from torch import Tensor


class TwoSsp(UnitScore):
    """Scores a unit by the root mean square of its activation."""

    summary: ClassVar[str] = "Units with small activations go, whatever their weights."
    paper: ClassVar[str] = "Sandri et al. 2025, 2SSP (arXiv 2501.17771), first stage"
    cost: ClassVar[Cost] = "low"

    method: Literal["two_ssp"] = "two_ssp"

    def score(self, evidence: UnitEvidence) -> Tensor:
        """Return the scores."""
        return evidence.per_unit((evidence.moments.squares_I / evidence.moments.tokens).sqrt())
