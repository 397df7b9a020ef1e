"""Phases that run more than once in a job know which time it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from espalier.checkpoint_names import TurnName
from espalier.recipe.steps import Retrain


@dataclass(frozen=True)
class Turn:
    """One repetition of phases inside a job: a cycle of pruning and recovery, or a member of a soup."""

    name: TurnName = field(default_factory=TurnName)
    """What checkpoints, series and report rows carry."""
    sparsity: float | None = None
    """What is pruned by the end of this turn, in the place of the spec's."""
    retrain: Retrain | None = None
    """In the place of the spec's."""

    def member(self, number: int, retrain: Retrain) -> Turn:
        """One retraining of a soup in this turn."""
        return replace(self, name=replace(self.name, member=number), retrain=retrain)
