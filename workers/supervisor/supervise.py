"""Supervise one child until it ends: record its messages, upload checkpoints, obey cancel and drain."""

from __future__ import annotations

import time
from collections.abc import Callable

from espalier.messages import Checkpoint, Done, Failed, MembersRequested
from workers.lease.holder import Interrupted, LeaseHolder
from workers.lease.retries import JobFailed, from_exit, hung, stuck
from workers.messages import AnyMessage, Fetched, Published, RecordedMessage
from workers.processes.process import Child
from workers.processes.workspace import DiskQuota
from workers.supervisor.checkpoints import CheckpointUploader
from workers.supervisor.recorder import Recorder

Outcome = Done | MembersRequested | Fetched | Published
TICK_SECONDS = 0.1
DRAIN_SECONDS = 20.0
"""What a stopped attempt may take to store the checkpoints that its child has finished."""
STILL_CPU_SECONDS = 1.0
"""A child that uses less than this while it says nothing, for as long as it may, hangs."""


def supervise(
    child: Child,
    *,
    holder: LeaseHolder,
    recorder: Recorder,
    uploader: CheckpointUploader,
    translate: Callable[[AnyMessage], list[RecordedMessage]],
    quota: DiskQuota,
    still_seconds: float,
) -> Outcome:
    """Return the child's result; raises JobFailed, Interrupted or LeaseLost. Nothing of the child is left after."""
    result: Outcome | Failed | None = None
    holder.guard(child)
    watchdog = _Watchdog(child, still_seconds)
    try:
        while not child.finished:
            messages = child.messages(wait_seconds=TICK_SECONDS)
            for message in messages:
                if isinstance(message, Done | MembersRequested | Fetched | Published | Failed):
                    result = message
                elif isinstance(message, Checkpoint):
                    uploader.add(message)
                recorder.take(translate(message))
            recorder.take(uploader.stored())
            recorder.flush_if_due()
            holder.check()
            quota.check()
            if watchdog.hangs(spoke=bool(messages)):
                raise JobFailed(hung(recorder.phase, still_seconds) if child.kill() else stuck(recorder.phase))
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
    raise JobFailed(from_exit(status, child.tail, recorder.phase, out_of_memory=child.out_of_memory))


class _Watchdog:
    """Detects a child that hangs: silent, and using no CPU time."""

    def __init__(self, child: Child, still_seconds: float) -> None:
        self._child, self._still_seconds = child, still_seconds
        self._moved, self._cpu = time.monotonic(), child.cpu_seconds

    def hangs(self, *, spoke: bool) -> bool:
        cpu = self._child.cpu_seconds
        if spoke or cpu - self._cpu >= STILL_CPU_SECONDS:
            self._moved, self._cpu = time.monotonic(), cpu
        return time.monotonic() - self._moved > self._still_seconds


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
