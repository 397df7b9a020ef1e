"""Projects: made and bounded by operators; what they use is counted here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import structlog
from sqlalchemy.orm import Session

from app.bodies.access import ProjectChange, ProjectRequest, Quotas
from app.db.queries.tenancy import audit, projects, quotas
from app.db.session import Database, clock
from app.db.tenancy import Project, UsageDay
from app.errors import Forbidden, NotFound, ProjectInUse, QuotaExceeded, StorageError
from app.platform.actor import DEFAULT_PROJECT, Actor
from app.platform.ids import new_id
from app.services import idempotency
from app.services.idempotency import Key
from app.services.resources import Resources
from app.services.tenancy.keys import scope
from espalier.errors import Problem

FILES_AT_ONCE = 200
"""Of a project that a call deletes; the collector takes the others."""

_ROOM: Final = "room left in queues"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Usage:
    """What a project holds now and used this month."""

    project_id: str
    month: str
    queued_jobs: int
    running_jobs: int
    stored_bytes: int
    gpu_seconds: float
    cpu_seconds: float
    attempts: int
    quotas: dict[str, int | None]


def create(database: Database, actor: Actor, request: ProjectRequest, *, key: Key | None = None) -> Project:
    """Make a project."""
    _require_operator(actor)
    with database.unit_of_work() as session:
        now = clock(session)
        project_id = new_id("prj")
        idempotency.once(session, key, project_id, now=now)
        row = Project(
            id=project_id,
            name=request.name,
            created_at=now,
            shared_logins=sorted(set(request.shared_logins)),
            allow_high_priority=request.allow_high_priority,
            **request.quotas.model_dump(),
        )
        session.add(row)
        session.flush()
        audit.record(session, "project.create", row.id, now=now, project_id=row.id, name=row.name)
    return row


def get(database: Database, actor: Actor, project_id: str) -> Project:
    """Return a project; raises NotFound."""
    with database.reading() as session:
        return _require(session, actor, project_id)


def page(database: Database, actor: Actor, *, before: str | None, limit: int) -> Sequence[Project]:
    """Return the projects that an actor administers, newest first."""
    with database.reading() as session:
        return projects.page(session, scope(actor), before=before, limit=limit)


def change(database: Database, actor: Actor, project_id: str, request: ProjectChange) -> Project:
    """Rename a project or change its quotas; raises NotFound, Forbidden."""
    with database.unit_of_work() as session:
        row = _require(session, actor, project_id)
        _require_operator(actor)
        row.name = request.name or row.name
        if request.quotas is not None:
            _bound(row, request.quotas)
        if request.shared_logins is not None:
            row.shared_logins = sorted(set(request.shared_logins))
        if request.allow_high_priority is not None:
            row.allow_high_priority = request.allow_high_priority
        details = {"shared_logins": row.shared_logins, "allow_high_priority": row.allow_high_priority, **row.quotas}
        audit.record(session, "project.change", row.id, now=clock(session), project_id=row.id, name=row.name, **details)
    return row


def delete(resources: Resources, actor: Actor, project_id: str) -> None:
    """Remove a project whose jobs are over, with all that it owns; raises NotFound, Forbidden, ProjectInUse.

    Rows go in one transaction, for which nobody else may hold the project; files right after it. Many files, and what
    a process that is still at work writes later, are collected as nobody's.
    """
    with resources.database.unit_of_work() as session:
        row = _require(session, actor, project_id)
        _require_operator(actor)
        if project_id == DEFAULT_PROJECT:
            raise ProjectInUse("The default project stays.")
        projects.wait_for_holders(session, project_id)
        if count := projects.unfinished_jobs(session, project_id):
            raise ProjectInUse(f"The project has {count} jobs that are not over; cancel them first.")
        session.expunge(row)
        projects.delete_project(session, project_id)
        audit.record(session, "project.delete", row.id, now=clock(session), name=row.name)
    try:
        for stored in islice(resources.store.list(f"projects/{project_id}/"), FILES_AT_ONCE):
            resources.store.delete(stored.key)
    except StorageError as error:
        log.warning("the files of a deleted project are left to be collected", project=project_id, error=error.detail)


def usage(database: Database, project_id: str) -> Usage:
    """Return what a project holds and uses."""
    with database.reading() as session:
        now = clock(session)
        row = projects.get(session, project_id)
        if row is None:
            raise NotFound
        gpu, cpu, attempts = quotas.since(session, project_id, quotas.month(now))
        return Usage(
            project_id,
            quotas.month(now)[:7],
            quotas.count_queued(session, project_id),
            quotas.count_held(session, project_id),
            quotas.stored_bytes(session, project_id),
            gpu,
            cpu,
            attempts,
            row.quotas,
        )


def usage_days(database: Database, project_id: str) -> Sequence[UsageDay]:
    """Return what a project used on each day of this month."""
    with database.reading() as session:
        return quotas.by_day(session, project_id, quotas.month(clock(session)))


def admit_job(session: Session, actor: Actor | None, project_id: str) -> None:
    """Raise QuotaExceeded when a project may queue no further job, and NotFound when it is gone.

    A project without such quotas is held only. One with them is locked, so that parallel calls count one by one; what
    a transaction was told of is counted again when its jobs have used it up.
    """
    _admit(session, actor, project_id, more=1)


def admit_queued(session: Session, actor: Actor | None, project_id: str) -> None:
    """Raise the same when a project may not have what it has queued: jobs that were resumed or tried again."""
    _admit(session, actor, project_id, more=0)


def _admit(session: Session, actor: Actor | None, project_id: str, *, more: int) -> None:
    bounds = ("max_queued_jobs", "max_stored_bytes", "max_gpu_seconds")
    projects.hold(session, project_id)
    if actor is None or all(actor.limits.get(name) is None for name in bounds):
        return
    room: dict[str, float] = session.info.setdefault(_ROOM, {})
    if room.get(project_id, 0) >= more > 0:
        room[project_id] -= more
        return
    row = locked(session, project_id)
    waiting = quotas.count_waiting(session, project_id) if row.max_queued_jobs is not None else 0
    room[project_id] = math.inf if row.max_queued_jobs is None else row.max_queued_jobs - waiting - more
    if room[project_id] < 0:
        raise QuotaExceeded(
            f"The project may have {row.max_queued_jobs} jobs queued or paused.", headers={"Retry-After": "30"}
        )
    admit_bytes(session, row, 0)
    now = clock(session)
    if row.max_gpu_seconds is not None:
        used = quotas.since(session, project_id, quotas.month(now))[0]
        if used >= row.max_gpu_seconds:
            left = str(int((_next_month(now) - now).total_seconds()) + 1)
            raise QuotaExceeded("The project's GPU seconds of this month are used up.", headers={"Retry-After": left})


def locked(session: Session, project_id: str) -> Project:
    """Return a project whose row is held until the end of the transaction; raises NotFound."""
    row = projects.get(session, project_id, lock=True)
    if row is None:
        raise NotFound
    return row


def admit_priority(session: Session, mode: str, project_id: str, priority: str) -> None:
    """Raise Forbidden when a project may not ask for a priority; on one's own machine everybody may."""
    if priority != "high" or (mode == "embedded" and project_id == DEFAULT_PROJECT):
        return
    row = projects.get(session, project_id)
    if row is None or not row.allow_high_priority:
        detail = "an operator allows it: PATCH /v1/projects/{id} with allow_high_priority true"
        problem = Problem("/priority", "not-allowed", detail)
        raise Forbidden("This project may not ask for priority `high`.", items=[problem])


def admit_bytes(session: Session, row: Project, more: int) -> None:
    """Raise QuotaExceeded when a project may not store so many bytes more."""
    if row.max_stored_bytes is not None and quotas.stored_bytes(session, row.id) + more > row.max_stored_bytes - (
        0 if more else 1
    ):
        raise QuotaExceeded(
            f"The project may store {row.max_stored_bytes} bytes; delete jobs or uploads.",
            headers={"Retry-After": "3600"},
        )


def _next_month(now: datetime) -> datetime:
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    return (first + timedelta(days=32)).replace(day=1)


def _bound(row: Project, bounds: Quotas) -> None:
    for name, value in bounds.model_dump().items():
        setattr(row, name, value)


def _require_operator(actor: Actor) -> None:
    if not actor.is_operator:
        raise Forbidden("Only an admin of the default project manages projects.")


def _require(session: Session, actor: Actor, project_id: str) -> Project:
    row = projects.get(session, project_id)
    if row is None or scope(actor) not in {None, row.id}:
        raise NotFound
    return row
