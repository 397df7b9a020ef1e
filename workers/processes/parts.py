"""Processes that belong together: started, started again when they die, and ended together."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from espalier.parent_death import die_with_parent

STOP_SECONDS: Final = 50.0
"""A little more than a worker may take to drain."""
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.5, 30.0
_STEADY_SECONDS = 20.0
"""A process that lived so long starts again without a grown pause."""

log = structlog.get_logger(__name__)


@dataclass
class ServiceProcess:
    """One process of the service."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _FIRST_PAUSE_SECONDS
    due: float = 0.0

    def start(self, env: Mapping[str, str]) -> None:
        """Start it, to end with the calling thread, in a session of its own, so that Ctrl-C reaches it once: by us."""
        self.process = subprocess.Popen(
            die_with_parent(self.command), env=dict(env), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.started = time.monotonic()

    def watch(self, env: Mapping[str, str]) -> None:
        """Start it again, later each time, when it is gone."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.pause = _FIRST_PAUSE_SECONDS if now - self.started > _STEADY_SECONDS else self.pause * 2
            self.pause = min(self.pause, _LAST_PAUSE_SECONDS)
            log.warning("a process ended", name=self.name, status=self.process.returncode, pause_seconds=self.pause)
            self.process, self.due = None, now + self.pause
        if self.process is None and now >= self.due:
            self.start(env)


def end_all(parts: Iterable[ServiceProcess]) -> None:
    """Ask every process to end, and kill what has not after a while."""
    running = [part.process for part in parts if part.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
