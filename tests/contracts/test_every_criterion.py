"""What every criterion promises; a newcomer is tested without an edit here."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.base import Criterion, InputStatistics
from espalier.model.numerics import generator
from espalier.recipe.prune import CRITERIA
from espalier.recipe.spec import CompressionSpec

KINDS = pytest.mark.parametrize("criterion", [kind() for kind in CRITERIA.values()], ids=list(CRITERIA))


def _seen(criterion: Criterion, input_TI: torch.Tensor) -> InputStatistics:
    """Only what the criterion asked for."""
    wide = input_TI.double()
    return InputStatistics(
        tokens=len(input_TI),
        norm_I=None if criterion.needs == "none" else wide.square().sum(dim=0).sqrt(),
        gram_II=(wide.T @ wide).float() if criterion.needs == "gram" else None,
    )


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator(0, "case")
    return torch.randn(12, 16, generator=draws), torch.randn(64, 16, generator=draws)


@KINDS
def test_scores_have_the_shape_of_the_weight_and_are_finite_and_never_negative(criterion: Criterion) -> None:
    weight_OI, input_TI = _case()
    score_OI = criterion.score(weight_OI, _seen(criterion, input_TI), generator=generator(0))
    assert score_OI.shape == weight_OI.shape
    assert score_OI.dtype in {torch.float32, torch.float64}
    assert bool(torch.isfinite(score_OI).all())
    assert float(score_OI.min()) >= 0


@KINDS
def test_equal_seeds_give_equal_scores_and_the_weight_is_left_alone(criterion: Criterion) -> None:
    weight_OI, input_TI = _case()
    before = weight_OI.clone()
    first, second = (criterion.score(weight_OI, _seen(criterion, input_TI), generator=generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(weight_OI, before)
    other = criterion.score(weight_OI, _seen(criterion, input_TI), generator=generator(6))
    assert torch.equal(first, other) != criterion.seeded


@pytest.mark.parametrize("criterion", [kind() for kind in CRITERIA.values() if not kind.seeded])
def test_the_order_of_the_outputs_does_not_matter(criterion: Criterion) -> None:
    weight_OI, input_TI = _case()
    order = torch.randperm(12, generator=generator(1))
    score_OI = criterion.score(weight_OI, _seen(criterion, input_TI), generator=generator(0))
    moved_OI = criterion.score(weight_OI[order], _seen(criterion, input_TI), generator=generator(0))
    torch.testing.assert_close(moved_OI, score_OI[order])


@KINDS
def test_it_stands_in_a_spec_and_tells_where_it_comes_from(criterion: Criterion) -> None:
    name = criterion.model_dump()["method"]
    spec = CompressionSpec.model_validate({"prune": {"method": name, "sparsity": 0.5}})
    assert isinstance(spec.prune[0], type(criterion))
    assert criterion.summary
    assert criterion.paper
