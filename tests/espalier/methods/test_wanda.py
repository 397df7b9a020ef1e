"""Wanda against ten lines of float64."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.base import LayerProblem
from espalier.methods.criteria.wanda import Wanda
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.statistics.input_norms import InputNorms
from espalier.model.numerics import generator
from espalier.stream.statistics import InputAccumulator


def _reference(weight_OI: torch.Tensor, input_TI: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Sun et al., equation 1 and algorithm 1, in plain loops of float64."""
    weight, inputs = weight_OI.double(), input_TI.double()
    mask_OI = torch.ones(weight.shape, dtype=torch.bool)
    for row in range(len(weight)):
        scores = [float(abs(w) * inputs[:, j].square().sum().sqrt()) for j, w in enumerate(weight[row])]
        for j in sorted(range(len(scores)), key=lambda j: scores[j])[: round(sparsity * len(scores))]:
            mask_OI[row, j] = False
    return mask_OI


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_the_mask_equals_a_float64_reference(dtype: torch.dtype, sparsity: float) -> None:
    draws = generator(0, dtype, sparsity)
    weight_OI = torch.randn(48, 96, generator=draws).to(dtype).float()
    input_TI = torch.randn(512, 96, generator=draws) * torch.rand(96, generator=draws)
    seen = InputAccumulator((InputNorms,), sample_tokens=0)
    for batch_TI in torch.split(input_TI, 100):
        seen.add(batch_TI)
    score_OI = Wanda().score(LayerProblem(weight_OI, seen.statistics("m"), generator(0)))
    mask_OI = Unstructured(scope="row").keep(score_OI, sparsity=sparsity)
    assert torch.equal(mask_OI, _reference(weight_OI, input_TI, sparsity))


def test_norms_tell_inputs_apart_that_float32_sums_would_not() -> None:
    # 2**24 + 1 is no float32: a running sum of squares would stay where it is.
    seen = InputAccumulator((InputNorms,), sample_tokens=0)
    seen.add(torch.full((1, 2), 4096.0))
    for _ in range(3):
        seen.add(torch.tensor([[1.0, 0.0]]))
    norm_I = seen.statistics("m")[InputNorms]
    assert norm_I.square().round().tolist() == [2.0**24 + 3, 2.0**24]
