"""Frequency: experts that are rarely asked go."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import ExpertCriterion, Routing

if TYPE_CHECKING:
    from torch import Tensor


class Frequency(ExpertCriterion):
    """Scores an expert by how many calibration tokens reach it."""

    summary: ClassVar[str] = "Experts that few tokens reach go."
    paper: ClassVar[str] = "the usual baseline of expert pruning"
    cost: ClassVar[Cost] = "low"

    method: Literal["frequency"] = "frequency"

    def score(self, routing: Routing) -> Tensor:
        """Return the scores."""
        return routing.tokens_E.double()
