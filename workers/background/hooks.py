"""Evaluate registry events against hook rules, beside the reconciler; a stored event survives any process."""

from __future__ import annotations

import threading

from app.db.queries.round_robin import ProjectRoundRobin
from app.db.session import Database
from app.platform import loops
from app.queue import WorkNotifier
from app.services.hooks.evaluation import evaluate_next
from app.settings import Settings

IDLE_SECONDS = 0.5


class Evaluator:
    """Evaluates one delivery after the other, round robin over projects; several evaluators share the work."""

    def __init__(self, database: Database, notifier: WorkNotifier, settings: Settings) -> None:
        self._database, self._notifier, self._settings = database, notifier, settings
        self._rounds = ProjectRoundRobin()

    def run(self, stop: threading.Event) -> None:
        """Evaluate until `stop` is set."""
        loops.run("hooks", stop, self.work_once, idle_seconds=IDLE_SECONDS)

    def work_once(self) -> bool:
        """Evaluate what is due next; False when nothing is."""
        classes = evaluate_next(self._database, self._settings, self._rounds)
        for worker_class in classes or ():
            self._notifier.notify(worker_class)
        return classes is not None
