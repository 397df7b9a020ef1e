"""Bisect for the highest sparsity that keeps a bound on quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from espalier.errors import NothingKeptError
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Objective
from espalier.recipe.steps.prune import PruneStep
from espalier.search.trials import Outcome, Trial, Winner, increase, without_search


@dataclass(frozen=True)
class TriedSparsity:
    """One sparsity that was tried."""

    sparsity: float
    increase: float | None
    """Relative increase of perplexity over the dense model; None when the trial gave no model."""


@dataclass(frozen=True)
class QualitySearch:
    """Bisects over the sparsity of the one prune step, which is where it begins."""

    spec: CompressionSpec
    objective: Objective

    def next(self, outcomes: Sequence[Outcome]) -> Trial | Winner:
        """Return the next sparsity as a trial, or the highest that keeps the bound."""
        tried = [_tried(outcome) for outcome in outcomes]
        sparsity = self.next_sparsity(tried)
        if sparsity is not None:
            return Trial(self._spec_at(sparsity), f"trial {len(tried) + 1}: {sparsity:.2%}")
        best = self._best(tried) or self._refuse(tried)
        rows = [
            {"sparsity": each.sparsity, "relative_increase": each.increase, "kept": self.keeps(each)} for each in tried
        ]
        return Winner(tried.index(best), {**self.objective.model_dump(), "sparsity": best.sparsity, "trials": rows})

    def keeps(self, tried: TriedSparsity) -> bool:
        """Tell whether a trial keeps the bound."""
        return tried.increase is not None and tried.increase <= self.objective.max_relative_perplexity_increase

    def best(self, outcomes: Sequence[Outcome]) -> int | None:
        """Return the index of the trial of the highest sparsity that keeps the bound."""
        tried = [_tried(outcome) for outcome in outcomes]
        best = self._best(tried)
        return None if best is None else tried.index(best)

    def _best(self, tried: Sequence[TriedSparsity]) -> TriedSparsity | None:
        return max((each for each in tried if self.keeps(each)), key=lambda each: each.sparsity, default=None)

    def next_sparsity(self, tried: Sequence[TriedSparsity]) -> float | None:
        """Return the sparsity to try next; None when the search is over."""
        objective = self.objective
        if not tried:
            return min(self._step.target_sparsity, objective.max_sparsity)
        if len(tried) >= objective.max_trials:
            return None
        best = self._best(tried)
        low = best.sparsity if best else 0.0
        lost = [each.sparsity for each in tried if not self.keeps(each) and each.sparsity > low]
        high = min(lost, default=objective.max_sparsity)
        return None if high - low <= objective.tolerance else round((low + high) / 2, 6)

    @property
    def _step(self) -> PruneStep:
        (step,) = self.spec.masking
        return step

    def _spec_at(self, sparsity: float) -> CompressionSpec:
        step = self._step.model_copy(update={"sparsity": sparsity})
        return without_search(self.spec).model_copy(update={"prune": [step]})

    def _refuse(self, tried: Sequence[TriedSparsity]) -> NoReturn:
        sparsities = ", ".join(f"{each.sparsity:.1%}" for each in tried)
        bound = self.objective.max_relative_perplexity_increase
        raise NothingKeptError(
            f"nothing tried keeps the bound of {bound:.1%}: {sparsities}",
            hint="Raise objective.max_relative_perplexity_increase or max_trials, or begin at a lower prune.sparsity.",
        )


def _tried(outcome: Outcome) -> TriedSparsity:
    (step,) = outcome.spec.masking
    return TriedSparsity(step.target_sparsity, None if outcome.report is None else increase(outcome.report))
