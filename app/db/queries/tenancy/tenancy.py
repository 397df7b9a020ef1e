"""Statements about tenants: keys, projects, what they hold and use, and the audit log."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, and_, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db import hook, planning, publication, reuse, upload, webhook  # noqa: F401 - fills the metadata
from app.db.base import Base
from app.db.job import HELD, PAUSED, QUEUED, Job
from app.db.lifecycle import TERMINAL
from app.db.queries.requests import uploads
from app.db.result import Artifact
from app.db.session import add_rows
from app.db.tenancy import ApiKey, AuditEvent, PortalSession, Project, UsageDay
from app.errors import NotFound
from app.platform import actor as actors
from app.platform.ids import new_id

_HELD: Final = "held projects"


def audit(
    session: Session,
    action: str,
    resource_id: str,
    *,
    now: datetime,
    project_id: str | None = None,
    **data: object,
) -> None:
    """Write down that somebody did something, in the transaction that does it; the service itself is nobody.

    The project that it is done to is held: a deleted one ends whoever is still at work in it. Raises NotFound.
    """
    actor = actors.current()
    if actor is None:
        return
    project_id = project_id or actor.project_id
    hold(session, project_id)
    add_audit(session, action, resource_id, project_id=project_id, by=actor.document(), now=now, data=data)


def add_audit(
    session: Session, action: str, resource_id: str, *, project_id: str, by: dict[str, Any], now: datetime,
    data: dict[str, Any],
) -> None:  # fmt: skip
    """Write down what somebody did who need not be here, or may be nobody that is known."""
    actor = actors.current()
    row = {
        "id": new_id("aud"), "project_id": project_id, "time": now, "actor": by, "action": action,
        "resource_id": resource_id, "request_id": actor.request_id if actor else None, "data": data,
    }  # fmt: skip
    add_rows(session, AuditEvent, [row])


def hold(session: Session, project_id: str) -> None:
    """Keep a project from being deleted before this transaction ends; raises NotFound when it is gone already."""
    held: set[str] = session.info.setdefault(_HELD, set())
    if project_id in held:
        return
    query = select(Project.id).where(Project.id == project_id).with_for_update(read=True, key_share=True)
    with session.no_autoflush:
        if session.scalar(query) is None:
            raise NotFound("The project is not there any more.")
    held.add(project_id)


def audit_page(
    session: Session, project_id: str, *, before: str | None, limit: int, action: str = "", actor: str = ""
) -> Sequence[AuditEvent]:
    """Return what was done, newest first: all of it, or what an action begins with and somebody did."""
    query = select(AuditEvent).where(AuditEvent.project_id == project_id)
    if action:
        query = query.where(AuditEvent.action.startswith(action, autoescape=True))
    if actor:
        query = query.where(AuditEvent.actor["id"].as_string() == actor)
    if before is not None:
        query = query.where(AuditEvent.id < before)
    return session.scalars(query.order_by(AuditEvent.id.desc()).limit(limit)).all()


def key_with_project(session: Session, key_id: str) -> tuple[ApiKey, Project] | None:
    """Return a key and its project."""
    query = select(ApiKey, Project).join(Project, Project.id == ApiKey.project_id).where(ApiKey.id == key_id)
    row = session.execute(query).one_or_none()
    return (row[0], row[1]) if row else None


def ended(session: Session, keys: Collection[str], sessions: Collection[str], *, now: datetime) -> set[str]:
    """Return which of these keys, and of these sign-ins by their digests, open nothing any more."""
    valid = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > now))
    good = select(ApiKey.id).where(ApiKey.id.in_(keys), valid)
    signed_in = (
        select(PortalSession.digest)
        .outerjoin(ApiKey, ApiKey.id == PortalSession.key_id)
        .where(PortalSession.digest.in_(sessions), PortalSession.expires_at > now)
        .where(PortalSession.key_id.is_(None) | (ApiKey.id.is_not(None) & valid))
    )
    return {*keys, *sessions} - {*session.scalars(good), *session.scalars(signed_in)}


def key_used(session: Session, key_id: str, *, now: datetime) -> None:
    """Note that a key was used."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now))


