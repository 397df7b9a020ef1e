"""The worker process: `python -m workers.main [--once]`, or `celery -A workers.main worker --pool solo`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import warnings
from dataclasses import replace

import structlog
from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_init, worker_shutdown, worker_shutting_down

from app.db.session import Database
from app.platform.logs import setup_logs
from app.platform.tracing import setup_traces
from app.production import leave_unsafe_production
from app.queue import make_celery, queue_name
from app.settings import get_settings
from app.storage.open import open_store
from workers import host
from workers.processes import groups
from workers.processes.cards import NoCard
from workers.processes.placement import Placement, wanted
from workers.processes.process import Commands
from workers.supervisor.services import Services
from workers.supervisor.worker_loop import WorkerLoop
from workers.tasks import compress

DRAIN_SECONDS = 45.0
"""How long a warm shutdown waits for the worker loop: the grace of a child, and storing the finished checkpoints."""

log = structlog.get_logger(__name__)


class WorkerProcess:
    """One Celery worker with one worker loop, which starts before the broker answers and does not need it."""

    def __init__(
        self, *, commands: Commands | None = None, worker_class: str = "default", placement: Placement | None = None
    ) -> None:
        settings = get_settings()
        setup_logs(settings)
        leave_unsafe_production(settings)
        names = [each.name for each in settings.classes]
        if worker_class not in names:
            raise SystemExit(
                f"no job is ever sent to the worker class {worker_class}: ESPALIER_WORKER_CLASSES names "
                f"{', '.join(names)}; start with --worker-class {names[0]}, or name {worker_class} there"
            )
        setup_traces(settings, "espalier-worker")
        placement = placement or Placement.of(settings, worker_class)
        placement.enter()
        self._placement = placement
        self.worker_class = worker_class
        self.celery = make_celery(settings)
        services = Services(
            Database(settings.database, statement_seconds=settings.database_statement_seconds),
            open_store(settings),
            settings,
            commands or Commands(),
            groups.at_start(),
        )
        self.loop = WorkerLoop(services, worker_class=worker_class, placement=placement)
        self._thread = threading.Thread(target=self.loop.run, name="worker loop", daemon=True)
        compress.register(self.celery, self.loop.notify)
        setup_logging.connect(_keep_our_logs, weak=False)
        # Signals hold their receivers weakly by default.
        worker_init.connect(self._start, weak=False)
        worker_shutting_down.connect(self._drain, weak=False)
        worker_shutdown.connect(self._join, weak=False)

    def run(self) -> None:
        """Work until SIGTERM."""
        # Containers run as root, and our task executes nothing from a message.
        warnings.simplefilter("ignore", SecurityWarning)
        self.celery.worker_main(
            [
                "--quiet",
                "worker",
                "--pool",
                "solo",
                "--loglevel",
                "WARNING",
                "--queues",
                queue_name(self.worker_class),
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
                "--hostname",
                self.loop.identity.id,
            ]
        )

    def run_once(self) -> None:
        """Run one attempt if a job waits; SIGTERM releases the job."""
        signal.signal(signal.SIGTERM, lambda *_: self.loop.drain())
        self.loop.run(once=True)

    def _start(self, **_: object) -> None:
        self._thread.start()
        cards = [card.label for card in self._placement.cards]
        log.info("worker started", worker_id=self.loop.identity.id, device=self._placement.device, cards=cards)

    def _drain(self, **_: object) -> None:
        self.loop.drain()

    def _join(self, **_: object) -> None:
        self.loop.drain()
        self._thread.join(DRAIN_SECONDS)
        log.info("worker drained", worker_id=self.loop.identity.id)


def _keep_our_logs(**_: object) -> None:
    """Keep Celery from configuring the root logger; a receiver of this signal is what it takes."""
    for name in ("celery", "kombu"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: list[str] | None = None) -> None:
    """Start the worker that the command line asks for."""
    parser = argparse.ArgumentParser(description="Claims jobs and supervises their child processes.")
    parser.add_argument("--once", action="store_true", help="work on one job and exit")
    parser.add_argument("--worker-class", default="default", help="which jobs to claim")
    parser.add_argument("--gpus", help="a worker for each of these: auto, a number, or UUIDs with commas")
    parser.add_argument("--cpus", help="the cores of the one worker: 0,1,2; default: those near its GPU")
    options = parser.parse_args(arguments)
    placements = _placements(options.gpus, options.cpus, options.worker_class)
    if len(placements) > 1:
        if options.once:
            raise SystemExit(f"--once works on one job, and --gpus {options.gpus} are {len(placements)} GPUs: name one")
        host.run(placements, options.worker_class)
        return
    worker = WorkerProcess(worker_class=options.worker_class, placement=placements[0] if placements else None)
    if options.once:
        worker.run_once()
    else:
        worker.run()


def _placements(gpus: str | None, cpus: str | None, worker_class: str) -> list[Placement]:
    """Return where workers are to compute; none where nothing was said, and one finds its own."""
    if gpus is None:
        return []
    try:
        placements = wanted(gpus, get_settings(), worker_class)
    except NoCard as refusal:
        raise SystemExit(str(refusal)) from None
    if cpus:
        placements = [replace(each, cpus=frozenset(map(int, cpus.split(",")))) for each in placements]
    return placements


def __getattr__(name: str) -> Celery:
    """Make the application for `celery -A workers.main` on first access."""
    if name in {"celery", "app"}:
        return WorkerProcess().celery
    raise AttributeError(name)


if __name__ == "__main__":
    main(sys.argv[1:])
