"""The one task, `jobs.run`: it wakes the worker loop and ends; the work is claimed from the database."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from app.queue import RUN_JOBS


def register(celery: Celery, notify: Callable[[], None]) -> None:
    """Register the task that wakes the worker loop of this process."""

    @celery.task(name=RUN_JOBS, ignore_result=True)
    def run(*_: object, **__: object) -> None:
        notify()
