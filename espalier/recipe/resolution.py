"""Resolve a spec: fill in the defaults that depend on the model, so that nothing downstream has one of its own."""

from __future__ import annotations

from typing import Protocol

from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.evaluate import Evaluate
from espalier.recipe.steps.output import Dtype
from espalier.recipe.steps.prune import PruneStep

LONGEST_DEFAULT_TOKENS = 2048


class Defaults(Protocol):
    """What of a model decides defaults; the probe's facts are one."""

    @property
    def max_positions(self) -> int:
        """Longest sequence the model reads."""

    @property
    def dtype(self) -> Dtype:
        """Type of the source's weights."""


def resolve(spec: CompressionSpec, facts: Defaults) -> CompressionSpec:
    """Return the spec with every default filled in; what only a worker knows (`auto`) stays."""
    tokens = min(LONGEST_DEFAULT_TOKENS, facts.max_positions)
    calibration = spec.calibration.model_copy(update={"sequence_length": spec.calibration.sequence_length or tokens})
    retrain = spec.retrain and spec.retrain.model_copy(
        update={
            "dataset": spec.retrain.dataset or calibration.dataset,
            "sequence_length": spec.retrain.sequence_length or calibration.sequence_length,
        }
    )
    return spec.model_copy(
        update={
            "calibration": calibration,
            "prune": [*spec.structure, *map(_settled, spec.masking)],
            "retrain": retrain,
            "evaluate": _evaluate(spec.evaluate, tokens),
            "output": spec.output.model_copy(update={"dtype": spec.output.dtype or facts.dtype}),
        }
    )


def _settled(step: PruneStep) -> PruneStep:
    """Fill in the sparsity that the pattern implies, and the update that the criterion brings."""
    return step.model_copy(update={"sparsity": step.target_sparsity, "update": step.solver or step.update})


def _evaluate(evaluate: Evaluate, tokens: int) -> Evaluate:
    items = [
        item.model_copy(update={"name": item.key, "sequence_length": item.sequence_length or tokens})
        for item in evaluate.perplexity
    ]
    return evaluate.model_copy(update={"perplexity": items})