def key(session: Session, key_id: str, *, project_id: str | None) -> ApiKey | None:
    """Return a key of a project, or of any."""
    query = select(ApiKey).where(ApiKey.id == key_id)
    return session.scalar(query if project_id is None else query.where(ApiKey.project_id == project_id))


def keys(session: Session, project_id: str | None, *, before: str | None, limit: int) -> Sequence[ApiKey]:
    """Return the keys of a project, or of all, newest first."""
    query = select(ApiKey)
    if project_id is not None:
        query = query.where(ApiKey.project_id == project_id)
    if before is not None:
        query = query.where(ApiKey.id < before)
    return session.scalars(query.order_by(ApiKey.id.desc()).limit(limit)).all()


def projects(session: Session, project_id: str | None, *, before: str | None, limit: int) -> Sequence[Project]:
    """Return one project, or all, newest first."""
    query = select(Project)
    if project_id is not None:
        query = query.where(Project.id == project_id)
    if before is not None:
        query = query.where(Project.id < before)
    return session.scalars(query.order_by(Project.id.desc()).limit(limit)).all()


def every_project(session: Session) -> set[str]:
    """Return the ids of all projects."""
    return set(session.scalars(select(Project.id)))


def project(session: Session, project_id: str, *, lock: bool = False) -> Project | None:
    """Return a project; with `lock`, hold its row until the end of the transaction, beside those who `hold` it."""
    query = select(Project).where(Project.id == project_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update(key_share=True) if lock else query)


def wait_for_holders(session: Session, project_id: str) -> None:
    """Wait until nobody holds a project any more, and let nobody hold it before this transaction ends."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())


def unfinished_jobs(session: Session, project_id: str) -> int:
    """Return how many jobs of a project are not over."""
    query = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.state.not_in(TERMINAL))
    return session.scalar(query) or 0


def delete_project(session: Session, project_id: str) -> None:
    """Remove a project, whose row this transaction holds, with all that belongs to it; the audit log stays."""
    delete_owned(session, project_id)
    session.execute(delete(Project).where(Project.id == project_id))


def delete_owned(session: Session, project_id: str) -> None:
    """Remove all that belongs to a project but the audit log."""
    for table in _owned():
        session.execute(delete(table).where(table.c.project_id == project_id))


def ownerless(session: Session) -> set[str]:
    """Return the projects that are not there and own something all the same."""
    there, found = select(Project.id), set()
    for table in _owned():
        query = select(table.c.project_id).where(table.c.project_id.not_in(there)).distinct()
        found |= set(session.scalars(query))
    return found


def _owned() -> Iterator[Table]:
    """The tables of what a project owns; rows that refer to theirs, the most by far, go with them."""
    for table in Base.metadata.sorted_tables:
        if "project_id" in table.c and not table.foreign_keys and table.name != AuditEvent.__tablename__:
            yield table


def count_queued(session: Session, project_id: str) -> int:
    """Return how many jobs of a project wait."""
    return session.scalar(select(func.count()).select_from(Job).where(QUEUED, Job.project_id == project_id)) or 0


def count_waiting(session: Session, project_id: str, *, but: str = "") -> int:
    """Return how many jobs of a project wait, queued or paused, apart from one."""
    counts = [
        select(func.count()).where(state, Job.project_id == project_id, Job.id != but).scalar_subquery()
        for state in (QUEUED, PAUSED)
    ]
    return session.scalar(select(counts[0] + counts[1])) or 0


def count_held(session: Session, project_id: str) -> int:
    """Return how many jobs of a project a worker holds."""
    return session.scalar(select(func.count()).select_from(Job).where(HELD, Job.project_id == project_id)) or 0


def stored_bytes(session: Session, project_id: str) -> int:
    """Return what the results of a project weigh, each object once, and its uploads."""
    objects = select(Artifact.key, Artifact.bytes).where(Artifact.project_id == project_id).distinct().subquery()
    results = int(session.scalar(select(func.coalesce(func.sum(objects.c.bytes), 0))) or 0)
    return results + uploads.stored_bytes(session, project_id)


def usage_since(session: Session, project_id: str, day: str) -> tuple[float, float, int]:
    """Return GPU seconds, CPU seconds and attempts from a day on."""
    query = select(func.sum(UsageDay.gpu_seconds), func.sum(UsageDay.cpu_seconds), func.sum(UsageDay.attempts))
    gpu, cpu, attempts = session.execute(query.where(UsageDay.project_id == project_id, UsageDay.day >= day)).one()
    return float(gpu or 0), float(cpu or 0), int(attempts or 0)


def usage_days(session: Session, project_id: str, day: str) -> Sequence[UsageDay]:
    """Return what was used on each day from one on."""
    query = select(UsageDay).where(UsageDay.project_id == project_id, UsageDay.day >= day)
    return session.scalars(query.order_by(UsageDay.day)).all()


def charge(session: Session, project_id: str, *, seconds: float, gpu: bool, now: datetime) -> None:
    """Add an attempt to what a project used today."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = {
        "project_id": project_id, "day": now.date().isoformat(), "gpu_seconds": seconds if gpu else 0.0,
        "cpu_seconds": 0.0 if gpu else seconds, "attempts": 1,
    }  # fmt: skip
    statement = dialect.insert(UsageDay).values(row)
    more = {
        name: getattr(UsageDay, name) + statement.excluded[name] for name in ("gpu_seconds", "cpu_seconds", "attempts")
    }
    session.execute(statement.on_conflict_do_update(index_elements=["project_id", "day"], set_=more))


