"""Low-rank updates against their closed forms: where they start, what pulls at them, what they merge to."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from espalier.model import masks
from espalier.model.numerics import generator
from espalier.training import lora
from espalier.training.lora import (
    ADAPTERS,
    Adapter,
    Lora,
    LoraPrune,
    MaskLora,
    ScaleLora,
    Spp,
    effective_weight,
)

OUTPUTS, INPUTS, RANK, ALPHA = 6, 10, 3, 12.0


def _masked(*, conv: bool = False, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    base: nn.Linear = Conv1D(OUTPUTS, INPUTS) if conv else nn.Linear(INPUTS, OUTPUTS)
    base = base.to(dtype).requires_grad_(False)
    mask_OI = torch.rand(OUTPUTS, INPUTS) < 0.5
    base.weight.masked_fill_(~(mask_OI.T if conv else mask_OI), 0)
    return base, mask_OI


def _adapter(base: nn.Linear, mask_OI: torch.Tensor, *, moved: bool) -> MaskLora:
    adapter = MaskLora(
        base, mask_OI, transposed=isinstance(base, Conv1D), rank=RANK, alpha=ALPHA, generator=generator(0, "test")
    )
    if moved:
        nn.init.normal_(adapter.b_OR)
    return adapter


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
def test_an_untrained_adapter_is_the_map_itself(conv: bool) -> None:
    base, mask_OI = _masked(conv=conv)
    x_TI = torch.randn(2, 5, INPUTS)
    torch.testing.assert_close(_adapter(base, mask_OI, moved=False)(x_TI), base(x_TI), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@torch.no_grad()
def test_the_merged_map_is_the_adapter(conv: bool) -> None:
    base, mask_OI = _masked(conv=conv)
    adapter = _adapter(base, mask_OI, moved=True)
    x_TI = torch.randn(2, 5, INPUTS)
    expected = adapter(x_TI)
    stored_OI = base.weight.T if conv else base.weight
    merged_OI = effective_weight(stored_OI, adapter.b_OR, adapter.a_RI, mask_OI, ALPHA / RANK)
    got = linear(x_TI, merged_OI, base.bias)
    assert float((got - expected).norm() / expected.norm()) < 1e-6
    assert not merged_OI[~mask_OI].any()
    assert bool(torch.ne(merged_OI, stored_OI)[mask_OI].all())


def test_gradients_are_the_closed_forms() -> None:
    base, mask_OI = _masked()
    adapter = _adapter(base, mask_OI, moved=True)
    base.bias.requires_grad_(True)
    x_TI = torch.randn(7, INPUTS, requires_grad=True)
    dy_TO = torch.randn(7, OUTPUTS)
    torch.autograd.backward(adapter(x_TI), dy_TO)
    scale, gradient_OI = ALPHA / RANK, (dy_TO.T @ x_TI.detach()) * mask_OI
    weight_OI = base.weight + scale * (adapter.b_OR @ adapter.a_RI) * mask_OI
    torch.testing.assert_close(adapter.b_OR.grad, scale * gradient_OI @ adapter.a_RI.T)
    torch.testing.assert_close(adapter.a_RI.grad, scale * adapter.b_OR.T @ gradient_OI)
    torch.testing.assert_close(base.bias.grad, dy_TO.sum(0))
    torch.testing.assert_close(x_TI.grad, dy_TO @ weight_OI)


def test_gradients_agree_with_finite_differences_in_the_loss() -> None:
    base, mask_OI = _masked()
    adapter = _adapter(base, mask_OI, moved=True)
    x_TI = torch.randn(7, INPUTS)

    def loss() -> torch.Tensor:
        return adapter.forward(x_TI).sin().sum()

    for parameter in (adapter.a_RI, adapter.b_OR):
        (gradient,) = torch.autograd.grad(loss(), parameter)
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-2)
            above = float(loss())
            parameter.sub_(direction, alpha=2e-2)
            below = float(loss())
            parameter.add_(direction, alpha=1e-2)
        assert (above - below) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=2e-2, abs=2e-2)


def test_no_copy_of_the_effective_weight_is_kept_for_backward() -> None:
    base, mask_OI = _masked()
    adapter = _adapter(base, mask_OI, moved=True)
    x_TI = torch.randn(7, INPUTS)
    known = {t.data_ptr() for t in (x_TI, base.weight, adapter.a_RI, adapter.b_OR, adapter.bits)}
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, keep):
        adapter(x_TI)
    assert {t.data_ptr() for t in saved} <= known


@torch.no_grad()
def test_a_kept_weight_of_exactly_zero_can_come_back() -> None:
    base, mask_OI = _masked()
    row, column = mask_OI.nonzero()[0].tolist()
    base.weight[row, column] = 0
    adapter = _adapter(base, mask_OI, moved=True)
    merged_OI = effective_weight(base.weight, adapter.b_OR, adapter.a_RI, mask_OI, 1.0)
    assert merged_OI[row, column] != 0


@torch.no_grad()
def test_under_autocast_the_forward_pass_still_equals_the_merge() -> None:
    base, mask_OI = _masked(dtype=torch.bfloat16)
    adapter = _adapter(base, mask_OI, moved=True)
    x_TI = torch.randn(5, INPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = adapter(x_TI)
    merged_OI = effective_weight(base.weight, adapter.b_OR, adapter.a_RI, mask_OI, ALPHA / RANK).bfloat16()
    torch.testing.assert_close(got, linear(x_TI.bfloat16(), merged_OI, base.bias), rtol=0, atol=0)


EXACT = [MaskLora, ScaleLora, Spp]


def _double(kind: type[Adapter], *, moved: bool = True) -> tuple[Adapter, torch.Tensor]:
    """An adapter in float64."""
    base, mask_OI = _masked()
    adapter = kind(base, mask_OI, rank=RANK, alpha=ALPHA, generator=generator(0, "test")).double()
    if moved:
        with torch.no_grad():
            for factor in (adapter.a_RI, adapter.b_OR):
                factor.add_(torch.randn_like(factor))
    return adapter, mask_OI


@pytest.mark.parametrize("kind", sorted(ADAPTERS))
@pytest.mark.parametrize("alpha", [1.0, 32.0])
def test_every_adapter_starts_as_the_map_itself(kind: str, alpha: float) -> None:
    base, mask_OI = _masked()
    adapter = ADAPTERS[kind](base, mask_OI, rank=RANK, alpha=alpha, generator=generator(0, "test"))
    x_TI = torch.randn(7, INPUTS)
    torch.testing.assert_close(adapter(x_TI), base(x_TI), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", [1, lora.PART], ids=["row by row", "at once"])
@pytest.mark.parametrize("kind", EXACT)
def test_gradients_of_every_effective_weight_are_the_closed_forms(
    kind: type[Adapter], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "PART", part)
    adapter, mask_OI = _double(kind)
    weight_OI: torch.Tensor = adapter.oriented_weight()
    x_TI = torch.randn(7, INPUTS, dtype=torch.float64, requires_grad=True)
    dy_TO = torch.randn(7, OUTPUTS, dtype=torch.float64)
    y_TO = adapter(x_TI)
    torch.autograd.backward(y_TO, dy_TO)
    scale, g_OI = ALPHA / RANK, dy_TO.T @ x_TI.detach()
    pulls: dict[type[Adapter], torch.Tensor] = {
        MaskLora: scale * g_OI * mask_OI,
        ScaleLora: g_OI * weight_OI,
        Spp: scale * g_OI * weight_OI,
    }
    pull_OI = pulls[kind]
    product_OI = adapter.b_OR @ adapter.a_RI
    effective: dict[type[Adapter], torch.Tensor] = {
        MaskLora: weight_OI + scale * product_OI * mask_OI,
        ScaleLora: weight_OI * product_OI,
        Spp: weight_OI + scale * weight_OI * product_OI,
    }
    torch.testing.assert_close(adapter.b_OR.grad, pull_OI @ adapter.a_RI.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(adapter.a_RI.grad, adapter.b_OR.T @ pull_OI, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x_TI.grad, dy_TO @ effective[kind], rtol=1e-12, atol=1e-12)
    bias_O: torch.Tensor = adapter.base.bias  # type: ignore[assignment]
    torch.testing.assert_close(y_TO, linear(x_TI, effective[kind], bias_O), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", EXACT)
def test_autograd_finds_the_same_gradients_numerically(kind: type[Adapter]) -> None:
    adapter, _ = _double(kind)
    x_TI = torch.randn(3, INPUTS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: adapter(x), (x_TI, adapter.a_RI, adapter.b_OR))


@pytest.mark.parametrize("kind", [MaskLora, ScaleLora, Spp, Lora, LoraPrune])
@torch.no_grad()
def test_what_is_merged_is_what_was_trained_except_for_lora_prune(kind: type[Adapter]) -> None:
    adapter, mask_OI = _double(kind)
    x_TI = torch.randn(7, INPUTS, dtype=torch.float64)
    merged_OI = kind.merged(adapter.oriented_weight(), adapter.b_OR, adapter.a_RI, mask_OI, adapter.scale)
    trained_TO = adapter(x_TI)
    bias_O: torch.Tensor = adapter.base.bias  # type: ignore[assignment]
    gap = float((linear(x_TI, merged_OI, bias_O) - trained_TO).norm() / trained_TO.norm())
    if kind.merges_exactly:
        assert gap < 1e-12
    else:
        assert gap > 0.1, "LoRA-Prune throws a part of its update away"
    assert bool(merged_OI[~mask_OI].any()) == (kind is Lora), "a dense update fills zeros: it stays apart"


@pytest.mark.parametrize("kind", EXACT)
def test_no_adapter_keeps_an_effective_weight(kind: type[Adapter]) -> None:
    adapter, _ = _double(kind)
    x_TI = torch.randn(7, INPUTS, dtype=torch.float64)
    weight = adapter.oriented_weight()
    known = {t.data_ptr() for t in (x_TI, weight, adapter.a_RI, adapter.b_OR, adapter.bits)}
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, keep):
        adapter(x_TI)
    assert saved
    assert {t.data_ptr() for t in saved} <= known


@pytest.mark.parametrize("num_inputs", [1, 7, 8, 9, 64])
def test_masks_unpack_on_the_device_as_on_the_disk(num_inputs: int) -> None:
    mask_OI = torch.rand(5, num_inputs) < 0.5
    assert torch.equal(masks.unpack_here(masks.pack(mask_OI), num_inputs=num_inputs), mask_OI)
