"""Accept a solver's rows only where they lower the output error; reject results that are not finite."""

from __future__ import annotations

import torch

from espalier.errors import NumericalError
from espalier.methods.base import MaskProblem, Refit, Solver
from espalier.methods.quadratic import SingularError
from espalier.stream.readout import Readout
from espalier.stream.statistics import OutputErrors


def solve_with_safeguard(
    solver: Solver, problem: MaskProblem, errors: OutputErrors, *, dtype: torch.dtype, module: str, readout: Readout
) -> Refit:
    """Solve and return float32 weights that `dtype` holds exactly.

    A row that, rounded to `dtype`, is not better than with the mask alone keeps the weights it had; a solver that
    chose another mask is taken or left as a whole, for rows may share a budget. The host waits for nothing of it:
    reading `readout` raises NumericalError where the refitted weights are not finite.

    Raises NumericalError where the Gram matrix is singular.
    """
    try:
        refit = solver.solve(problem)
    except (SingularError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise NumericalError(
            f"the calibration Gram matrix of {module} is singular",
            hint="Increase `update.damping`, calibrate on more text, or leave the update out.",
            module=module,
        ) from error
    weight_OI, mask_OI = problem.weight_OI, problem.mask_OI
    plain_OI = weight_OI.masked_fill(~mask_OI, 0)
    fitted_OI = refit.weight_OI.masked_fill(~refit.mask_OI, 0).to(dtype).float()
    what = "the refitted weights"
    readout.require_finite(module, {what: refit.weight_OI, f"{what} in {str(dtype).removeprefix('torch.')}": fitted_OI})
    before_O, after_O = errors.rows(plain_OI), errors.rows(fitted_OI)
    same = (refit.mask_OI == mask_OI).all()
    better_O1 = torch.where(same, after_O < before_O, after_O.sum() < before_O.sum())[:, None]
    return Refit(torch.where(better_O1, fitted_OI, plain_OI), torch.where(better_O1, refit.mask_OI, mask_OI))
