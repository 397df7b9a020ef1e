"""REAP: experts that add little where they are asked go."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import ExpertCriterion, Routing

if TYPE_CHECKING:
    from torch import Tensor


class Reap(ExpertCriterion):
    """Scores an expert by the mean over its tokens of gate weight times the norm of its output."""

    summary: ClassVar[str] = "Experts whose weighted output is small for the tokens that reach them go."
    paper: ClassVar[str] = "Lasby et al. 2025, REAP (arXiv 2510.13999)"
    cost: ClassVar[Cost] = "low"

    method: Literal["reap"] = "reap"

    def score(self, routing: Routing) -> Tensor:
        """Return the scores."""
        return routing.weighed_E / routing.tokens_E.clamp_min(1)
