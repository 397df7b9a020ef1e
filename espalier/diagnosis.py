"""Classify an exception of the compute process as an error for the user."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
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


LESS_MEMORY: Final[Mapping[str, str]] = {
    "baseline": "Leave out `evaluate.tasks`, or use shorter windows of `evaluate.perplexity`.",
    "calibrating": "Use fewer or shorter calibration samples, or a method without Gram matrices.",
    "pruning": "Use fewer or shorter calibration samples, or a method without Gram matrices.",
    "reconstructing": "Use reconstruct.window `submodule` or `matrix`, or a smaller reconstruct.batch_size.",
    "retraining": "Use a smaller retrain.batch_size (`accumulate` makes up for it), or no teacher.",
    "evaluating": "Leave out `divergence`, `tasks` or `latency` of `evaluate`, or use shorter windows of `perplexity`.",
}
"""Phase -> what takes less memory in it."""
_SIZES: Final = {
    "asked for": re.compile(r"Tried to allocate ([\d.]+ \w+)"),
    "allocated": re.compile(r"([\d.]+ \w+) is allocated by PyTorch"),
    "reserved beside": re.compile(r"([\d.]+ \w+) is reserved by PyTorch"),
    "in all": re.compile(r"total capacity of ([\d.]+ \w+)"),
}
"""What torch tells of a full GPU."""


def _with_sizes(info: ErrorInfo, text: str) -> ErrorInfo:
    """Keep the sizes that torch tells, and name what takes less in the phase."""
    sizes = [f"{match[1]} {what}" for what, pattern in _SIZES.items() if (match := pattern.search(text))]
    message = f"{info.message.removesuffix('.')}: {', '.join(sizes)}." if sizes else info.message
    return info.model_copy(update={"message": message, "hint": LESS_MEMORY.get(info.phase or "", info.hint)})


def classify(error: BaseException, *, phase: Phase | None) -> ErrorInfo:
    """Return the error's class, whether to retry, and a hint.

    What stock loaders raise was given its class where it was raised: what is left is ours.
    """
    if isinstance(error, EngineError):
        return ErrorInfo.of(error, phase)
    if fault := numerics.fault_of(error):
        info = ErrorInfo.of_device(fault, phase)
        return info if fault.class_ != "gpu_oom" else _with_sizes(info, str(error))
    for kind in _KINDS:
        if kind.fits(error):
            hint = LESS_MEMORY.get(phase or "", kind.hint) if kind.class_ == "host_oom" else kind.hint
            return ErrorInfo(class_=kind.class_, retryable=True, phase=phase, hint=hint, message=kind.message)
    return ErrorInfo(
        class_="internal",
        retryable=False,
        phase=phase,
        hint="The job's log has the details; report this.",
        message=f"Unexpected {type(error).__name__}.",
    )
