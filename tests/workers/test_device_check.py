"""What a worker asks its GPU, asked of a CPU: the real question takes a GPU."""

from __future__ import annotations

import pytest
import torch

from workers.device_check import check


def test_a_device_that_computes_passes() -> None:
    check("cpu")


def test_a_device_that_computes_wrong_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones

    def worn(*shape: int, device: str) -> torch.Tensor:
        tensor = ones(*shape, device=device)
        tensor[3, 5] += 2**-12
        return tensor

    monkeypatch.setattr(torch, "ones", worn)
    with pytest.raises(ArithmeticError, match="wrong"):
        check("cpu")


def test_a_device_that_is_not_there_does_not() -> None:
    with pytest.raises(Exception, match=r"CUDA|NVIDIA"):
        check("cuda:99")
