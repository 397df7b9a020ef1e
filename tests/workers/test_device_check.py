"""What a worker asks its GPU, asked of a CPU: the real question takes a GPU."""

from __future__ import annotations

import subprocess

import pytest
import torch

from espalier.errors import device_fault
from workers.device_check import check
from workers.processes.process import ROOT, Commands


def test_a_device_that_computes_passes() -> None:
    check("cpu")


def test_a_device_that_computes_wrong_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch.Tensor.__matmul__
    products = iter([2**-10, 0.0])

    def worn(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = multiply(left, right)
        product[3, 5] += next(products)
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", worn)
    with pytest.raises(ArithmeticError, match="1 of 262144 sums wrong"):
        check("cpu")


def test_a_device_that_is_not_there_does_not() -> None:
    with pytest.raises(Exception, match=r"CUDA|NVIDIA"):
        check("cuda:99")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_question_to_a_gpu_that_is_not_there_ends_in_the_words_of_torch() -> None:
    asked = subprocess.run(Commands().device, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    fault = device_fault(asked.stderr.splitlines()[-1])
    assert fault is not None
    assert fault.class_ == "device_lost"
