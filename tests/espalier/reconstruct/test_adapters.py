"""MaskLoRA inside a window: it begins as the pruned module, ends merged, and never touches a zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from espalier.errors import TargetsError, UnsupportedArchitectureError
from espalier.reconstruct.adapters import AdapterSize, adapted
from espalier.reconstruct.fit import FitPlan, Window, fit
from espalier.training.trainables import count_trained, freeze

LIKE = AdapterSize(rank=3, alpha=6.0, seed=5)


def _pruned(*, transposed: bool) -> tuple[nn.Sequential, dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    first: nn.Module = Conv1D(12, 8) if transposed else nn.Linear(8, 12)
    module = nn.Sequential(first, nn.Linear(12, 8))
    inputs = torch.randn(24, 5, 8)
    targets = module(inputs).detach()
    masks = {f"{at}.weight": torch.rand(module.get_parameter(f"{at}.weight").shape) < 0.5 for at in (0, 1)}
    for name, mask in masks.items():
        module.get_parameter(name).data.masked_fill_(~mask, 0.0)
    freeze(module)
    return module, masks, inputs, targets


@pytest.mark.parametrize("transposed", [False, True])
def test_step_zero_is_the_pruned_module_and_the_merge_is_exact(transposed: bool) -> None:
    module, masks, inputs, _ = _pruned(transposed=transposed)
    before, homes = module(inputs), [module[0], module[1]]
    stored = dict.fromkeys(masks, torch.float32)
    with adapted(module, masks, stored=stored, like=LIKE) as adapters:
        assert torch.equal(module(inputs), before)
        factors = [item for item in adapters.trainables if item.kind == "mask_lora"]
        for item in factors:
            item.parameter.data.add_(0.1)
        trained = module(inputs).detach()
        assert not torch.allclose(trained, before, atol=1e-2)
        adapters.merge()
        torch.testing.assert_close(module(inputs), trained, rtol=1e-5, atol=1e-5)
        assert count_trained(factors) == 2 * 3 * (8 + 12)
    assert [module[0], module[1]] == homes
    torch.testing.assert_close(module(inputs), trained, rtol=1e-5, atol=1e-5)
    for name, mask in masks.items():
        assert not module.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_rank_above_the_smaller_side_is_refused(transposed: bool) -> None:
    module, masks, _, _ = _pruned(transposed=transposed)
    stored = dict.fromkeys(masks, torch.float32)
    with pytest.raises(TargetsError, match="0 is only 12 x 8, too small for a rank of 9") as caught:
        adapted(module, masks, stored=stored, like=AdapterSize(rank=9, alpha=6.0, seed=5)).__enter__()
    assert caught.value.hint == "Ask for a rank of 8 at most."
    with adapted(module, masks, stored=stored, like=AdapterSize(rank=8, alpha=6.0, seed=5)):
        pass


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [None, 1e30])
def test_a_fit_with_adapters_ends_merged_and_never_worse(stored: torch.dtype, rate: float | None) -> None:
    module, masks, inputs, targets = _pruned(transposed=False)
    for parameter in module.parameters():
        parameter.data.copy_(parameter.to(stored))
    with adapted(module, masks, stored=dict.fromkeys(masks, stored), like=LIKE) as adapters:
        window = Window(
            run=module,
            trainables=adapters.trainables,
            inputs=inputs,
            targets=targets,
            power=float(targets.square().mean()),
            merge=adapters.merge,
        )
        plan = FitPlan(epochs=6, batch_size=4, validation_fraction=0.0, learning_rate=rate, seed=1)
        result = fit(window, plan)
    error = float((module(inputs) - targets).square().mean() / targets.square().mean())
    assert error == pytest.approx(result.error_after, rel=1e-4)
    assert result.error_after < 0.9 * result.error_before if rate is None else result.error_after == result.error_before
    for name, mask in masks.items():
        weight = module.get_parameter(name)
        assert not weight[~mask].any()
        assert torch.equal(weight, weight.to(stored).float())


def test_what_is_no_matrix_takes_no_adapter() -> None:
    module = nn.RMSNorm(4)
    masks = {"weight": torch.ones(4, dtype=torch.bool)}
    stored = {"weight": torch.float32}
    with pytest.raises(UnsupportedArchitectureError), adapted(module, masks, stored=stored, like=LIKE):
        pass
