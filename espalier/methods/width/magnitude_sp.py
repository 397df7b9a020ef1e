"""Magnitude of whole units: small weights in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import UnitEvidence, UnitScore

if TYPE_CHECKING:
    from torch import Tensor


class MagnitudeSp(UnitScore):
    """Scores a unit by the squares of its weights in every map that produces it and in the one that consumes it."""

    summary: ClassVar[str] = "Units with small weights in and out go; reads no text."
    paper: ClassVar[str] = "methods' usual baseline (magnitude-SP)"
    cost: ClassVar[Cost] = "low"

    method: Literal["magnitude_sp"] = "magnitude_sp"

    def score(self, evidence: UnitEvidence) -> Tensor:
        """Return the scores."""
        columns = evidence.per_unit(evidence.weight_OI.double().square().sum(dim=0))
        return columns + sum(evidence.producers)
