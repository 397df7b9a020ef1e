"""Classify an exception of the compute process as an error for the user."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from safetensors import SafetensorError

from espalier.errors import EngineError, ErrorClass
from espalier.messages import ErrorInfo
from espalier.model import numerics
from espalier.recipe.phases import Phase

_NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
"""Messages of torch's CPU allocator; it has no exception class of its own."""

_STORAGE = (errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EROFS)
"""A disk or a mount that failed."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def _is_disk_full(error: BaseException) -> bool:
    """Tell whether the disk is full; safetensors raises its own exception with Rust's text of the error number."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return isinstance(error, SafetensorError) and any(f"(os error {number})" in str(error) for number in _DISK_FULL)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(each in str(error) for each in words)


@dataclass(frozen=True)
class _Kind:
    """One class of errors that no exception class of ours tells."""

    class_: ErrorClass
    message: str
    hint: str
    fits: Callable[[BaseException], bool]


_KINDS: Final = (
    _Kind(
        "host_oom",
        "The machine ran out of memory.",
        "Use fewer or shorter calibration samples, or a machine with more memory.",
        lambda error: isinstance(error, MemoryError) or _says(error, _NO_MEMORY),
    ),
    _Kind("disk_full", "The disk is full.", "Free space on the worker.", _is_disk_full),
    _Kind(
        "storage",
        "A file of the worker could not be read or written.",
        "Check the worker's disks and mounts.",
        lambda error: isinstance(error, OSError) and error.errno in _STORAGE,
    ),
)
"""Each may go well at another attempt."""


def classify(error: BaseException, *, phase: Phase | None) -> ErrorInfo:
    """Return the error's class, whether to retry, and a hint.

    What stock loaders raise was given its class where it was raised: what is left is ours.
    """
    if isinstance(error, EngineError):
        return ErrorInfo.of(error, phase)
    if fault := numerics.fault_of(error):
        return ErrorInfo.of_device(fault, phase)
    for kind in _KINDS:
        if kind.fits(error):
            return ErrorInfo(class_=kind.class_, retryable=True, phase=phase, hint=kind.hint, message=kind.message)
    return ErrorInfo(
        class_="internal",
        retryable=False,
        phase=phase,
        hint="The job's log has the details; report this.",
        message=f"Unexpected {type(error).__name__}.",
    )
