"""Supervise one child until it ends: record its messages, upload checkpoints, obey cancel and drain."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.settings import Settings
from espalier.messages import Alive, Checkpoint, Done, ErrorInfo, Failed, Log, MembersRequested
from espalier.recipe.phases import Phase
from workers.lease.holder import Interrupted, LeaseHolder
from workers.lease.retries import JobFailed, from_exit, hung, stuck
from workers.messages import AnyMessage, Fetched, Published, RecordedMessage, Resolved
from workers.processes.process import Child, Side
from workers.processes.workspace import DiskQuota
from workers.supervisor.checkpoints import CheckpointUploader
from workers.supervisor.recorder import Recorder

Outcome = Done | MembersRequested | Fetched | Published
TICK_SECONDS = 0.1
DRAIN_SECONDS = 20.0
"""What a stopped attempt may take to store the checkpoints that its child has finished."""
STILL_SECONDS = {"fetch": 6 * 3600.0, "publish": 3600.0}
"""How long a child with the network may stand still; a fetcher may wait while another one downloads the same files."""
STILL_CPU_SECONDS = 1.0
"""A child that uses less than this while it says nothing, for as long as it may, hangs."""


class Ended(NamedTuple):
    """What is left of an attempt that is over."""

    error: ErrorInfo | None
    computed_by: int | None
    """The process that computed, if it came so far."""


@dataclass(frozen=True)
class Watch:
    """How long a child may make no step, and what counts as one."""

    still_seconds: float
    on_gpu: bool = False
    """A thread spins while it waits for a GPU, for a kernel that never ends too: CPU time tells nothing."""
    of_ranks: bool = False
    """The child looks after its ranks ten times a second: its CPU time tells nothing of theirs."""

    @classmethod
    def of(cls, side: Side, settings: Settings, *, gpus: int | None = None) -> Watch:
        """Return how children of a side are watched; the device is the one that the worker has decided on.

        `gpus`: cards that the job names.
        """
        if side == "compute":
            return cls(settings.hang_seconds, on_gpu=settings.device == "cuda", of_ranks=(gpus or 1) > 1)
        return cls(STILL_SECONDS[side])

    def error(self, phase: Phase | None, *, ended: bool) -> ErrorInfo:
        """Return the error of a child that hung, and of one that could not be ended."""
        return hung(phase, self.still_seconds, on_gpu=self.on_gpu) if ended else stuck(phase)


def supervise(
    child: Child,
    *,
    holder: LeaseHolder,
    recorder: Recorder,
    uploader: CheckpointUploader,
    fetched: Callable[[Resolved | Fetched], Sequence[RecordedMessage]],
    quota: DiskQuota,
    watch: Watch,
) -> Outcome:
    """Return the child's result; raises JobFailed, Interrupted or LeaseLost. Nothing of the child is left after.

    `fetched`: what is recorded of what the fetcher found.
    """
    result: Outcome | Failed | None = None
    holder.guard(child)
    watchdog = Watchdog(child, watch)
    try:
        while not child.finished:
            messages = child.pipe.take(wait_seconds=TICK_SECONDS)
            for message in messages:
                result = _route(message, recorder, uploader, fetched) or result
            recorder.take(uploader.stored())
            recorder.flush_if_due()
            holder.check()
            quota.check()
            if watchdog.hangs(messages):
                raise JobFailed(watch.error(recorder.phase, ended=child.kill()))
    except Interrupted:
        child.terminate()
        _keep_what_is_done(holder, recorder, uploader)
        raise
    finally:
        holder.guard(None)
        status = child.returncode
        child.close()
    holder.check()
    if isinstance(result, MembersRequested | Done):
        _store_all(holder, recorder, uploader)  # other jobs start from these files
    if isinstance(result, Done | MembersRequested | Fetched | Published):
        return result
    _keep_what_is_done(holder, recorder, uploader)
    if result is not None:
        raise JobFailed(result.error)
    assert status is not None
    raise JobFailed(from_exit(status, child.pipe.tail, recorder.phase, out_of_memory=child.out_of_memory))


def _route(
    message: AnyMessage,
    recorder: Recorder,
    uploader: CheckpointUploader,
    fetched: Callable[[Resolved | Fetched], Sequence[RecordedMessage]],
) -> Outcome | Failed | None:
    """Give a message to whoever it is for, and return it where it is the child's result."""
    match message:
        case Resolved():
            recorder.take(fetched(message))
        case Fetched():
            recorder.take(fetched(message))
            return message
        case Done() | MembersRequested() | Published() | Failed():
            return message
        case Checkpoint():
            uploader.add(message)
        case Alive():
            pass  # for the watchdog alone
        case _:
            recorder.take([message])
    return None


class Watchdog:
    """Detects a child that hangs: it reports no step, and its CPU time, where that counts, stands still."""

    def __init__(self, child: Child, watch: Watch) -> None:
        self._child, self._watch = child, watch
        self._moved, self._cpu = time.monotonic(), child.cpu_seconds

    def hangs(self, messages: Sequence[AnyMessage]) -> bool:
        """Tell whether it hangs, by what it has said since the last call."""
        # Lines of a log are no steps: a collective that hangs complains of it.
        moved = any(not isinstance(message, Log) for message in messages)
        tells_nothing = self._watch.on_gpu or self._watch.of_ranks
        cpu = self._cpu if tells_nothing else self._child.cpu_seconds
        if moved or cpu - self._cpu >= STILL_CPU_SECONDS:
            self._moved, self._cpu = time.monotonic(), cpu
        return time.monotonic() - self._moved > self._watch.still_seconds


def _store_all(holder: LeaseHolder, recorder: Recorder, uploader: CheckpointUploader) -> None:
    while not uploader.idle:
        holder.check()
        recorder.take(uploader.stored())
        recorder.flush_if_due()
        time.sleep(0.02)


def _keep_what_is_done(holder: LeaseHolder, recorder: Recorder, uploader: CheckpointUploader) -> None:
    """Store the checkpoints that still wait: the next attempt starts behind them."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while not uploader.idle and time.monotonic() < deadline and not holder.lost:
        time.sleep(0.02)
        recorder.take(uploader.stored())
