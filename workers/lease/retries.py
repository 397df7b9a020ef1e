"""Retry policy: which failure is worth another attempt, and when; the supervisor's own errors as ErrorInfo."""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from app.errors import StorageError
from espalier.errors import ErrorClass, device_fault
from espalier.messages import ErrorInfo
from espalier.recipe.phases import Phase
from espalier.recipe.refusals import pointers

MACHINE_LOST: Final = "machine_lost"
"""What a `worker_lost` from outside is charged as: a machine that went is not the job's own crash."""


class Retries(NamedTuple):
    """How often a job that gets on nowhere may fail in one way and be tried again, and the pause after the first."""

    attempts: int
    first_pause_seconds: float


_TRANSIENT: Final = Retries(5, 2.0)
_FOR_GOOD: Final = Retries(0, 0.0)
_SMALLER: Final = Retries(3, 2.0)
"""Each of them takes less memory than the one before (`requests.ran_out`), or finds more room."""
_HALF_AN_HOUR: Final = 12
"""Attempts that outlast a restart of a registry, with their pauses."""
RETRIES: Final[Mapping[ErrorClass | Literal["machine_lost"], Retries]] = {
    MACHINE_LOST: Retries(_HALF_AN_HOUR, 0.5),
    "worker_lost": Retries(3, 0.5),
    "source_unreachable": Retries(_HALF_AN_HOUR, 5.0),
    "gpu_oom": _SMALLER,
    "host_oom": _SMALLER,
    "device_lost": _TRANSIENT,
    "disk_full": _TRANSIENT,
    "storage": _TRANSIENT,
    "publish_failed": _TRANSIENT,
    "invalid_spec": _FOR_GOOD,
    "unsupported_architecture": _FOR_GOOD,
    "source_not_found": _FOR_GOOD,
    "source_gated": _FOR_GOOD,
    "source_unsafe": _FOR_GOOD,
    "dataset_error": _FOR_GOOD,
    "numerical": _FOR_GOOD,
    "collapsed": _FOR_GOOD,
    "timeout": _FOR_GOOD,
    "internal": _FOR_GOOD,
}
"""Every way to fail; an error that says that it is not retryable is not, whatever its class."""
_MAX_BACKOFF_SECONDS = 300.0

_NO_MEMORY: Final = ("memory allocation of", "bad_alloc", "MemoryError", "Cannot allocate memory", "start new thread")
"""What Rust, C++ and Python say last where a limit on memory is met."""


class JobFailed(Exception):
    """An attempt ended in an error that is already in the contract's words."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


def charged_as(error: ErrorInfo) -> ErrorClass | Literal["machine_lost"]:
    """Return what a failure is counted as: a machine that was lost is not the job's own crash."""
    return MACHINE_LOST if error.outside else error.class_


def budget(error: ErrorInfo) -> int:
    """Return how many attempts may fail in this way with no progress between them and still be followed by another.

    Progress is a new checkpoint, or more fetched bytes than ever.
    """
    # A limit that cannot hold the job holds it no better the second time.
    return RETRIES[charged_as(error)].attempts if error.retryable else 0


def backoff_seconds(error: ErrorInfo, failures: int) -> float:
    """Return the pause before the next attempt after so many such failures: doubling, with jitter."""
    first = RETRIES[charged_as(error)].first_pause_seconds
    pause: float = min(first * 2.0 ** (failures - 1), _MAX_BACKOFF_SECONDS)
    return pause * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)


def describe(error: ErrorInfo, *, attempt: int) -> dict[str, Any]:
    """Return the error document of the contract, without the one character that Postgres cannot store."""
    document = error.model_dump(mode="json", by_alias=True)
    texts = {name: value.replace("\x00", "") for name, value in document.items() if isinstance(value, str)}
    return {**document, **texts, "attempt": attempt}


def as_sent(error: ErrorInfo, body: object) -> ErrorInfo:
    """Translate an error's pointer into the body as it was sent, where `prune` may be one object."""
    if not (error.module or "").startswith("/"):
        return error
    given = str(error.module)
    pointer = pointers.into(body, given)
    return error.model_copy(update={"module": pointer, "hint": error.hint.replace(given, pointer)})


