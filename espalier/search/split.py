"""Split a size or a speed over depth and width: which candidates reach it, which to try next, which was best.

A candidate is a number of removed blocks and a width step, in thousandths of the largest width reduction. For every
number of blocks only the smallest width step that reaches the target is worth a trial, so the search has one dimension:
it tries the fewest and the most blocks, then bisects around the best, assuming perplexity is unimodal in depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from espalier.families.sizes import Sizes
from espalier.recipe.steps.objective import Target
from espalier.recipe.steps.structure import DepthFields, ExpertStep, StructureStep, WidthStep

WIDTH_STEPS: Final = 1000
"""From no width reduction to the largest that the steps allow."""
TIGHTER: Final = 25
"""Width steps added where a candidate missed its predicted target: measured times are not sums of parts."""
ITEMSIZE: Final = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Candidate:
    """A number of blocks to remove, and a width step."""

    blocks: int
    width_step: int


@dataclass(frozen=True)
class CandidateTrial:
    """Measurements of a candidate."""

    candidate: Candidate
    measured: float | None
    """In the target's unit; None when the trial gave no model."""
    increase: float | None
    """Relative increase of perplexity over the dense model."""
    dense: float | None = None
    """The dense model in the target's unit, as this trial measured it."""


@dataclass(frozen=True)
class Split:
    """A target, the structured steps with their largest reductions, and the model's sizes."""

    target: Target
    steps: Sequence[StructureStep]
    sizes: Sizes
    dtype: str
    """Of the result."""

    @cached_property
    def largest(self) -> Candidate:
        """The largest reduction that the steps allow."""
        depth = self.sizes.part("depth")
        assert depth is not None
        gone = [step.gone(depth.count) for step in self.steps if isinstance(step, DepthFields)]
        return Candidate(sum(gone), WIDTH_STEPS if len(self.steps) > len(gone) else 0)

    def steps_of(self, candidate: Candidate) -> list[StructureStep]:
        """Return the steps that make a candidate; what takes nothing is left out."""
        reduced: list[StructureStep] = []
        for step in self.steps:
            if isinstance(step, DepthFields):
                if candidate.blocks:
                    pattern = step.pattern.model_copy(update={"count": candidate.blocks})
                    reduced.append(step.model_copy(update={"pattern": pattern, "sparsity": None}))
            elif candidate.width_step:
                sparsity = round(step.sparsity * candidate.width_step / WIDTH_STEPS, 6)
                reduced.append(step.model_copy(update={"sparsity": self._fitting(step, sparsity)}))
        return reduced

    def _fitting(self, step: WidthStep | ExpertStep, sparsity: float) -> float:
        """Return the next sparsity that leaves a number of units which a stock configuration can have."""
        part = self.sizes.part(step.pattern.kind)
        if part is None or part.fits is None or not sparsity:
            return sparsity
        kept = step.pattern.kept(part.count, sparsity=sparsity)
        fewest = step.pattern.kept(part.count, sparsity=step.sparsity)
        fitting = [count for count in part.fits if fewest <= count <= kept and count % step.pattern.multiple_of == 0]
        return round(1 - max(fitting) / part.count, 6) if fitting and kept not in part.fits else sparsity

    def _loose(self, step: StructureStep) -> bool:
        """Tell whether a step may leave any number of units, so that its sparsity determines the width step."""
        part = self.sizes.part(step.pattern.kind)
        return part is None or part.fits is None

    def candidate_of(self, steps: Sequence[StructureStep]) -> Candidate:
        """Return the candidate that `steps_of` made these steps for."""
        blocks = sum(step.pattern.count or 0 for step in steps if isinstance(step, DepthFields))
        for step in sorted(steps, key=self._loose, reverse=True):
            full_step = next((mine for mine in self.steps if mine.pattern.kind == step.pattern.kind), None)
            if full_step is not None and not isinstance(full_step, DepthFields) and full_step.sparsity:
                return Candidate(blocks, round((step.sparsity or 0.0) / full_step.sparsity * WIDTH_STEPS))
        return Candidate(blocks, 0)

    def predicted(self, candidate: Candidate, tried: Sequence[CandidateTrial] = ()) -> float:
        """Predict a candidate's size in the target's unit; a fraction of the dense model where no time is known."""
        left = self.sizes.after(self.steps_of(candidate))
        if self.target.unit == "parameters":
            return left.parameters
        if self.target.unit == "bytes":
            return left.bytes(ITEMSIZE[self.dtype])
        per_block = self._per_block(tried)
        fraction = per_block * left.blocks_fraction + (1 - per_block) * left.products_fraction
        return fraction * (_median([trial.dense for trial in tried if trial.dense]) or 1.0)

    def candidates(self, tried: Sequence[CandidateTrial]) -> list[Candidate]:
        """Return for every number of blocks the smallest reduction that reaches the target, as far as is known."""
        candidates = []
        for blocks in range(self.largest.blocks + 1):
            width_step = self._smallest_width_step(blocks, tried)
            if width_step is not None:
                candidates.append(Candidate(blocks, width_step))
            if width_step == 0:
                break  # more blocks would go for nothing
        return candidates

    def next(self, tried: Sequence[CandidateTrial]) -> Candidate | None:
        """Return the candidate to try next; None when the search is over."""
        if not tried and self.target.unit == "seconds_per_token":
            return self.largest  # measures the fastest candidate, and the dense model
        if len(tried) >= self.target.max_trials:
            return None
        candidates = {candidate.blocks: candidate for candidate in self.candidates(tried)}
        reached = {trial.candidate.blocks: trial for trial in tried if self.meets(trial)}
        for end in (min(candidates, default=None), max(candidates, default=None)):
            if end is not None and end not in reached:
                return candidates[end]
        best = min(reached.values(), key=_cost, default=None)
        if best is None:
            return None
        gaps = []
        for side in (-1, 1):
            beyond = [blocks for blocks in reached if (blocks - best.candidate.blocks) * side > 0]
            edge = min(beyond, key=lambda blocks: abs(blocks - best.candidate.blocks), default=best.candidate.blocks)
            inside = [b for b in candidates if min(edge, best.candidate.blocks) < b < max(edge, best.candidate.blocks)]
            gaps.append(inside)
        widest = max(gaps, key=len)
        return candidates[widest[len(widest) // 2]] if widest else None

    def meets(self, trial: CandidateTrial) -> bool:
        """Tell whether a trial gave a model that keeps the target."""
        return trial.measured is not None and trial.measured <= self.target.at_most

    def best(self, tried: Sequence[CandidateTrial]) -> CandidateTrial | None:
        """Return the trial of the lowest perplexity that keeps the target."""
        kept = [trial for trial in tried if self.meets(trial) and trial.increase is not None]
        return min(kept, key=_cost, default=None)

    def _smallest_width_step(self, blocks: int, tried: Sequence[CandidateTrial]) -> int | None:
        """Return the smallest width step that reaches the target with so many blocks removed; None when none does."""
        highest = self.largest.width_step
        missed = [
            trial.candidate.width_step for trial in tried if trial.candidate.blocks == blocks and not self.meets(trial)
        ]
        lowest = max(missed) + TIGHTER if missed else 0
        if lowest > highest or self.predicted(Candidate(blocks, highest), tried) > self.target.at_most:
            return None
        if self.predicted(Candidate(blocks, lowest), tried) <= self.target.at_most:
            return lowest
        low, high = lowest, highest
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._reaches(blocks, middle, tried) else (middle, high)
        return high

    def _reaches(self, blocks: int, width_step: int, tried: Sequence[CandidateTrial]) -> bool:
        return self.predicted(Candidate(blocks, width_step), tried) <= self.target.at_most

    def _per_block(self, tried: Sequence[CandidateTrial]) -> float:
        """Return the fraction of the time that blocks take whatever their width, by least squares over the trials."""
        above = below = 0.0
        for trial in tried:
            if trial.measured is None or not trial.dense:
                continue
            left = self.sizes.after(self.steps_of(trial.candidate))
            apart = left.blocks_fraction - left.products_fraction
            above += (trial.measured / trial.dense - left.products_fraction) * apart
            below += apart * apart
        return min(1.0, max(0.0, above / below)) if below else 0.0


def _cost(trial: CandidateTrial) -> float:
    return float("inf") if trial.increase is None else trial.increase


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
