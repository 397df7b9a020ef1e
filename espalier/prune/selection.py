"""Scores of one matrix, proved finite."""

from __future__ import annotations

import torch

from espalier.errors import NumericalError
from espalier.methods.base import Criterion, LayerProblem
from espalier.methods.quadratic import SingularError
from espalier.stream.readout import Readout


def score(
    criterion: Criterion,
    problem: LayerProblem,
    *,
    module: str,
    readout: Readout,
) -> torch.Tensor:
    """Score one matrix; reading `readout` raises NumericalError where its weights or scores are not finite.

    Raises NumericalError where the Gram matrix is singular. Both name the module.
    """
    try:
        score_OI = criterion.score(problem)
    except SingularError as error:
        raise NumericalError(
            f"the calibration Gram matrix of {module} is singular",
            hint="Increase the criterion's `damping`, or calibrate on more text.",
            module=module,
        ) from error
    readout.require_finite(module, {"the weights": problem.weight_OI, "the scores": score_OI})
    return score_OI
