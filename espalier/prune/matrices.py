"""Prune one matrix: score, mask, improved mask, refitted weights, and the row with their errors."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from espalier.messages import Layer
from espalier.methods.base import LayerProblem, MaskProblem
from espalier.methods.factorisations import Factorisations
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from espalier.model import masks
from espalier.model.layout import Matrix
from espalier.model.numerics import generator, require_finite
from espalier.prune.calibrating import SparsityPlan, below_pruned
from espalier.prune.safeguard import solve_with_safeguard
from espalier.prune.selection import score
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session
from espalier.stream.statistics import OutputErrors


def prune_matrix(
    session: Session,
    matrix: Matrix,
    step: PruneStep,
    stored: torch.Tensor,
    plan: SparsityPlan,
    statistics: Statistics,
    sample_TI: torch.Tensor | None,
    factorisations: Factorisations,
) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    """Return the row, the tensor as its file holds it, and the mask (O, I); the tensor lies on the device.

    `stored`: the matrix (O, I) as it is, on the device. `sample_TI`: inputs that errors are measured on, None where
    errors come from the Gram matrix.
    """
    began = time.monotonic()
    weight_OI = stored.float()
    sparsity = plan.sparsities[matrix.name]
    draws = generator(session.request.spec.calibration.seed, "score", matrix.name)
    dense = LayerProblem(weight_OI, statistics, draws, factorisations=factorisations)
    score_OI = _scored(matrix, step, plan, dense, stored=stored)
    score_OI = below_pruned(session, matrix, score_OI).to(session.device)
    mask_OI = step.pattern.keep(score_OI, sparsity=sparsity) & ~torch.isneginf(score_OI)
    draws = generator(session.request.spec.calibration.seed, "update", matrix.name)
    problem = MaskProblem(
        weight_OI, statistics, draws, mask_OI, score_OI, step.pattern, sparsity, factorisations=factorisations
    )
    if step.optimizer is not None:
        mask_OI = step.optimizer.improve(problem)
        problem = replace(problem, mask_OI=mask_OI)
    if sample_TI is not None:
        require_finite(matrix.name, {"the inputs": sample_TI})
    errors = OutputErrors(weight_OI, sample_TI, statistics.get(Gram))
    pruned = masks.apply(stored, mask_OI)
    if step.solver is not None:
        solver = step.solver.solver_for(matrix.shape, sparsity=sparsity)
        refit = solve_with_safeguard(solver, problem, errors, dtype=stored.dtype, module=matrix.name)
        mask_OI, pruned = refit.mask_OI, refit.weight_OI.to(stored.dtype)
    relative = [errors.relative(masks.apply(weight_OI, mask_OI))]
    if step.solver is not None:
        relative.append(errors.relative(pruned.float()))
    kept, before, *after = torch.stack([mask_OI.sum().double(), *relative]).tolist()
    seconds = time.monotonic() - began
    row = row_of(matrix, int(kept), step.pattern.label_at(sparsity), sparsity, seconds, before, *(after or [before]))
    return row, matrix.view(pruned), mask_OI.cpu()


def _scored(
    matrix: Matrix, step: PruneStep, plan: SparsityPlan, dense: LayerProblem, *, stored: torch.Tensor
) -> torch.Tensor:
    if plan.dense_statistics is None:
        return score(step, dense, module=matrix.name)
    # On the CPU and in float32, as the plan compared them.
    planned = LayerProblem(stored.cpu().float(), plan.statistics(step, matrix.name), dense.generator)
    return score(step, planned, module=matrix.name).float()


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
