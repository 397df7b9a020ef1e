"""Prune one matrix: score, mask, improved mask, refitted weights, and the row with their errors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from espalier.messages import Layer
from espalier.methods.base import LayerProblem, MaskProblem
from espalier.methods.factorisations import Factorisations
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from espalier.model import masks
from espalier.model.layout import Matrix
from espalier.model.numerics import generator
from espalier.prune.calibrating import SparsityPlan, below_pruned
from espalier.prune.safeguard import solve_with_safeguard
from espalier.prune.selection import score
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session
from espalier.stream.readout import Readout
from espalier.stream.statistics import OutputErrors


@dataclass(frozen=True)
class PrunedMatrix:
    """A pruned matrix on the device; its numbers can be told when the readout has been read."""

    matrix: Matrix
    tensor: torch.Tensor
    """As its file holds it."""
    mask_OI: torch.Tensor
    pattern: str
    sparsity: float
    kept: int
    """Places in the readout: of the number of weights kept, and of the errors without and with an update."""
    before: int
    after: int
    seconds: float

    def row(self, numbers: Sequence[float], *, seconds: float = 0.0) -> Layer:
        """Return the row, with more seconds than the host took for it; `numbers`: of the readout."""
        kept, before, after = int(numbers[self.kept]), numbers[self.before], numbers[self.after]
        return row_of(self.matrix, kept, self.pattern, self.sparsity, self.seconds + seconds, before, after)


def prune_matrix(
    session: Session,
    matrix: Matrix,
    step: PruneStep,
    stored: torch.Tensor,
    plan: SparsityPlan,
    statistics: Statistics,
    sample_TI: torch.Tensor | None,
    factorisations: Factorisations,
    readout: Readout,
) -> PrunedMatrix:
    """Prune a matrix; the host need not wait for it, and what of it fails, `readout` tells.

    `stored`: the matrix (O, I) as it is, on the device. `sample_TI`: inputs that errors are measured on, None where
    errors come from the Gram matrix.
    """
    began = time.monotonic()
    weight_OI, sparsity, name = stored.float(), plan.sparsities[matrix.name], matrix.name
    draws = generator(session.request.spec.calibration.seed, "score", name)
    dense = LayerProblem(weight_OI, statistics, draws, factorisations=factorisations)
    score_OI = _scored(matrix, step, plan, dense, stored, readout)
    score_OI = below_pruned(session, matrix, score_OI).to(session.device)
    mask_OI = step.pattern.keep(score_OI, sparsity=sparsity) & ~torch.isneginf(score_OI)
    draws = generator(session.request.spec.calibration.seed, "update", name)
    problem = MaskProblem(
        weight_OI, statistics, draws, mask_OI, score_OI, step.pattern, sparsity, factorisations=factorisations
    )
    if step.optimizer is not None:
        mask_OI = step.optimizer.improve(problem)
        problem = replace(problem, mask_OI=mask_OI)
    if sample_TI is not None:
        readout.require_finite(name, {"the inputs": sample_TI})
    errors = OutputErrors(weight_OI, sample_TI, statistics.get(Gram))
    pruned = masks.apply(stored, mask_OI)
    if step.solver is not None:
        solver = step.solver.solver_for(matrix.shape, sparsity=sparsity)
        refit = solve_with_safeguard(solver, problem, errors, dtype=stored.dtype, module=name, readout=readout)
        mask_OI, pruned = refit.mask_OI, refit.weight_OI.to(stored.dtype)
    before = readout.note(errors.relative(masks.apply(weight_OI, mask_OI)))
    after = before if step.solver is None else readout.note(errors.relative(pruned.float()))
    kept, label = readout.note(mask_OI.sum()), step.pattern.label_at(sparsity)
    seconds = time.monotonic() - began
    return PrunedMatrix(matrix, matrix.view(pruned), mask_OI, label, sparsity, kept, before, after, seconds)


def _scored(
    matrix: Matrix,
    step: PruneStep,
    plan: SparsityPlan,
    dense: LayerProblem,
    stored: torch.Tensor,
    readout: Readout,
) -> torch.Tensor:
    if plan.dense_statistics is None:
        return score(step, dense, module=matrix.name, readout=readout)
    # On the CPU and in float32, as the plan compared them.
    planned = LayerProblem(stored.cpu().float(), plan.statistics(step, matrix.name), dense.generator)
    return score(step, planned, module=matrix.name, readout=readout).float()


def rows_of(pruned: Sequence[PrunedMatrix], numbers: Sequence[float], *, seconds: float) -> list[Layer]:
    """Build the rows of matrices that took so many seconds together, with what `readout` has read.

    Where a GPU went on behind the host, what the host waited in the end is theirs in proportion to their weights.
    """
    waited = max(0.0, seconds - sum(each.seconds for each in pruned))
    weights = sum(math.prod(each.matrix.shape) for each in pruned)
    return [each.row(numbers, seconds=waited * math.prod(each.matrix.shape) / weights) for each in pruned]


def row_of(
    matrix: Matrix,
    kept: int,
    pattern: str,
    sparsity: float,
    seconds: float,
    before: float = 0.0,
    after: float = 0.0,
) -> Layer:
    """Build the row of a matrix: sparsity requested and achieved, and the errors without and with an update."""
    return Layer(
        name=matrix.name,
        block=matrix.block,
        shape=list(matrix.shape),
        pattern=pattern,
        sparsity_requested=sparsity,
        sparsity_achieved=1 - kept / math.prod(matrix.shape),
        error_before=before,
        error_after=after,
        seconds=seconds,
    )
