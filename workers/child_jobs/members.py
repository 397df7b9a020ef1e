"""Soup members as child jobs: the parent creates them, releases its worker until they end, and averages them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from app.bodies.stored import stored_spec
from app.db.job import Job
from app.db.lifecycle import TERMINAL
from app.db.queries.jobs import reads, reuse
from app.db.session import Database
from app.services.jobs import children
from app.storage.base import ObjectStore
from espalier.checkpoint_names import PICKED, RATE_SEARCH
from espalier.messages import ErrorInfo
from espalier.recipe.hashes import SHARED_PHASES
from espalier.search.soup import member_specs
from workers.lease import transitions
from workers.lease.retries import JobFailed
from workers.lease.transitions import Transition

FEWEST_MEMBERS = 2
"""An average of one is no average."""
_SEARCH: Final = ("retraining", str(RATE_SEARCH))
"""Phase and name of the checkpoint whose factor of the base rates is every member's."""
_TEXT: Final = ("retraining", str(PICKED))
"""Phase and name of the text that every member reads."""


class ChildJobs:
    """The children of one job, as one attempt finds them."""

    def __init__(self, database: Database, store: ObjectStore, job: Job) -> None:
        self._database, self._store, self._job = database, store, job

    @cached_property
    def children(self) -> list[Job]:
        """In the order in which they were made."""
        with self._database.reading() as session:
            return reuse.children(session, self._job.id)

    def waiting(self) -> Transition | None:
        """Return that the job waits while one of them is not over."""
        return wait_for_children if any(child.state not in TERMINAL for child in self.children) else None

    def download_members(self, workspace: Path, *, between: Callable[[], None]) -> list[str] | None:
        """Download the models that the members of a soup have made; JobFailed when too few of them have.

        None where one of them was deleted meanwhile: the children have to be read again.
        """
        if self.children and len(self._done) < FEWEST_MEMBERS:
            raise JobFailed(self._lost())
        folders = [workspace / f"members/{number}" for number, _ in enumerate(self._done)]
        for child, folder in zip(self._done, folders, strict=True):
            if not self._download(child.id, folder, between):
                return None
        return [str(folder) for folder in folders]

    @property
    def trained(self) -> int:
        """How many parameters each finished member has trained: the same ones, so the same number."""
        counts = [(child.report or {}).get("trained_parameters", {}) for child in self._done]
        return max((trained.get("count", 0) for trained in counts), default=0)

    def missing(self) -> list[str]:
        """Return a warning for each child that did not succeed."""
        lost = [child for child in self.children if child.state != "succeeded"]
        return [f"{child.name} ({child.id}) is {child.state} and left out." for child in lost]

    @property
    def _done(self) -> list[Job]:
        return [child for child in self.children if child.state == "succeeded"]

    def _download(self, job_id: str, folder: Path, between: Callable[[], None]) -> bool:
        with self._database.reading() as session:
            files = reads.files(session, job_id, ("model", "mask"))
        for file in files:
            between()
            self._store.get_file(file.key, folder / file.name, file.sha256)
        return bool(files)

    def _lost(self) -> ErrorInfo:
        first = next((child for child in self.children if child.state != "succeeded"), None)
        if first is None:
            return ErrorInfo(
                class_="invalid_spec",
                retryable=False,
                phase="retraining",
                message="members of the soup were deleted",
                hint="Delete the others too and retry this job: it makes all of them again.",
            )
        error = first.error or {}
        return ErrorInfo.model_validate(
            {
                "class": error.get("class", "internal"),
                "retryable": False,
                "phase": "retraining",
                "message": f"{first.name} ({first.id}) is {first.state}: {error.get('message', 'no error of its own')}",
                "hint": error.get("hint") or "Retry this job: its children that did not succeed are tried again.",
            }
        )


def wait_for_children(session: Session, job: Job, now: datetime) -> None:
    """Release a locked parent until its children have ended."""
    transitions.wait(session, job, now=now)


def spawn_members(session: Session, job: Job, now: datetime) -> None:
    """Release a locked parent and create the members of its soup, each from the weights that the parent stored."""
    if transitions.apply_user_request(session, job, now=now):
        return
    assert job.resolved_spec is not None
    spec = stored_spec(job.resolved_spec)
    stored = [{**item, "origin": job.id} for item in job.checkpoints if _is_for_all(item["phase"], item["name"])]
    searches = [item["data"] for item in job.checkpoints if (item["phase"], item["name"]) == _SEARCH]
    factor = searches[0]["factor"] if searches else None
    for number, member in enumerate(member_specs(spec, factor), start=1):
        children.add(session, job, member, name=f"{job.name} member {number}", checkpoints=stored, now=now)
    transitions.wait(session, job, now=now)


def _is_for_all(phase: str, name: str) -> bool:
    return phase in SHARED_PHASES or (phase, name) == _TEXT
