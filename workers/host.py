"""The workers of a host with several GPUs: a process for each, started again when it dies, and drained together."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from app.platform import loops
from app.platform.logs import setup_logs
from app.settings import Settings, get_settings
from app.settings_file import PREFIX
from workers.processes import machine
from workers.processes.memory import SHARE
from workers.processes.parts import ServiceProcess, end_all
from workers.processes.placement import Placement

WATCH_SECONDS: Final = 0.2

log = structlog.get_logger(__name__)


def workers(placements: Sequence[Placement], worker_class: str) -> list[ServiceProcess]:
    """Return the processes, each with its own GPU and cores."""
    parts = []
    for each in placements:
        uuids, cpus = ",".join(card.uuid for card in each.cards), ",".join(map(str, sorted(each.cpus)))
        command = [sys.executable, "-P", "-m", "workers.main", "--worker-class", worker_class]
        parts.append(ServiceProcess(f"worker {uuids}", [*command, "--gpus", uuids, "--cpus", cpus]))
    return parts


def environment(settings: Settings, count: int) -> Mapping[str, str]:
    """Return the environment of the workers: each child has what the settings say, or an equal share of the machine."""
    name = f"{PREFIX}CHILD_MEMORY_BYTES"
    each = settings.child_memory_bytes or int(machine.host_memory_bytes() * SHARE) // count
    return {**os.environ, name: str(each)}


def run(placements: Sequence[Placement], worker_class: str) -> None:
    """Run a worker for each placement until SIGTERM, then let all of them drain."""
    settings = get_settings()
    setup_logs(settings)
    parts, env, stop = workers(placements, worker_class), environment(settings, len(placements)), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("workers start", cards=[card.label for each in placements for card in each.cards])

    keep(parts, env, stop)


def keep(parts: Sequence[ServiceProcess], env: Mapping[str, str], stop: threading.Event) -> None:
    """Start every part, and again when it has ended, until the event is set; then end all."""

    def watch() -> None:
        for part in parts:
            part.watch(env)

    try:
        loops.run("workers", stop, watch, idle_seconds=WATCH_SECONDS)
    finally:
        end_all(parts)
