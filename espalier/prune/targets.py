"""The matrices that a prune step changes, and refusals of steps that do not fit the model."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.errors import TargetsError
from espalier.methods.base import MatrixFacts
from espalier.model.layout import Block, Layout, Matrix
from espalier.recipe.expressions import BadPattern, selection
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session
from espalier.training.lora import require_rank


def selected(session: Session, block: Block) -> list[Matrix]:
    """Select the matrices of a block that the step's targets name; all of them without a step."""
    step = session.step
    return [matrix for matrix in block.matrices if step is None or step.targets.selects(matrix.name)]


def check(session: Session) -> None:
    """Raise TargetsError where a step does not fit the model at hand, or an adapter one of the pruned matrices."""
    if session.step is not None:
        _check_patterns(session.step)
    matrices = [matrix for block in session.streamed.layout.blocks for matrix in selected(session, block)]
    if session.step is not None:
        _check_step(session.step, session.streamed.layout, matrices)
    retrain, reconstruct = session.request.spec.retrain, session.request.spec.reconstruct
    ranks = [retrain.rank] if retrain and retrain.adapter else []
    ranks += [reconstruct.rank] if reconstruct and "mask_lora" in reconstruct.trainable else []
    rank = max(ranks, default=0)
    for matrix in matrices:
        require_rank(rank, matrix.shape, name=matrix.name)


def _check_patterns(step: PruneStep) -> None:
    """Raise where RE2 does not take what an earlier version took."""
    try:
        selection(tuple(step.targets.include), tuple(step.targets.exclude))
    except BadPattern as error:
        raise TargetsError(f"targets/{error.place}: {error}", hint="Clone the job with patterns of RE2.") from None


def _check_step(step: PruneStep, layout: Layout, matrices: Sequence[Matrix]) -> None:
    """Raise where targets select nothing or reach outside the blocks, or pattern or budget do not fit the matrices."""
    for pattern in step.targets.include:
        alone = step.targets.model_copy(update={"include": [pattern], "exclude": []})
        if not any(alone.selects(matrix.name) for matrix in layout.matrices):
            raise TargetsError(
                f"targets.include {pattern!r} names no linear map inside the blocks",
                hint="Names look like `model.layers.0.mlp.up_proj`; embeddings, the head and norms are not pruned.",
            )
    if not matrices:
        raise TargetsError("targets select no matrix", hint="Relax targets.exclude.")
    for matrix in matrices:
        refusal = step.pattern.refusal(matrix.shape[1])
        if refusal:
            raise TargetsError(f"{matrix.name}: {refusal}", hint="Choose another pattern.", module=matrix.name)
    known = [MatrixFacts(matrix.name, matrix.block, matrix.shape) for matrix in matrices]
    refusal = step.budget.refusal(step.target_sparsity, known)
    if refusal:
        raise TargetsError(f"the budget does not fit: {refusal}", hint="Change budget.values or sparsity.")
