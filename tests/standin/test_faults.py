"""What a card raises in a job keeps its class, wherever in the job it is raised."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.diagnosis import classify
from tests.fixtures.library.jobs import LocalJob, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.standin.card import CARD
from tests.standin.runs import attempt_on_card, run_on_card

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


RECOVERED: dict[str, Any] = {
    "prune": {"method": "sparsegpt", "sparsity": 0.5},
    "calibration": {"samples": 4, "sequence_length": 32},
    "reconstruct": {"epochs": 1, "learning_rate": 0.01, "batch_size": 2},
    "retrain": {"steps": 4, "batch_size": 2, "rank": 2, "sequence_length": 32, "learning_rate": 0.01},
}
MODEL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalJob, int]:
    """A job that nothing disturbs, and how many operators it runs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with CARD.failing(AssertionError("nothing fails"), after=10**9) as left:
        run = run_on_card(folder / "job", write_tiny_model(folder / "model", **MODEL), write_texts(folder), **RECOVERED)
    return run.job, 10**9 - left[0]


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["Xid", "cuSOLVER", "memory"])
@pytest.mark.parametrize("seed", range(4))
def test_a_fault_anywhere_keeps_its_class_and_the_next_attempt_ends_with_the_same_bytes(
    seed: int, fault: str, tmp_path: Path, undisturbed: tuple[LocalJob, int]
) -> None:
    job, operators = undisturbed
    error, *expected = FAULTS[fault]
    disturbed = replace(job, folder=tmp_path, messages=[], stored={})
    disturbed.artifact.mkdir()
    after = random.Random(f"{seed} {fault}").randint(1, operators)
    with CARD.failing(error, after=after), pytest.raises(type(error)) as raised:
        attempt_on_card(disturbed)
    info = classify(raised.value, phase=None)
    assert [info.class_, info.retryable] == expected, after
    attempt_on_card(disturbed)
    for name in ("model.safetensors", "masks.safetensors"):
        assert (disturbed.artifact / name).read_bytes() == (job.artifact / name).read_bytes(), after
