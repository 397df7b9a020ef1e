"""What every criterion promises; a newcomer is tested without an edit here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from espalier.errors import NumericalError
from espalier.methods.base import Criterion
from espalier.methods.statistic import Statistics, readers_among
from espalier.model.numerics import generator
from espalier.prune.selection import score
from espalier.recipe.steps.prune import CRITERIA
from espalier.stream.readout import Readout
from tests.contracts.cells import variants
from tests.contracts.layers import OUTPUTS, Recorded, frozen, problem, tensors_of, untouched

EVERY = [kind.model_validate(choice) for kind in CRITERIA.values() for choice in variants(kind, "method")]
KINDS = pytest.mark.parametrize("criterion", EVERY, ids=lambda criterion: str(criterion.method))
READ = pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
"""Whether the layer lies where statistics of another matrix's input are known."""


@KINDS
@READ
def test_scores_have_the_shape_of_the_weight_and_are_finite_and_never_negative(
    criterion: Criterion, read: bool
) -> None:
    layer = problem(criterion.statistics, read=read)
    score_OI = criterion.score(layer)
    assert score_OI.shape == layer.weight_OI.shape
    assert score_OI.dtype in {torch.float32, torch.float64}
    assert bool(torch.isfinite(score_OI).all())
    assert float(score_OI.min()) >= 0


@KINDS
@READ
def test_equal_seeds_give_equal_scores_and_nothing_is_changed_in_place(criterion: Criterion, read: bool) -> None:
    first, again, other = (problem(criterion.statistics, seed=seed, read=read) for seed in (5, 5, 6))
    before = frozen(*tensors_of(first))
    score_OI = criterion.score(first)
    assert untouched(before)
    assert torch.equal(score_OI, criterion.score(again))
    assert torch.equal(score_OI, criterion.score(other)) != criterion.seeded


@KINDS
def test_it_reads_what_it_declares_and_nothing_else(criterion: Criterion) -> None:
    """Anything else raises KeyError: the layer has no other statistics."""
    read = set()
    for layer in (problem(criterion.statistics), problem(criterion.statistics, read=False)):
        criterion.score(layer)
        assert isinstance(layer.statistics, Recorded)
        read |= layer.statistics.read
    assert read == set(criterion.statistics)


@pytest.mark.parametrize("criterion", [item for item in EVERY if readers_among(item.statistics)], ids=str)
def test_a_statistic_of_another_matrix_s_input_decides_where_it_is_known(criterion: Criterion) -> None:
    here, elsewhere = (criterion.score(problem(criterion.statistics, read=read)) for read in (True, False))
    assert not torch.allclose(here.double(), elsewhere.double())


@pytest.mark.parametrize("criterion", [item for item in EVERY if not item.seeded], ids=str)
def test_the_order_of_the_outputs_does_not_matter(criterion: Criterion) -> None:
    layer = problem(criterion.statistics)
    order = torch.randperm(OUTPUTS, generator=generator(1))
    of_outputs: Statistics = {kind: layer.statistics[kind][order] for kind in readers_among(criterion.statistics)}
    moved = replace(layer, weight_OI=layer.weight_OI[order], statistics={**layer.statistics, **of_outputs})
    torch.testing.assert_close(criterion.score(moved), criterion.score(layer)[order])


@pytest.mark.parametrize("criterion", [item for item in EVERY if not item.seeded], ids=str)
@READ
def test_nothing_scores_below_a_zero_and_the_last_bit_of_a_weight_counts(criterion: Criterion, read: bool) -> None:
    layer = problem(criterion.statistics, read=read)
    layer.weight_OI[2, 3] = 0
    score_OI = criterion.score(layer)
    assert float(score_OI[2, 3]) == float(score_OI.min()) == 0
    size, infinity = layer.weight_OI[4, 5].abs(), torch.tensor(torch.inf)
    layer.weight_OI[4, 5] = torch.nextafter(size, infinity)
    assert float(criterion.score(layer)[4, 5]) > float(score_OI[4, 5])


@KINDS
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(criterion: Criterion, broken: float) -> None:
    layer = problem(criterion.statistics)
    layer.weight_OI[1, 2] = broken
    with pytest.raises(NumericalError) as caught, Readout() as readout:
        score(criterion, layer, module="model.layers.3.fc1", readout=readout)
    assert caught.value.module == "model.layers.3.fc1"
