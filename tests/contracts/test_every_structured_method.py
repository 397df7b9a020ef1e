"""What every method promises that removes blocks, units or experts; a newcomer is tested without an edit here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from espalier.methods.structured import (
    BlockCriterion,
    CalibrationPass,
    ExpertCriterion,
    Moments,
    Routing,
    UnitCriterion,
    UnitEvidence,
)
from espalier.model.numerics import generator
from espalier.recipe.steps.structure import BLOCK_CRITERIA, EXPERT_CRITERIA, UNIT_CRITERIA
from tests.contracts.layers import frozen, untouched

BLOCKS, UNITS, EXPERTS = 6, 8, 6
NOTHING = 3
"""The block, unit or expert that does nothing, where one is asked for."""
DEPTH = pytest.mark.parametrize("criterion", [kind() for kind in BLOCK_CRITERIA.values()], ids=list(BLOCK_CRITERIA))
WIDTH = pytest.mark.parametrize("criterion", [kind() for kind in UNIT_CRITERIA.values()], ids=list(UNIT_CRITERIA))
OF_EXPERTS = pytest.mark.parametrize(
    "criterion", [kind() for kind in EXPERT_CRITERIA.values()], ids=list(EXPERT_CRITERIA)
)
SIZES = pytest.mark.parametrize("size", [1, 2])
"""Columns of a unit."""


@dataclass(frozen=True)
class Blocks:
    """Blocks that turn hidden states by so much each; what they turn back is missed."""

    turns: Sequence[float]

    @property
    def num_blocks(self) -> int:
        """How many there are."""
        return len(self.turns)

    def calibration_pass(self) -> CalibrationPass:
        """One pass of two windows, in the plane."""
        angles = torch.tensor([0.0, *self.turns], dtype=torch.float64).cumsum(dim=0)
        states_L1D = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
        influence_L = 1 - torch.tensor(self.turns, dtype=torch.float64).cos()
        return CalibrationPass(influence_L, states_L1D.repeat(1, 2, 1).float())

    def loss(self, kept: Sequence[int]) -> float:
        """The squared turns of the blocks that are not there."""
        return sum(turn**2 for index, turn in enumerate(self.turns) if index not in set(kept))


def _turns() -> list[float]:
    turns: list[float] = torch.linspace(0.1, 0.4, BLOCKS).tolist()
    turns[NOTHING] = 0.0
    return turns


@DEPTH
@pytest.mark.parametrize("count", range(1, BLOCKS))
def test_so_many_blocks_go_in_order_and_the_same_ones_again(criterion: BlockCriterion, count: int) -> None:
    gone = criterion.choose(Blocks(_turns()), count=count)
    assert gone == sorted(set(gone))
    assert len(gone) == count
    assert set(gone) <= set(range(BLOCKS))
    assert criterion.choose(Blocks(_turns()), count=count) == gone


@DEPTH
def test_a_block_that_does_nothing_goes_first_and_of_equal_blocks_the_earlier_ones(criterion: BlockCriterion) -> None:
    assert criterion.choose(Blocks(_turns()), count=1) == [NOTHING]
    assert criterion.choose(Blocks([0.0] * BLOCKS), count=3) == [0, 1, 2]


def _units(size: int, *, equal: bool = False) -> UnitEvidence:
    """Units of different weights and inputs, of which one does nothing; or equal ones on inputs that do not overlap."""
    width, draws = UNITS * size, generator(0, "units", size)
    weight_OI, input_TI = torch.randn(6, width, generator=draws), torch.randn(96, width, generator=draws)
    producers = [torch.rand(UNITS, generator=draws).double() + 0.5 for _ in range(2)]
    if equal:
        weight_OI, producers = torch.ones(6, width), [torch.ones(UNITS).double()] * 2
        input_TI = torch.cat([torch.eye(width), -torch.eye(width)])
    else:
        gone = slice(NOTHING * size, (NOTHING + 1) * size)
        weight_OI[:, gone], input_TI[:, gone] = 0, 0
        for squares_U in producers:
            squares_U[NOTHING] = 0
    moments = Moments.of(width, gram=True)
    moments.add(input_TI)
    return UnitEvidence(weight_OI, producers, moments, size)


def _without_gram(criterion: UnitCriterion, evidence: UnitEvidence) -> UnitEvidence:
    """What a walk shows to a criterion that has not declared the Gram matrix."""
    return evidence if criterion.reads_gram else replace(evidence, moments=replace(evidence.moments, gram_II=None))


@WIDTH
@SIZES
@pytest.mark.parametrize("kept", [1, 5, UNITS])
def test_so_many_units_stay_in_order_and_nothing_is_changed_in_place(
    criterion: UnitCriterion, size: int, kept: int
) -> None:
    evidence = _without_gram(criterion, _units(size))
    moments = evidence.moments
    seen = [moments.sum_I, moments.squares_I, *([] if moments.gram_II is None else [moments.gram_II])]
    before = frozen(evidence.weight_OI, *evidence.producers, *seen)
    stay = criterion.choose(evidence, kept=kept)
    assert untouched(before)
    assert stay.dtype == torch.int64
    assert stay.tolist() == sorted(set(stay.tolist()))
    assert len(stay) == kept
    assert set(stay.tolist()) <= set(range(UNITS))
    assert torch.equal(criterion.choose(_without_gram(criterion, _units(size)), kept=kept), stay)


@WIDTH
@SIZES
def test_a_unit_that_does_nothing_goes_first_and_of_equal_units_the_lower_ones(
    criterion: UnitCriterion, size: int
) -> None:
    stay = criterion.choose(_without_gram(criterion, _units(size)), kept=UNITS - 1)
    assert NOTHING not in stay.tolist()
    equal = criterion.choose(_without_gram(criterion, _units(size, equal=True)), kept=3)
    assert equal.tolist() == [UNITS - 3, UNITS - 2, UNITS - 1]


def _routing(*, equal: bool = False) -> Routing:
    """Experts of which one is never asked; or equal ones."""
    draws = generator(0, "experts")
    tokens_E = torch.full((EXPERTS,), 9) if equal else torch.randint(5, 50, (EXPERTS,), generator=draws)
    scale_E = torch.ones(EXPERTS) if equal else torch.rand(EXPERTS, generator=draws) + 0.5
    outputs = [
        torch.arange(1.0, 5.0).repeat(int(tokens), 1) * scale if equal else torch.randn(int(tokens), 4, generator=draws)
        for tokens, scale in zip(tokens_E, scale_E, strict=True)
    ]
    if not equal:
        tokens_E[NOTHING], outputs[NOTHING] = 0, torch.zeros(0, 4)
    wide = [output_TD.double() for output_TD in outputs]
    return Routing(
        tokens_E,
        torch.stack([0.5 * output_TD.norm(dim=1).sum() for output_TD in wide]),
        torch.stack([output_TD.sum(dim=0) for output_TD in wide]),
        torch.stack([output_TD.square().sum() for output_TD in wide]),
    )


@OF_EXPERTS
@pytest.mark.parametrize("kept", [1, 4, EXPERTS])
def test_so_many_experts_stay_in_order_and_nothing_is_changed_in_place(criterion: ExpertCriterion, kept: int) -> None:
    seen = _routing()
    before = frozen(seen.tokens_E, seen.weighed_E, seen.sum_ED, seen.squares_E)
    stay, score_E = criterion.choose(seen, kept=kept), criterion.score(seen)
    assert untouched(before)
    assert stay.tolist() == sorted(set(stay.tolist()))
    assert len(stay) == kept
    assert score_E.shape == (EXPERTS,)
    assert score_E.dtype == torch.float64
    assert bool(torch.isfinite(score_E).all())
    assert torch.equal(criterion.choose(_routing(), kept=kept), stay)


@OF_EXPERTS
def test_an_expert_that_nobody_asks_goes_first_and_of_equal_experts_the_lower_ones(criterion: ExpertCriterion) -> None:
    assert NOTHING not in criterion.choose(_routing(), kept=EXPERTS - 1).tolist()
    assert criterion.choose(_routing(equal=True), kept=2).tolist() == [EXPERTS - 2, EXPERTS - 1]
