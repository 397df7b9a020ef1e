"""An exception of the child, in words for the user."""

from __future__ import annotations

import errno

import torch
from safetensors import SafetensorError

from app.specs.lifecycle import Phase
from workers.engine.errors import EngineError
from workers.messages import ErrorInfo

_NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
"""What torch's CPU allocator says; it has no exception class of its own."""

_NO_DEVICE_MEMORY = (
    "CUDA error: out of memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation",
)  # fmt: skip
"""What the libraries below torch say where its own allocator does not speak."""
_DEVICE_LOST = (
    "CUDA error", "CUDA driver error", "CUDA-capable device", "No CUDA GPUs are available", "no NVIDIA driver",
    "Torch not compiled with CUDA enabled",
    "NVIDIA driver on your system", "CUDA unknown error", "Unexpected error from cuda", "CUBLAS_STATUS_",
    "CUSOLVER_STATUS_", "CUDNN_STATUS_", "cuDNN error", "NCCL error", "uncorrectable ECC error",
)  # fmt: skip
"""A broken GPU, or none where one was promised: after most of these the process can use it no more."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def _is_disk_full(error: BaseException) -> bool:
    """Tell whether a write found no room; safetensors has an exception of its own, with Rust's words for the number."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return isinstance(error, SafetensorError) and any(f"(os error {number})" in str(error) for number in _DISK_FULL)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(each in str(error) for each in words)


def classify(error: BaseException, *, phase: Phase | None) -> ErrorInfo:
    """Name the class, whether another attempt may help, and a way out."""
    if isinstance(error, EngineError):
        return ErrorInfo(
            class_=error.class_, retryable=False, phase=phase, module=error.module, hint=error.hint, message=str(error)
        )
    if isinstance(error, torch.OutOfMemoryError) or _says(error, _NO_DEVICE_MEMORY):
        return ErrorInfo(
            class_="gpu_oom",
            retryable=True,
            phase=phase,
            hint="Use fewer or shorter calibration samples, or a device with more memory.",
            message="The device ran out of memory.",
        )
    if isinstance(error, torch.AcceleratorError) or _says(error, _DEVICE_LOST):
        return ErrorInfo(
            class_="device_lost",
            retryable=True,
            phase=phase,
            hint="See the GPU's state on the worker (nvidia-smi, dmesg); the job's log has the driver's words.",
            message="The GPU failed or cannot be reached.",
        )
    if isinstance(error, MemoryError) or _says(error, _NO_MEMORY):
        return ErrorInfo(
            class_="host_oom",
            retryable=True,
            phase=phase,
            hint="Use fewer or shorter calibration samples, or a machine with more memory.",
            message="The machine ran out of memory.",
        )
    if _is_disk_full(error):
        return ErrorInfo(
            class_="disk_full",
            retryable=True,
            phase=phase,
            hint="Free space on the worker.",
            message="The disk is full.",
        )
    return ErrorInfo(
        class_="internal",
        retryable=False,
        phase=phase,
        hint="The job's log has the details; report this.",
        message=f"Unexpected {type(error).__name__}.",
    )
