"""Block influence: a block that hardly turns the hidden states goes (ShortGPT)."""

from __future__ import annotations

from typing import ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import BlockCriterion, BlockEvidence


class BlockInfluence(BlockCriterion):
    """Scores a block by 1 - E[cos(h_in, h_out)] over all calibration tokens."""

    summary: ClassVar[str] = "Blocks that change the hidden states least go; one pass over the calibration text."
    paper: ClassVar[str] = "Men et al. 2024, ShortGPT (arXiv 2403.03853)"
    cost: ClassVar[Cost] = "low"

    method: Literal["block_influence"] = "block_influence"

    def choose(self, evidence: BlockEvidence, *, count: int) -> list[int]:
        """Return the blocks with the lowest influence."""
        order = evidence.calibration_pass().influence_L.sort(stable=True).indices
        return sorted(order[:count].tolist())
