"""Rows on the cells of the contract tests: what the card computes against float32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from espalier.methods.base import Axes, LayerProblem, MaskProblem, Method, Pattern
from espalier.methods.statistic import Declared
from espalier.model.numerics import CPU, generator
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS, SOLVERS
from tests.contracts.cells import variants
from tests.contracts.layers import EVERY_PATTERN, inputs, share_of, statistics
from tests.gpu.setting import Setting
from tests.gpu.table import Measured, Row

SHAPE: Final = (64, 256)
"""Outputs and inputs of a layer: two blocks of columns, several thread blocks."""
TINY: Final = (8, 32)
TOKENS: Final = 4096
TIE: Final = 1e-4
"""Scores that are so near to each other, relatively, may change places: sums are taken in another order."""
NEAR: Final = 1e-3
"""Relative: scores of one weight."""
CLOSE: Final = 0.02
"""Relative: output errors behind many steps, each of which rounds."""


def rows() -> list[Row]:
    """Return one row for each axis."""
    within = f"errors within {CLOSE:.0%}"
    return [
        Row("criteria", "scores and masks beside the CPU's float32", "masks equal but for ties", 40, _criteria),
        Row("patterns", "masks of equal scores", "equal masks", 20, _patterns),
        Row("optimizers", "masks beside the CPU's float32", within, 60, _optimizers),
        Row("solvers", "refitted weights beside the CPU's float32", f"given masks equal, {within}", 90, _solvers),
    ]


@dataclass
class Tally:
    """What came of the cells of a row."""

    cells: int = 0
    broken: list[str] = field(default_factory=list)
    equal: int = 0
    """Cells whose masks are the same."""
    weights: int = 0
    """Weights in which masks differ."""
    worst: float = 0.0
    """The largest relative difference."""

    def add(self, name: str, differing: int, difference: float, *, holds: bool) -> None:
        """Count a cell."""
        self.cells += 1
        self.equal += not differing
        self.weights += differing
        self.worst = max(self.worst, difference)
        if not holds:
            self.broken.append(f"{name}: {differing} weights, {difference:.1e}")

    def measured(self) -> Measured:
        """Return the row."""
        equal = f"{self.equal} with equal masks ({self.weights} weights differ)"
        text = f"{self.cells} cells, {equal}, at most {self.worst:.1e} apart"
        broken = f"; {len(self.broken)} beyond: {'; '.join(self.broken[:4])}" if self.broken else ""
        numbers = {"cells": self.cells, "equal": self.equal, "worst": self.worst, "broken": self.broken}
        return Measured(text + broken, not self.broken and self.cells > 0, numbers)


def _every(kinds: Mapping[str, type[Method]], tag: str = "kind") -> list[Any]:
    return [kind.model_validate(choice) for kind in kinds.values() for choice in variants(kind, tag)]


def _size(setting: Setting) -> tuple[int, int]:
    return TINY if setting.card.pretend else SHAPE


def _layer(declared: Declared, size: tuple[int, int], device: torch.device) -> LayerProblem:
    """Return a layer whose statistics were gathered where it lies."""
    input_TI = _inputs(size).to(device)
    weight_OI = torch.randn(size, generator=generator(0, "weight")).to(device)
    return LayerProblem(weight_OI, statistics(declared, input_TI, outputs=size[0]), generator(0))


def _inputs(size: tuple[int, int]) -> torch.Tensor:
    return inputs(size[1], TOKENS if size == SHAPE else 128)


def _masked(declared: Declared, pattern: Pattern, size: tuple[int, int], device: torch.device) -> MaskProblem:
    """Return a layer with the same scores and mask wherever it lies."""
    layer = _layer(declared, size, device)
    score_OI = layer.weight_OI.cpu().abs() * _inputs(size).norm(dim=0)
    mask_OI = pattern.keep(score_OI, sparsity=share_of(pattern)).to(device)
    given = layer.weight_OI, layer.statistics, layer.generator, mask_OI, score_OI.to(device)
    return MaskProblem(*given, pattern, share_of(pattern))


def _gap(score_OI: torch.Tensor, ours_OI: torch.Tensor, theirs_OI: torch.Tensor) -> tuple[int, float]:
    """Return in how many weights two masks differ, and how far apart the scores that changed places are, relatively."""
    gained, lost = score_OI[ours_OI & ~theirs_OI].sort().values, score_OI[theirs_OI & ~ours_OI].sort().values
    if gained.shape != lost.shape:
        return int((ours_OI != theirs_OI).sum()), torch.inf
    apart = (gained - lost).abs() / torch.maximum(gained.abs(), lost.abs()).clamp_min(1e-30)
    return 2 * len(gained), float(apart.max()) if len(apart) else 0.0


def _criteria(setting: Setting) -> Measured:
    tally, size, device = Tally(), _size(setting), setting.card.device
    with setting.card.computing():
        for criterion in _every(CRITERIA, "method"):
            ours_OI = criterion.score(_layer(criterion.statistics, size, device)).cpu()
            score_OI = criterion.score(_layer(criterion.statistics, size, CPU))
            apart = float(((ours_OI - score_OI).abs() / score_OI.abs().clamp_min(1e-30)).max())
            tally.add(f"{criterion}", 0, apart, holds=apart <= NEAR)
            for pattern in EVERY_PATTERN:
                kept = (pattern.keep(each, sparsity=share_of(pattern)) for each in (ours_OI.to(device), score_OI))
                differing, gap = _gap(score_OI, *(each.cpu() for each in kept))
                tally.add(f"{criterion} {pattern.label()}", differing, gap, holds=gap <= TIE)
    return tally.measured()


def _patterns(setting: Setting) -> Measured:
    tally, (outputs, width) = Tally(), (48, 1024)
    draws = generator(0, "scores")
    with setting.card.computing():
        for pattern in EVERY_PATTERN:
            for name, score_OI in {
                "random": torch.rand(outputs, width, generator=draws),
                "ties": torch.randint(0, 5, (outputs, width), generator=draws).float(),
                "equal": torch.ones(outputs, width),
            }.items():
                theirs = pattern.keep(score_OI, sparsity=share_of(pattern))
                ours = pattern.keep(score_OI.to(setting.card.device), sparsity=share_of(pattern)).cpu()
                differing = int((ours != theirs).sum())
                tally.add(f"{pattern.label()} {name}", differing, 0.0, holds=not differing)
    return tally.measured()


def _error(size: tuple[int, int], layer: MaskProblem, changed_OI: torch.Tensor) -> float:
    """Return ||X (W - W')^T||^2 in float64, on the CPU."""
    lost_OI = layer.weight_OI.cpu().double() - changed_OI.cpu().double()
    return float((lost_OI @ _inputs(size).double().T).square().sum())


def _optimizers(setting: Setting) -> Measured:
    tally, size = Tally(), _size(setting)
    with setting.card.computing():
        for optimizer in _every(OPTIMIZERS):
            for pattern in EVERY_PATTERN:
                if optimizer.incompatible_with(_axes(pattern, optimizer=optimizer)):
                    continue
                masks, errors = [], []
                for device in (setting.card.device, CPU):
                    layer = _masked(optimizer.statistics, pattern, size, device)
                    mask_OI = optimizer.improve(layer)
                    masks.append(mask_OI.cpu())
                    errors.append(_error(size, layer, layer.weight_OI * mask_OI))
                apart, kept = _apart(*errors), pattern.keep(masks[0].float(), sparsity=share_of(pattern))
                holds = apart <= CLOSE and torch.equal(kept, masks[0])
                tally.add(f"{optimizer} {pattern.label()}", int((masks[0] != masks[1]).sum()), apart, holds=holds)
    return tally.measured()


def _solvers(setting: Setting) -> Measured:
    tally, size = Tally(), _size(setting)
    row = next(pattern for pattern in EVERY_PATTERN if pattern.label() == "unstructured/row")
    with setting.card.computing():
        for kind in _every(SOLVERS):
            solver = kind.for_axes(_axes(row, solver=kind))
            for pattern in EVERY_PATTERN:
                masks, errors, fine = [], [], True
                for device in (setting.card.device, CPU):
                    layer = _masked(solver.statistics, pattern, size, device)
                    refit = solver.solver_for(size, sparsity=layer.sparsity).solve(layer)
                    masks.append(refit.mask_OI.cpu())
                    errors.append(_error(size, layer, refit.weight_OI))
                    fine &= not bool(refit.weight_OI.masked_fill(refit.mask_OI, 0).any())
                apart, differing = _apart(*errors), int((masks[0] != masks[1]).sum())
                holds = fine and apart <= CLOSE and (solver.moves_mask or not differing)
                tally.add(f"{solver} {pattern.label()}", differing, apart, holds=holds)
    return tally.measured()


def _axes(pattern: Pattern, *, optimizer: Any = None, solver: Any = None) -> Axes:
    return replace(
        Axes(CRITERIA["magnitude"](), pattern, BUDGETS["uniform"](), None, None), optimizer=optimizer, solver=solver
    )


def _apart(ours: float, theirs: float) -> float:
    """Return how much larger our error is, relatively; a smaller one is welcome."""
    return max(0.0, ours - theirs) / max(theirs, 1e-30)
