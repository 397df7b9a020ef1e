"""A goal instead of a number: the highest sparsity that keeps a bound on quality, or the best quality at a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec
from espalier.recipe.target import UNITS, Target


@dataclass(frozen=True)
class Trial:
    """One sparsity that was tried."""

    sparsity: float
    increase: float | None
    """Relative increase of perplexity over the dense model; None when the trial gave no model."""


class Objective(Spec):
    """Find the highest sparsity that keeps the bound, by bisection; `prune.sparsity` is where it begins."""

    max_relative_perplexity_increase: float = Field(
        gt=0, le=100, description="0.05: 5 % over dense, on every measurement of `evaluate.perplexity`."
    )
    max_trials: int = Field(6, ge=1, le=32, description="Jobs that may be run for it.")
    max_sparsity: float = Field(0.95, gt=0, lt=1, description="Nothing above is tried.")
    tolerance: float = Field(0.01, gt=0, le=0.5, description="Sparsities closer than this are not told apart.")

    @model_validator(mode="after")
    def _there_is_room(self) -> Objective:
        if self.tolerance >= self.max_sparsity:
            raise PydanticCustomError("no_room", "`tolerance` must be below `max_sparsity`", {"at": "tolerance"})
        return self

    def keeps(self, trial: Trial) -> bool:
        """Tell whether a trial keeps the bound."""
        return trial.increase is not None and trial.increase <= self.max_relative_perplexity_increase

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The trial of the highest sparsity that keeps the bound."""
        return max((trial for trial in trials if self.keeps(trial)), key=lambda trial: trial.sparsity, default=None)

    def next(self, trials: Sequence[Trial], first: float) -> float | None:
        """The sparsity to try next; None when the search is over."""
        if not trials:
            return min(first, self.max_sparsity)
        if len(trials) >= self.max_trials:
            return None
        best = self.best(trials)
        low = best.sparsity if best else 0.0
        lost = [trial.sparsity for trial in trials if not self.keeps(trial) and trial.sparsity > low]
        high = min(lost, default=self.max_sparsity)
        if high - low <= self.tolerance:
            return None
        return round((low + high) / 2, 6)


def _what_is_bounded(value: object) -> str:
    given = value.keys() if isinstance(value, dict) else ()
    return "size" if isinstance(value, Target) or any(unit in given for unit in UNITS) else "quality"


AnyObjective = Annotated[
    Annotated[Objective, Tag("quality")] | Annotated[Target, Tag("size")], Discriminator(_what_is_bounded)
]
"""A bound on quality, or on size or time."""
