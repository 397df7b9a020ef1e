"""Health of a worker's GPU: probed before the first claim and after a loss, awaited until a child's memory is free."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import structlog

from app.settings import Settings
from espalier.errors import device_fault
from espalier.messages import Message
from workers.messages import DeviceFacts
from workers.processes import cards
from workers.processes.cards import Card
from workers.processes.process import Child, Commands, environment
from workers.processes.release import Release
from workers.processes.workspace import Workspace

FIRST_PAUSE_SECONDS: Final = 10.0
LAST_PAUSE_SECONDS: Final = 300.0
ANSWER_SECONDS: Final = 60.0
"""Timeout of a probe, which imports torch, from a cold disk perhaps."""
POLL_SECONDS: Final = 0.1

log = structlog.get_logger(__name__)


def pause_seconds(failures: int) -> float:
    """Return the pause before the device is probed again, after so many failed probes."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10), LAST_PAUSE_SECONDS))


class Device:
    """Probes the device in a child process without blocking: the worker loop polls it between heartbeats."""

    def __init__(self, settings: Settings, commands: Commands, on: Sequence[Card] = ()) -> None:
        self._settings, self._commands, self.release = settings, commands, Release(on)
        self._open = ExitStack()
        self._child: Child | None = None
        self._due = self._deadline = 0.0
        self._failures = 0
        self._proven = settings.device != "cuda"
        self.lost = False
        self.facts: DeviceFacts | None = None
        """What the probe has seen of it."""

    @property
    def ready(self) -> bool:
        """Whether jobs may be claimed: a GPU has answered, was not lost since, and no process of ours is left on it."""
        return self._proven and not self.lost and self.release.pid is None

    def await_release(self, pid: int) -> None:
        """Wait with the next claim until a process that has ended holds no memory of the cards any more."""
        if self._settings.device == "cuda":
            self.release.begin(pid)

    def mark_lost(self) -> None:
        """Mark the device lost: nothing is claimed before a probe succeeds."""
        log.warning("the device was lost: nothing is claimed before it answers")
        self.lost, self._failures, self._due = True, 0, 0.0

    def poll(self) -> None:
        """Start a probe of a device that is not ready when it is due, or read the outcome of the one that runs."""
        if self.release.pid is not None and not self._asked_driver(self.release.poll):
            self.mark_lost()
        if (self._proven and not self.lost) or time.monotonic() < self._due:
            return
        if self._child is None:
            self._ask()
        elif self._ended(self._child):
            status, output = self._child.returncode, self._child.pipe.tail
            self.close()
            if status:
                self._again(_reason(output) or f"the question ended with status {status}")
            elif self._asked_driver(self.release.note_idle):
                self.lost, self._proven = False, True
                log.info("the device answers")
            else:
                self._again("it computes, and nvidia-smi does not answer")
        elif time.monotonic() > self._deadline:
            if self._child.kill():
                self.close()
            self._again(f"no answer within {ANSWER_SECONDS:g} s")

    def _asked_driver(self, question: Callable[[], bool | None]) -> bool:
        """Ask the driver something; False where it does not answer, or answers that the device is no good."""
        try:
            return question() is not False
        except cards.NoCard as refusal:
            log.warning("the driver does not answer", reason=str(refusal))
            self.release.pid = None
            return False

    def prove(self, stop: threading.Event) -> bool:
        """Wait for the first probe; True where the device answered."""
        while not self.ready and not self.lost and not stop.wait(POLL_SECONDS):
            self.poll()
        return self.ready

    def close(self) -> None:
        """End the probe that runs."""
        self._open.close()
        self._child = None

    def _ask(self) -> None:
        try:
            folder = self._open.enter_context(Workspace(self._settings.scratch, "device", os.getpid()))
            env = environment("compute", folder, self._settings.threads)
            self._child = Child(self._commands.device, Message(), env=env, cwd=folder, offline=False)
        except OSError as error:
            self.close()
            self._again(f"it cannot be asked: {error.strerror}")
            return
        self._open.callback(self._child.close)
        self._deadline = time.monotonic() + ANSWER_SECONDS

    def _again(self, reason: str) -> None:
        self.lost = True
        self._failures += 1
        pause, fault = pause_seconds(self._failures), device_fault(reason)
        self._due = time.monotonic() + pause
        hint = {"hint": fault.hint} if fault else {}
        log.warning("the device does not answer", reason=reason, pause_seconds=pause, **hint)

    def _ended(self, child: Child) -> bool:
        for message in child.pipe.take(wait_seconds=0):
            self.facts = message if isinstance(message, DeviceFacts) else self.facts
        return child.finished


def _reason(lines: Sequence[str]) -> str:
    """Return the line that says what a GPU lacks: torch puts advice for its developers behind it; else the last one."""
    return next((line for line in lines if device_fault(line)), lines[-1] if lines else "")
