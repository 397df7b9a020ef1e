"""A job whose model nobody had seen begins in the smallest worker class, and moves on when it needs more memory."""

from __future__ import annotations

from pydantic import ValidationError

from app.db.job import Job
from app.services.admission import routing
from app.settings import Settings
from espalier.probe import ModelFacts
from espalier.recipe.base import canonical
from workers.messages import Resolved


def larger_class(settings: Settings, job: Job, resolved: Resolved) -> str | None:
    """Return the worker class that a job has to move to: one larger than its own, where its own cannot hold it."""
    names = [name for name, _ in settings.classes]
    if job.worker_class not in names[:-1]:
        return None
    try:
        facts = ModelFacts.model_validate_json(canonical(resolved.facts))
    except ValidationError:  # a fetcher that tells no facts
        return None
    wanted = routing.worker_class(settings, resolved.parsed_spec, facts)
    return wanted if names.index(wanted) > names.index(job.worker_class) else None
