"""A job whose model nobody had seen begins in the smallest worker class, and moves on when it needs more memory."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.job import Job
from app.services.admission import routing
from app.settings import Settings
from espalier.probe import ModelFacts
from espalier.recipe.base import canonical
from espalier.recipe.spec import CompressionSpec
from workers.lease import endings
from workers.messages import Resolved


class Misplaced(Exception):
    """The job belongs to another worker class."""

    def __init__(self, worker_class: str) -> None:
        super().__init__(worker_class)
        self.worker_class = worker_class

    def settle(self, session: Session, job: Job, now: datetime) -> None:
        """End the attempt of a locked job by queueing it there."""
        endings.reroute(session, job, self.worker_class, now=now)


def check_place(settings: Settings, job: Job, resolved: Resolved) -> None:
    """Raise Misplaced when a larger class than the job's holds what it needs, now that its model is known."""
    names = [name for name, _ in settings.classes]
    if job.worker_class not in names[:-1]:
        return
    try:
        facts = ModelFacts.model_validate_json(canonical(resolved.facts))
        spec = CompressionSpec.model_validate_json(canonical(resolved.spec))
    except ValidationError:  # a fetcher that tells no facts
        return
    wanted = routing.worker_class(settings, spec, facts)
    if names.index(wanted) > names.index(job.worker_class):
        raise Misplaced(wanted)
