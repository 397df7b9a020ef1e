"""How a size or a speed is split over depth and width: which cuts reach it, which to try next, which was best.

A cut is a number of blocks that go and a level, the share of what the width steps may take at most. For every number
of blocks the mildest level that reaches the target is the one worth trying, so the search has one dimension: it tries
the fewest and the most blocks, then halves the gaps around the best, as if perplexity had one valley.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from espalier.families.sizes import Sizes
from espalier.recipe.steps.objective import Target
from espalier.recipe.steps.structure import DepthFields, ExpertStep, StructureStep, WidthStep

LEVELS: Final = 1000
TIGHTER: Final = 25
"""Levels added where a cut that should have reached the target did not: measured times are not sums of parts."""
ITEMSIZE: Final = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Cut:
    """One way to remove."""

    blocks: int
    level: int


@dataclass(frozen=True)
class Tried:
    """What a cut gave."""

    cut: Cut
    measured: float | None
    """In the target's unit; None when the trial gave no model."""
    increase: float | None
    """Relative increase of perplexity over the dense model."""
    dense: float | None = None
    """The dense model in the target's unit, as this trial measured it."""


@dataclass(frozen=True)
class Split:
    """A target, the steps with the most that each may take, and the model."""

    target: Target
    steps: Sequence[StructureStep]
    sizes: Sizes
    dtype: str
    """Of the result."""

    @cached_property
    def most(self) -> Cut:
        """All that the steps may take."""
        depth = self.sizes.part("depth")
        assert depth is not None
        gone = [step.gone(depth.count) for step in self.steps if isinstance(step, DepthFields)]
        return Cut(sum(gone), LEVELS if len(self.steps) > len(gone) else 0)

    def steps_of(self, cut: Cut) -> list[StructureStep]:
        """Return the steps that make a cut; what takes nothing is left out."""
        cut_steps: list[StructureStep] = []
        for step in self.steps:
            if isinstance(step, DepthFields):
                if cut.blocks:
                    pattern = step.pattern.model_copy(update={"count": cut.blocks})
                    cut_steps.append(step.model_copy(update={"pattern": pattern, "sparsity": None}))
            elif cut.level:
                sparsity = round(step.sparsity * cut.level / LEVELS, 6)
                cut_steps.append(step.model_copy(update={"sparsity": self._fitting(step, sparsity)}))
        return cut_steps

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
        """Tell whether a step may leave any number of units, so that its share tells the level."""
        part = self.sizes.part(step.pattern.kind)
        return part is None or part.fits is None

    def cut_of(self, steps: Sequence[StructureStep]) -> Cut:
        """Return the cut that `steps_of` made these steps for."""
        blocks = sum(step.pattern.count or 0 for step in steps if isinstance(step, DepthFields))
        for step in sorted(steps, key=self._loose, reverse=True):
            full_step = next((mine for mine in self.steps if mine.pattern.kind == step.pattern.kind), None)
            if full_step is not None and not isinstance(full_step, DepthFields) and full_step.sparsity:
                return Cut(blocks, round((step.sparsity or 0.0) / full_step.sparsity * LEVELS))
        return Cut(blocks, 0)

    def predicted(self, cut: Cut, tried: Sequence[Tried] = ()) -> float:
        """Predict a cut's size in the target's unit; a fraction of the dense model where no time is known."""
        left = self.sizes.after(self.steps_of(cut))
        if self.target.unit == "parameters":
            return left.parameters
        if self.target.unit == "bytes":
            return left.bytes(ITEMSIZE[self.dtype])
        per_block = self._per_block(tried)
        fraction = per_block * left.blocks_share + (1 - per_block) * left.products_share
        return fraction * (_median([trial.dense for trial in tried if trial.dense]) or 1.0)

    def candidates(self, tried: Sequence[Tried]) -> list[Cut]:
        """Return for every number of blocks the narrowest reduction that reaches the target, as far as is known."""
        cuts = []
        for blocks in range(self.most.blocks + 1):
            level = self._level(blocks, tried)
            if level is not None:
                cuts.append(Cut(blocks, level))
            if level == 0:
                break  # more blocks would go for nothing
        return cuts

    def next(self, tried: Sequence[Tried]) -> Cut | None:
        """Return the cut to try next; None when the search is over."""
        if not tried and self.target.unit == "seconds_per_token":
            return self.most  # tells how fast it can get, and how slow it was
        if len(tried) >= self.target.max_trials:
            return None
        cuts = {cut.blocks: cut for cut in self.candidates(tried)}
        reached = {trial.cut.blocks: trial for trial in tried if self.meets(trial)}
        for end in (min(cuts, default=None), max(cuts, default=None)):
            if end is not None and end not in reached:
                return cuts[end]
        best = min(reached.values(), key=_cost, default=None)
        if best is None:
            return None
        gaps = []
        for side in (-1, 1):
            beyond = [blocks for blocks in reached if (blocks - best.cut.blocks) * side > 0]
            edge = min(beyond, key=lambda blocks: abs(blocks - best.cut.blocks), default=best.cut.blocks)
            inside = [b for b in cuts if min(edge, best.cut.blocks) < b < max(edge, best.cut.blocks)]
            gaps.append(inside)
        widest = max(gaps, key=len)
        return cuts[widest[len(widest) // 2]] if widest else None

    def meets(self, trial: Tried) -> bool:
        """Tell whether a trial gave a model that keeps the target."""
        return trial.measured is not None and trial.measured <= self.target.at_most

    def best(self, tried: Sequence[Tried]) -> Tried | None:
        """Return the trial of the lowest perplexity that keeps the target."""
        kept = [trial for trial in tried if self.meets(trial) and trial.increase is not None]
        return min(kept, key=_cost, default=None)

    def _level(self, blocks: int, tried: Sequence[Tried]) -> int | None:
        """Return the lowest width step that reaches the target with so many blocks gone; None when none does."""
        highest = self.most.level
        missed = [trial.cut.level for trial in tried if trial.cut.blocks == blocks and not self.meets(trial)]
        lowest = max(missed) + TIGHTER if missed else 0
        if lowest > highest or self.predicted(Cut(blocks, highest), tried) > self.target.at_most:
            return None
        if self.predicted(Cut(blocks, lowest), tried) <= self.target.at_most:
            return lowest
        low, high = lowest, highest
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._reaches(blocks, middle, tried) else (middle, high)
        return high

    def _reaches(self, blocks: int, level: int, tried: Sequence[Tried]) -> bool:
        return self.predicted(Cut(blocks, level), tried) <= self.target.at_most

    def _per_block(self, tried: Sequence[Tried]) -> float:
        """Return the fraction of the time that blocks take whatever their width, by least squares over the trials."""
        above = below = 0.0
        for trial in tried:
            if trial.measured is None or not trial.dense:
                continue
            left = self.sizes.after(self.steps_of(trial.cut))
            apart = left.blocks_share - left.products_share
            above += (trial.measured / trial.dense - left.products_share) * apart
            below += apart * apart
        return min(1.0, max(0.0, above / below)) if below else 0.0


def _cost(trial: Tried) -> float:
    return float("inf") if trial.increase is None else trial.increase


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
