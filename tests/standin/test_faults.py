"""What a card raises in a job keeps its class, wherever in the job it is raised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espalier.diagnosis import classify
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.standin.card import CARD
from tests.standin.runs import run_on_card

FAULTS: dict[str, tuple[Exception, str, bool]] = {
    "Xid": (torch.AcceleratorError("CUDA error: unspecified launch failure"), "device_lost", True),
    "cuBLAS": (
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        "device_lost",
        True,
    ),
    "cuSOLVER": (RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"), "device_lost", True),
    "memory of cuBLAS": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "gpu_oom", True),
    "memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "gpu_oom", True),
    "assertion": (torch.AcceleratorError("CUDA error: device-side assert triggered"), "internal", False),
}
MOMENTS = {"first operators": 3, "certificate": 40, "walk": 2500}
"""Moment -> operators that run before it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("source")
    return write_tiny_model(folder / "model"), write_texts(folder)


def classified(fault: str, moment: str, folder: Path, source: tuple[Path, Path]) -> tuple[str, bool]:
    error = FAULTS[fault][0]
    with CARD.failing(error, after=MOMENTS[moment]), pytest.raises(type(error)) as raised:
        run_on_card(folder / "job", *source, prune={"method": "sparsegpt", "sparsity": 0.5})
    info = classify(raised.value, phase="pruning")
    return info.class_, info.retryable


@pytest.mark.deep
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_keeps_its_class(fault: str, moment: str, tmp_path: Path, source: tuple[Path, Path]) -> None:
    assert classified(fault, moment, tmp_path, source) == FAULTS[fault][1:]


@pytest.mark.parametrize("moment", ["first operators", "certificate"])
def test_a_fault_is_not_taken_for_the_models_own(moment: str, tmp_path: Path, source: tuple[Path, Path]) -> None:
    assert classified("cuBLAS", moment, tmp_path, source) == ("device_lost", True)
