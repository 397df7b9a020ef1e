"""The scores of RIA, LAMP, DaSS and OBS against plain loops of float64."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.base import Criterion, LayerProblem
from espalier.methods.criteria.dass import Dass
from espalier.methods.criteria.lamp import Lamp
from espalier.methods.criteria.magnitude import Magnitude
from espalier.methods.criteria.ria import Ria
from espalier.methods.criteria.sparsegpt import SparseGptScore
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from espalier.methods.statistics.input_norms import InputNorms
from espalier.methods.statistics.neuron_norms import NeuronNorms


def _case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Statistics]:
    draws = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(6, 10, generator=draws)
    input_TI = torch.randn(80, 10, generator=draws) * torch.rand(10, generator=draws)
    wide_TI = input_TI.double()
    seen: Statistics = {InputNorms: wide_TI.square().sum(0).sqrt(), Gram: (wide_TI.T @ wide_TI).float()}
    return weight_OI, input_TI, seen


def _score(criterion: Criterion, weight_OI: torch.Tensor, seen: Statistics) -> torch.Tensor:
    return criterion.score(LayerProblem(weight_OI, seen, torch.Generator()))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_ria_is_relative_to_the_row_and_the_column(exponent: float) -> None:
    weight_OI, input_TI, seen = _case()
    score_OI = _score(Ria(exponent=exponent), weight_OI, seen)
    size = weight_OI.double().abs().tolist()
    for i, row in enumerate(size):
        for j, value in enumerate(row):
            column = sum(other[j] for other in size)
            norm = float(input_TI[:, j].double().square().sum()) ** 0.5
            assert float(score_OI[i, j]) == pytest.approx((value / column + value / sum(row)) * norm**exponent)


def test_ria_scores_an_empty_row_and_an_empty_column_zero() -> None:
    weight_OI, _, seen = _case()
    weight_OI[2], weight_OI[:, 3] = 0, 0
    score_OI = _score(Ria(), weight_OI, seen)
    assert bool(torch.isfinite(score_OI).all())
    assert not bool(score_OI[2].any())
    assert not bool(score_OI[:, 3].any())


def test_lamp_is_a_share_of_everything_not_smaller() -> None:
    weight_OI, _, seen = _case()
    score_OI = _score(Lamp(), weight_OI, seen)
    values = weight_OI.double().flatten().tolist()
    for value, score in zip(values, score_OI.flatten().tolist(), strict=True):
        assert score == pytest.approx(value**2 / sum(other**2 for other in values if abs(other) >= abs(value)))
    assert float(score_OI.max()) == 1


def test_lamp_orders_the_weights_of_one_matrix_as_magnitude_does_ties_and_zeros_included() -> None:
    weight_OI = torch.randint(-2, 3, (9, 12), generator=torch.Generator().manual_seed(0)).float()
    seen: Statistics = {}
    pattern = Unstructured(scope="matrix")
    lamp, magnitude = (pattern.keep(_score(kind, weight_OI, seen), sparsity=0.4) for kind in (Lamp(), Magnitude()))
    assert torch.equal(lamp, magnitude)


def test_dass_weighs_gate_and_up_by_their_neurons_and_the_rest_as_wanda() -> None:
    weight_OI, input_TI, seen = _case()
    neurons_O = torch.rand(6).double() * 9
    gated = _score(Dass(exponent=0.5), weight_OI, {**seen, NeuronNorms: neurons_O})
    plain = _score(Dass(), weight_OI, seen)
    for i in range(6):
        for j in range(10):
            value = abs(float(weight_OI[i, j]))
            norm = float(input_TI[:, j].double().square().sum()) ** 0.5
            assert float(gated[i, j]) == pytest.approx(value * float(neurons_O[i]) ** 0.5)
            assert float(plain[i, j]) == pytest.approx(value * norm, rel=1e-6)


def test_the_obs_score_is_the_error_that_is_left_when_all_others_make_up_for_a_weight() -> None:
    weight_OI, _, seen = _case()
    damping = 0.01
    score_OI = _score(SparseGptScore(damping=damping), weight_OI, seen)
    gram = seen[Gram].double()
    hessian = gram + damping * gram.diagonal().mean() * torch.eye(10, dtype=torch.float64)
    for i in range(6):
        for j in range(10):
            row = weight_OI[i].double()
            rest = [k for k in range(10) if k != j]
            # min over the others' changes of d^T H d with d_j = -w_j
            change = torch.zeros(10, dtype=torch.float64)
            change[j] = -row[j]
            change[rest] = torch.linalg.solve(hessian[rest][:, rest], -hessian[rest, j] * change[j])
            assert float(score_OI[i, j]) == pytest.approx(float(change @ hessian @ change), rel=1e-6)


def test_the_obs_score_stands_duplicate_and_dead_inputs() -> None:
    weight_OI, input_TI, _ = _case()
    input_TI[:, 1], input_TI[:, 2] = input_TI[:, 0], 0
    gram_II = input_TI.T @ input_TI
    score_OI = _score(SparseGptScore(damping=0.01), weight_OI, {Gram: gram_II})
    assert bool(torch.isfinite(score_OI).all())
    ridge = 0.01 * float(gram_II.diagonal().mean())  # all that holds a dead input's weights
    torch.testing.assert_close(score_OI[:, 2], weight_OI[:, 2].double().square() * ridge, rtol=1e-5, atol=0)