def lost_worker(phase: Phase | None) -> ErrorInfo:
    """Return the error of an attempt whose worker stopped sending heartbeats."""
    return ErrorInfo(
        class_="worker_lost",
        retryable=True,
        phase=phase,
        hint="The job goes on from its last checkpoint.",
        message="the worker that held the job stopped answering",
        outside=True,
    )


def hung(phase: Phase | None, seconds: float, *, on_gpu: bool) -> ErrorInfo:
    """Return the error of an attempt whose child hangs: on a GPU, that is what is asked next."""
    return ErrorInfo(
        class_="device_lost" if on_gpu else "worker_lost",
        retryable=True,
        phase=phase,
        hint="The job goes on from its last checkpoint; ESPALIER_HANG_SECONDS bounds how long a child may stand still.",
        message=f"the child made no step for {seconds:.0f} seconds and was ended",
    )


def stuck(phase: Phase | None) -> ErrorInfo:
    """Return the error of an attempt whose child the kernel cannot end: a broken GPU or disk under it."""
    return ErrorInfo(
        class_="device_lost",
        retryable=True,
        phase=phase,
        message="the child hangs inside the kernel and cannot be ended",
        hint="See the kernel's log of the worker's host (dmesg, nvidia-smi): its GPU may have to be reset.",
    )


def silent(message: str) -> ErrorInfo:
    """Return the error of a child that exited with status 0 and sent no result."""
    return ErrorInfo(
        class_="internal", retryable=False, phase=None, message=message, hint="This is a fault of the service."
    )


def from_exit(status: int, tail: list[str], phase: Phase | None, *, out_of_memory: bool) -> ErrorInfo:
    """Return the error of a child that ended without a result, from its exit status and last lines."""
    ran_out = any(words in line for line in tail for words in _NO_MEMORY)
    if ran_out and not out_of_memory and phase in {"resolving", "fetching"}:
        return ErrorInfo(
            class_="source_unsafe",
            retryable=False,
            phase=phase,
            message="reading the model's small files or its text takes more memory than the fetcher has",
            hint="See the sizes of its tokenizer, headers and rows, or raise ESPALIER_FETCH_MEMORY_BYTES.",
        )
    if (status < 0 and out_of_memory) or ran_out:
        return ErrorInfo(
            class_="host_oom",
            retryable=True,
            phase=phase,
            message="the system ended the child: out of memory",
            hint="Lower calibration.samples, sequence_length or batch_size, or use a machine with more memory.",
        )
    if status == -signal.SIGABRT and (fault := device_fault("\n".join(tail))):  # raised where no Python runs
        return ErrorInfo.of_device(fault, phase)
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return ErrorInfo(
            class_="worker_lost",
            retryable=True,
            phase=phase,
            message=f"the child was ended by {name}",
            hint="The job goes on from its last checkpoint.",
        )
    last = tail[-1][:300] if tail else "nothing"
    return ErrorInfo(
        class_="internal",
        retryable=False,
        phase=phase,
        hint="This is a fault of the service; see the job's logs.",
        message=f"the child ended with status {status} and no result; its last line: {last}",
    )


def from_exception(error: Exception, phase: Phase | None) -> ErrorInfo:
    """Return the error for an exception in the supervisor itself: disk, store, or a fault of ours."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ErrorInfo(
            class_="disk_full",
            retryable=True,
            phase=phase,
            message="no space left for the job's files",
            hint="Free space below ESPALIER_SCRATCH_DIR (or raise its cap), ESPALIER_CACHE_DIR or the store.",
        )
    if isinstance(error, StorageError | OSError):
        detail = error.detail if isinstance(error, StorageError) else f"{type(error).__name__} on the worker's disk"
        return ErrorInfo(
            class_="storage",
            retryable=True,
            phase=phase,
            message=detail,
            hint="The object store or the worker's disk refused; see that it can be reached and written.",
        )
    return ErrorInfo(
        class_="internal",
        retryable=False,
        phase=phase,
        message=f"{type(error).__name__} in the worker",
        hint="This is a fault of the service; see the worker's log.",
    )


def source_changed() -> ErrorInfo:
    """Return the error of a resumed job whose source holds another model by now."""
    return ErrorInfo(
        class_="source_not_found",
        retryable=False,
        phase="resolving",
        hint="Submit the job again for the new content.",
        message="source changed: its files are not those that the job started with",
    )
