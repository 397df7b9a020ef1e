"""Statements about plans, presets and sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.planning import Plan, Preset, Sweep
from app.db.queries.pages import newest


def plan(session: Session, project_id: str, plan_id: str) -> Plan | None:
    """Return a plan of a project."""
    return session.scalar(select(Plan).where(Plan.id == plan_id, Plan.project_id == project_id))


def sweep(session: Session, project_id: str, sweep_id: str) -> Sweep | None:
    """Return a sweep of a project."""
    return session.scalar(select(Sweep).where(Sweep.id == sweep_id, Sweep.project_id == project_id))


def sweeps(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[Sweep]:
    """Return the sweeps of a project, newest first."""
    query = select(Sweep).where(Sweep.project_id == project_id)
    return newest(session, query, Sweep.id, before=before, limit=limit)


def preset(session: Session, project_id: str, name: str, *, version: int | None = None) -> Preset | None:
    """Return a version of a project's preset, the newest by default; a deleted one has no spec."""
    query = select(Preset).where(Preset.project_id == project_id, Preset.name == name)
    if version is not None:
        query = query.where(Preset.version == version)
    return session.scalar(query.order_by(Preset.version.desc()).limit(1))


def newest_presets(session: Session, project_id: str) -> Sequence[Preset]:
    """Return the newest version of every preset of a project that is not deleted."""
    newest = (
        select(Preset.name, func.max(Preset.version).label("version"))
        .where(Preset.project_id == project_id)
        .group_by(Preset.name)
        .subquery()
    )
    query = (
        select(Preset)
        .join(newest, (Preset.name == newest.c.name) & (Preset.version == newest.c.version))
        .where(Preset.project_id == project_id, Preset.spec.is_not(None))
    )
    return session.scalars(query).all()


def count_presets(session: Session, project_id: str) -> int:
    """Return how many presets a project has made, deleted ones included."""
    names = select(func.count(func.distinct(Preset.name))).where(Preset.project_id == project_id)
    return session.scalar(names) or 0
