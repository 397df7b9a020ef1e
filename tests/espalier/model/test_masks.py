"""Packed masks: the documented bits, and proofs that can fail."""

from __future__ import annotations

import pytest
import torch

from espalier.errors import BrokenResultError
from espalier.model import masks


def test_bit_b_of_byte_k_stands_for_input_8k_plus_b() -> None:
    mask_OI = torch.zeros(2, 10, dtype=torch.bool)
    mask_OI[0, 0] = mask_OI[0, 3] = mask_OI[1, 9] = True
    assert masks.pack(mask_OI).tolist() == [[0b1001, 0], [0, 0b10]]


@pytest.mark.parametrize("num_inputs", [1, 7, 8, 9, 64])
def test_packing_and_unpacking_gives_the_mask_back(num_inputs: int) -> None:
    mask_OI = torch.rand(5, num_inputs) < 0.5
    packed = masks.pack(mask_OI)
    assert torch.equal(masks.unpack(packed, num_inputs=num_inputs), mask_OI)
    assert masks.kept(packed) == int(mask_OI.sum())


def test_kept_weights_keep_their_bits() -> None:
    weight_OI = torch.tensor([[-0.0, 1e-40, 3.0]])
    applied_OI = masks.apply(weight_OI, torch.tensor([[True, True, False]]))
    assert applied_OI.view(torch.int32)[:, :2].tolist() == weight_OI.view(torch.int32)[:, :2].tolist()
    assert applied_OI[0, 2] == 0


def test_a_pruned_weight_that_is_not_zero_is_found() -> None:
    mask_OI = torch.tensor([[True, False]])
    masks.prove(torch.tensor([[1.0, 0.0]]), mask_OI, module="m")
    with pytest.raises(BrokenResultError, match="m has pruned weights"):
        masks.prove(torch.tensor([[1.0, 1e-30]]), mask_OI, module="m")


@pytest.mark.parametrize("value", [1e-30, -2.0, float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 8])
def test_a_packed_mask_finds_it_too(value: float, column: int) -> None:
    mask_OI = torch.ones(2, 9, dtype=torch.bool)
    mask_OI[1, column] = False
    weight_OI = torch.ones(2, 9).masked_fill(~mask_OI, -0.0)
    masks.prove_packed(weight_OI != 0, masks.pack(mask_OI), module="m")
    masks.prove(weight_OI, mask_OI, module="m")
    weight_OI[1, column] = value
    with pytest.raises(BrokenResultError, match="m has pruned weights"):
        masks.prove_packed(weight_OI != 0, masks.pack(mask_OI), module="m")
    with pytest.raises(BrokenResultError, match="m has pruned weights"):
        masks.prove(weight_OI, mask_OI, module="m")
