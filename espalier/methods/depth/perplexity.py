"""Perplexity: the block without which the model loses least goes, again and again."""

from __future__ import annotations

from typing import ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.structured import BlockCriterion, BlockEvidence


class WithoutBlock(BlockCriterion):
    """Removes one block after the other, each time the one without which a few calibration windows score best."""

    summary: ClassVar[str] = "Tries the model without each block and removes the one least missed, block by block."
    paper: ClassVar[str] = "Kim et al. 2024, Shortened LLaMA (arXiv 2402.02834), repeated after every removal"
    cost: ClassVar[Cost] = "medium"
    whole_model: ClassVar[bool] = True

    method: Literal["perplexity"] = "perplexity"

    def choose(self, evidence: BlockEvidence, *, count: int) -> list[int]:
        """Return the blocks that went, in order."""
        kept, gone = list(range(evidence.num_blocks)), []
        for _ in range(count):
            losses = [(evidence.loss([other for other in kept if other != index]), index) for index in kept]
            gone.append(min(losses)[1])
            kept.remove(gone[-1])
        return sorted(gone)
