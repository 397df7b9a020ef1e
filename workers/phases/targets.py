"""Which matrices a prune step changes, and why it may not."""

from __future__ import annotations

from workers.engine.errors import TargetsError
from workers.engine.layout import Block, Matrix
from workers.methods.base import MatrixFacts
from workers.phases.base import Context


def selected(context: Context, block: Block) -> list[Matrix]:
    """The matrices of a block that the step's targets select; all of them without a step."""
    step = context.step
    return [matrix for matrix in block.matrices if step is None or step.targets.selects(matrix.name)]


def check(context: Context) -> None:
    """Raise TargetsError when the targets select nothing, reach outside the blocks, or the pattern does not fit."""
    step, layout = context.step, context.streamed.layout
    if step is None:
        return
    for pattern in step.targets.include:
        alone = step.targets.model_copy(update={"include": [pattern], "exclude": []})
        if not any(alone.selects(matrix.name) for matrix in layout.matrices):
            raise TargetsError(
                f"targets.include {pattern!r} names no linear map inside the blocks",
                hint="Embeddings, the head and norms are not pruned in this version; see `GET /layers` for names.",
            )
    matrices = [matrix for block in layout.blocks for matrix in selected(context, block)]
    if not matrices:
        raise TargetsError("targets select no matrix", hint="Relax targets.exclude.")
    for matrix in matrices:
        refusal = step.pattern.refusal(matrix.shape[1])
        if refusal:
            raise TargetsError(f"{matrix.name}: {refusal}", hint="Choose another pattern.", module=matrix.name)
    known = [MatrixFacts(matrix.name, matrix.block, matrix.shape) for matrix in matrices]
    refusal = step.budget.refusal(step.share, known)
    if refusal:
        raise TargetsError(f"the budget does not fit: {refusal}", hint="Change budget.values or sparsity.")
