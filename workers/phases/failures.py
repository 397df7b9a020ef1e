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

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def _is_disk_full(error: BaseException) -> bool:
    """Tell whether a write found no room; safetensors has an exception of its own, with Rust's words for the number."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return isinstance(error, SafetensorError) and any(f"(os error {number})" in str(error) for number in _DISK_FULL)


def classify(error: BaseException, *, phase: Phase | None) -> ErrorInfo:
    """Name the class, whether another attempt may help, and a way out."""
    if isinstance(error, EngineError):
        return ErrorInfo(
            class_=error.class_, retryable=False, phase=phase, module=error.module, hint=error.hint, message=str(error)
        )
    if isinstance(error, torch.OutOfMemoryError):
        return ErrorInfo(
            class_="gpu_oom",
            retryable=True,
            phase=phase,
            hint="Use fewer or shorter calibration samples, or a device with more memory.",
            message="The device ran out of memory.",
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
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
