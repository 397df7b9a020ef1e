"""Exceptions in words for the user."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError

from espalier.diagnosis import classify
from espalier.errors import DatasetError, NumericalError, TargetsError


@pytest.mark.parametrize(
    ("error", "class_", "retryable"),
    [
        (DatasetError("too short", hint="more"), "dataset_error", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "gpu_oom", True),
        (MemoryError(), "host_oom", True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host_oom", True),
        (RuntimeError("CUDA error: out of memory"), "gpu_oom", True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "gpu_oom", True),
        (
            RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
            "gpu_oom",
            True,
        ),
        (torch.AcceleratorError("CUDA error: out of memory"), "gpu_oom", True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device_lost", True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device_lost", True),
        (RuntimeError("CUDA error: unspecified launch failure"), "device_lost", True),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), "device_lost", True),
        (RuntimeError("No CUDA GPUs are available"), "device_lost", True),
        (RuntimeError("Found no NVIDIA driver on your system."), "device_lost", True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error"), "device_lost", True),
        (RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation"), "internal", False),
        # what torch's CPU allocator really says
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            "host_oom",
            True,
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full", True),
        # what safetensors says
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "disk_full",
            True,
        ),
        (SafetensorError("Error while deserializing: header too small"), "internal", False),
        (OSError(errno.EIO, "broken"), "storage", True),
        (OSError(errno.ENOENT, "ours"), "internal", False),
        (TargetsError("the block has no two halves to fit", hint="Use the window `block`."), "invalid_spec", False),
        (ValueError("could not read /home/secret"), "internal", False),
        (KeyError("x"), "internal", False),
    ],
)
def test_every_exception_has_a_class(error: Exception, class_: str, retryable: bool) -> None:
    info = classify(error, phase="pruning")
    assert (info.class_, info.retryable, info.phase) == (class_, retryable, "pruning")
    assert info.hint


def test_an_unexpected_error_tells_its_kind_and_keeps_its_text_for_the_log() -> None:
    assert classify(RuntimeError("/home/secret"), phase=None).message == "Unexpected RuntimeError."


def test_a_numerical_error_names_its_module() -> None:
    info = classify(NumericalError("not finite", hint="h", module="model.layers.3.fc1"), phase="pruning")
    assert info.module == "model.layers.3.fc1"
    assert info.model_dump(by_alias=True)["class"] == "numerical"
