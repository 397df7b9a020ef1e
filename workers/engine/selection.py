"""Scores of one matrix, proved finite."""

from __future__ import annotations

import torch

from workers.engine.numerics import require_finite
from workers.methods.base import Criterion, InputStatistics


def score(
    criterion: Criterion,
    weight_OI: torch.Tensor,
    statistics: InputStatistics,
    *,
    module: str,
    generator: torch.Generator,
) -> torch.Tensor:
    """Score one matrix; NumericalError names the module whose weights or scores are not finite."""
    require_finite(weight_OI, what="the weights", module=module)
    score_OI = criterion.score(weight_OI, statistics, generator=generator)
    require_finite(score_OI, what="the scores", module=module)
    return score_OI
