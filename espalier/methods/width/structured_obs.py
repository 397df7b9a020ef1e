"""Structured OBS: units go one after the other, and what stays takes over their work."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.optimal_brain_surgeon import remove_groups
from espalier.methods.structured import UnitCriterion, UnitEvidence, WidthUpdate

if TYPE_CHECKING:
    from torch import Tensor


class StructuredObs(UnitCriterion):
    """Removes the unit that costs least after the rest has made up for it, again and again."""

    summary: ClassVar[str] = "Units go by what they cost after the others have made up for them; the rest is refitted."
    paper: ClassVar[str] = "Hassibi & Stork 1993 in groups, as in OSSCAR (arXiv 2403.12983) and Tyr-the-Pruner"
    cost: ClassVar[Cost] = "high"
    reads_gram: ClassVar[bool] = True
    own_update: ClassVar[WidthUpdate] = "least_squares"

    method: Literal["structured_obs"] = "structured_obs"

    def choose(self, evidence: UnitEvidence, *, kept: int) -> Tensor:
        """Return the units that stay."""
        gram_II = evidence.moments.gram_II
        assert gram_II is not None
        units = evidence.weight_OI.shape[1] // evidence.size
        return remove_groups(evidence.weight_OI, gram_II, group=evidence.size, count=units - kept).kept
