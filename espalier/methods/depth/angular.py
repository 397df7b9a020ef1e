"""Angular distance: the run of blocks across which the last token's state turns least goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost
from espalier.methods.lazy_torch import torch
from espalier.methods.structured import BlockCriterion, BlockEvidence, CalibrationPass

if TYPE_CHECKING:
    from torch import Tensor


class Angular(BlockCriterion):
    """Scores a run of n blocks by arccos(cos(h_l, h_(l+n))) / pi of the last tokens, mean over windows."""

    summary: ClassVar[str] = "The consecutive blocks across which hidden states turn least go; one pass."
    paper: ClassVar[str] = (
        "Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887)"
    )
    cost: ClassVar[Cost] = "low"

    method: Literal["angular"] = "angular"

    def choose(self, evidence: BlockEvidence, *, count: int) -> list[int]:
        """Return the closest run."""
        start = int(distances(evidence.calibration_pass(), count=count).argmin())
        return list(range(start, start + count))


def distances(calibration_pass: CalibrationPass, *, count: int) -> Tensor:
    """Return the angular distance across `count` blocks for every first block, float64 (L - count + 1,)."""
    before, after = calibration_pass.last_LND[:-count].double(), calibration_pass.last_LND[count:].double()
    cosine = torch.cosine_similarity(before, after, dim=-1).clamp(-1, 1)
    return torch.arccos(cosine).mean(dim=1) / math.pi
