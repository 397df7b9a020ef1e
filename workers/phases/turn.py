"""Phases that run more than once in a job know which time it is."""

from __future__ import annotations

from dataclasses import dataclass

from app.specs.steps import Retrain


@dataclass(frozen=True)
class Turn:
    """One repetition of phases inside a job: a cycle of pruning and recovery, or a member of a soup."""

    name: str = ""
    """`cycle-2`, `member-1`: checkpoints and report rows carry it; empty where nothing repeats."""
    sparsity: float | None = None
    """What is pruned by the end of this turn, in the place of the spec's."""
    retrain: Retrain | None = None
    """In the place of the spec's."""