def month(now: datetime) -> str:
    """The first day of the month, as usage rows name it."""
    return now.date().replace(day=1).isoformat()


def capped(session: Session, now: datetime) -> list[str]:
    """Return the projects that may start no further job now."""
    return [project_id for project_id, reached in bounded(session, None, now).items() if reached]


def bounded(session: Session, project_ids: Sequence[str] | None, now: datetime) -> dict[str, bool]:
    """Return which of some projects, or of all, have a bound on what they may start, and whether it is reached."""
    query = select(Project.id, _reached(now)).where(
        or_(Project.max_running_jobs.is_not(None), Project.max_gpu_seconds.is_not(None))
    )
    if project_ids is not None:
        if not project_ids:
            return {}
        query = query.where(Project.id.in_(project_ids))
    return {project_id: bool(reached) for project_id, reached in session.execute(query.order_by(Project.id))}


def is_capped(session: Session, project_id: str, now: datetime) -> bool:
    """Tell the same of one project, whose row is held until the end of the transaction."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    return bool(session.scalar(select(_reached(now)).where(Project.id == project_id)))


def _reached(now: datetime) -> ColumnElement[bool]:
    held = select(func.count()).select_from(Job).where(HELD, Job.project_id == Project.id)
    gpu = select(func.coalesce(func.sum(UsageDay.gpu_seconds), 0.0))
    gpu = gpu.where(UsageDay.project_id == Project.id, UsageDay.day >= month(now))
    return or_(
        and_(Project.max_running_jobs.is_not(None), held.scalar_subquery() >= Project.max_running_jobs),
        and_(Project.max_gpu_seconds.is_not(None), gpu.scalar_subquery() >= Project.max_gpu_seconds),
    )


def has_rested(session: Session, now: datetime) -> bool:
    """Tell whether a queued job still says that it waits for the end of a pause that is over."""
    return session.scalar(select(Job.id).where(*_rested(now)).limit(1)) is not None


def _rested(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return QUEUED, Job.wait_reason == "backoff", Job.not_before <= now


def mark_waiting(session: Session, capped_ids: Sequence[str], now: datetime) -> None:
    """Say of queued jobs whether a pause, a worker or their project's quota is what they wait for."""
    session.execute(update(Job).where(*_rested(now)).values(wait_reason="capacity"))
    waits = QUEUED, Job.wait_reason == "capacity", Job.project_id.in_(capped_ids)
    if capped_ids:
        session.execute(update(Job).where(*waits).values(wait_reason="quota"))
    free = QUEUED, Job.wait_reason == "quota", Job.project_id.not_in(capped_ids)
    session.execute(update(Job).where(*free).values(wait_reason="capacity"))
