"""Output variance: experts that answer nearly the same to everything go."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import ExpertCriterion, Routing

if TYPE_CHECKING:
    from torch import Tensor


class OutputVariance(ExpertCriterion):
    """Scores an expert by how often it is asked times the variance of what it answers."""

    summary: ClassVar[str] = "Experts that are rarely asked, or answer nearly the same to everything, go."
    paper: ClassVar[str] = "Zhang et al. 2025, MoNE (arXiv 2507.00390), its score without the constant stand-ins"
    cost: ClassVar[Cost] = "low"

    method: Literal["output_variance"] = "output_variance"

    def score(self, routing: Routing) -> Tensor:
        """Return the scores."""
        tokens = routing.tokens_E.clamp_min(1).double()
        mean_square = (routing.sum_ED / tokens[:, None]).square().sum(dim=1)
        variance = (routing.squares_E / tokens - mean_square).clamp_min(0)
        return routing.tokens_E.double() * variance
