"""Holds registry events against rules, beside the reconciler: what was stored is evaluated, whoever dies meanwhile."""

from __future__ import annotations

import threading

from app.db.queries.turns import ProjectTurns
from app.db.session import Database
from app.platform import loops
from app.queue import Doorbell
from app.services.hooks.evaluation import evaluate_next
from app.settings import Settings

IDLE_SECONDS = 0.5


class Evaluator:
    """One delivery after the other, by turns of the projects; several of them share the work."""

    def __init__(self, database: Database, doorbell: Doorbell, settings: Settings) -> None:
        self._database, self._doorbell, self._settings = database, doorbell, settings
        self._turns = ProjectTurns()

    def run(self, stop: threading.Event) -> None:
        """Evaluate until told to stop."""
        loops.run("hooks", stop, self.work_once, idle_seconds=IDLE_SECONDS)

    def work_once(self) -> bool:
        """Evaluate what is due next; False when nothing is."""
        classes = evaluate_next(self._database, self._settings, self._turns)
        for worker_class in classes or ():
            self._doorbell.ring(worker_class)
        return classes is not None
