"""The one task, `jobs.run`: it rings the worker's bell and ends; the work is claimed from the database."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from app.queue import RUN_JOBS


def register(celery: Celery, ring: Callable[[], None]) -> None:
    """Make the worker of this process answer its bell."""

    @celery.task(name=RUN_JOBS, ignore_result=True)
    def run(*_: object, **__: object) -> None:
        ring()
