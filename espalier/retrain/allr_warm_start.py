"""Initial learning-rate factor of ALLR, from the relative weight change caused by pruning."""

from __future__ import annotations

from espalier.model.weights import Weights
from espalier.recipe.steps.retrain import Retrain
from espalier.session import Session
from espalier.training import rates


def start_fraction(session: Session, spec: Retrain) -> float:
    """Return the fraction of the top rate at which a schedule starts: 1, for `allr` by arXiv 2111.00843."""
    if spec.schedule != "allr":
        return 1.0
    return rates.allr_start(*pruning_distance(session, session.before_pruning))


def pruning_distance(session: Session, before: Weights) -> tuple[float, float]:
    """Return (relative L2 norm that the masks remove from the weights before, fraction of their nonzeros removed).

    Over the pruned matrices; in a cycle the weights before are those that the last one left.
    """
    whole = kept = 0.0
    there = left = 0
    for matrix in session.streamed.layout.matrices:
        if matrix.name not in session.weights.mask_names:
            continue
        weight_OI = matrix.view(before.get(matrix.tensor)).double()
        masked_OI = weight_OI * session.mask(matrix.name)
        whole, kept = whole + float(weight_OI.square().sum()), kept + float(masked_OI.square().sum())
        there, left = there + int(weight_OI.count_nonzero()), left + int(masked_OI.count_nonzero())
    return rates.relative_drop(whole, kept), 1 - left / there if there else 0.0
