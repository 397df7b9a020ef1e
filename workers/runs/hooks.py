"""Holds registry events against rules, beside the reconciler: what was stored is evaluated, whoever dies meanwhile."""

from __future__ import annotations

import threading

import structlog

from app.db.session import Database
from app.queue import Doorbell
from app.services.hooks.evaluation import evaluate_next
from app.settings import Settings
from workers.runs.keeper import OUTAGE

IDLE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Evaluator:
    """One delivery after the other; several of them share the work."""

    def __init__(self, database: Database, doorbell: Doorbell, settings: Settings) -> None:
        self._database, self._doorbell, self._settings = database, doorbell, settings

    def run(self, stop: threading.Event) -> None:
        """Evaluate until told to stop."""
        while not stop.is_set():
            try:
                worked = self.work_once()
            except OUTAGE as error:
                log.warning("the database is out of reach", error=type(error).__name__)
                worked = False
            except Exception:  # its transaction is undone, and it is tried again
                log.exception("an evaluation broke")
                worked = False
            if not worked:
                stop.wait(IDLE_SECONDS)

    def work_once(self) -> bool:
        """Evaluate what is due next; False when nothing is."""
        classes = evaluate_next(self._database, self._settings)
        for worker_class in classes or ():
            self._doorbell.ring(worker_class)
        return classes is not None
