"""Scores of one matrix, proved finite."""

from __future__ import annotations

import torch

from espalier.errors import NumericalError
from espalier.methods.base import Criterion, InputStatistics
from espalier.methods.quadratic import SingularError
from espalier.model.numerics import require_finite


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
    try:
        score_OI = criterion.score(weight_OI, statistics, generator=generator)
    except SingularError as error:
        raise NumericalError(
            f"the inputs of {module} give no solvable system",
            hint="Raise the criterion's damping, or calibrate on more tokens.",
            module=module,
        ) from error
    require_finite(score_OI, what="the scores", module=module)
    return score_OI
