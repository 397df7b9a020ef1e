"""Phases that run more than once in a job know which time it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from espalier.recipe.steps import Retrain


@dataclass(frozen=True)
class Turn:
    """One repetition of phases inside a job: a cycle of pruning and recovery, or a member of a soup."""

    name: str = ""
    """`cycle-2`, `member-1`, `cycle-2-member-1`: checkpoints and report rows carry it; empty where nothing repeats."""
    cycle: str = ""
    """The cycle that it is, or is a part of: what members of one soup share."""
    sparsity: float | None = None
    """What is pruned by the end of this turn, in the place of the spec's."""
    retrain: Retrain | None = None
    """In the place of the spec's."""

    def member(self, number: int, retrain: Retrain) -> Turn:
        """One retraining of a soup in this turn."""
        name = f"member-{number}"
        return replace(self, name=f"{self.name}-{name}" if self.name else name, retrain=retrain)
