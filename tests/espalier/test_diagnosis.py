"""Exceptions in words for the user."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError

from espalier.diagnosis import classify
from espalier.errors import DatasetError, NumericalError, TargetsError
from espalier.recipe.phases import Phase

FULL = (
    "CUDA out of memory. Tried to allocate 7.83 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.25 GiB is "
    "free. Including non-PyTorch memory, this process has 77.84 GiB memory in use. Of the allocated memory 70.12 GiB "
    "is allocated by PyTorch, and 6.95 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory "
    "is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
"""What torch 2.13 says of a full GPU."""


@pytest.mark.parametrize(
    ("phase", "advice"),
    [("retraining", "batch_size"), ("reconstructing", "window"), ("pruning", "samples"), ("evaluating", "divergence")],
)
def test_a_full_gpu_keeps_its_sizes_and_names_what_takes_less_in_the_phase(phase: Phase, advice: str) -> None:
    error = classify(torch.OutOfMemoryError(FULL), phase=phase)
    assert error.message == (
        "The device ran out of memory: 7.83 GiB asked for, 70.12 GiB allocated, 6.95 GiB reserved beside, "
        "79.10 GiB in all."
    )
    assert advice in error.hint
    assert classify(torch.OutOfMemoryError("CUDA out of memory"), phase=phase).message.endswith("ran out of memory.")
    assert advice in classify(MemoryError(), phase=phase).hint


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
        (RuntimeError("CUDA driver error: out of memory"), "gpu_oom", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "gpu_oom", True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "gpu_oom", True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "device_lost", True),
        (RuntimeError("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'"), "gpu_oom", True),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 12020)."), "device_lost", True),
        (AssertionError("Torch not compiled with CUDA enabled"), "device_lost", True),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution"), "device_lost", True),
        (
            RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: not yet initialized"),
            "device_lost",
            True,
        ),
        (
            RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnXpotrf`"),
            "device_lost",
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), "device_lost", True),
        (RuntimeError("Unable to determine the device handle for GPU 0: GPU is lost."), "device_lost", True),
        (RuntimeError("[Rank 1] Watchdog caught collective operation timeout: ALLREDUCE"), "device_lost", True),
        (torch.AcceleratorError("an error that no version of ours has met"), "device_lost", True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "internal", False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx`"), "internal", False),
        (ValueError("CUDA error: the words of a stranger"), "internal", False),
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


def test_each_way_to_lose_a_device_says_what_to_do() -> None:
    old = classify(RuntimeError("The NVIDIA driver on your system is too old (found version 12020)."), phase=None)
    assert "Update the worker's NVIDIA driver" in old.hint
    none = classify(RuntimeError("No CUDA GPUs are available"), phase=None)
    assert "CUDA_VISIBLE_DEVICES" in none.hint
    busy = classify(RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), phase=None)
    assert "held by another process" in busy.message
    plain = classify(AssertionError("Torch not compiled with CUDA enabled"), phase=None)
    assert "TORCH_INDEX_URL" in plain.hint


def test_an_unexpected_error_tells_its_kind_and_keeps_its_text_for_the_log() -> None:
    assert classify(RuntimeError("/home/secret"), phase=None).message == "Unexpected RuntimeError."


def test_a_numerical_error_names_its_module() -> None:
    info = classify(NumericalError("not finite", hint="h", module="model.layers.3.fc1"), phase="pruning")
    assert info.module == "model.layers.3.fc1"
    assert info.model_dump(by_alias=True)["class"] == "numerical"
