"""Statements about registry events: sources, deliveries, rules, verdicts, proposals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import and_, literal_column, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, defer

from app.db.hook import HookDelivery, HookProposal, HookSource, HookVerdict, Rule
from app.db.queries.pages import newest
from app.db.queries.round_robin import ProjectRoundRobin

_Row = TypeVar("_Row", HookSource, HookDelivery, Rule, HookProposal)


def page(
    session: Session, table: type[_Row], project_id: str, *, before: str | None, limit: int, **equal: str | None
) -> Sequence[_Row]:
    """Return rows of a project, newest first; `equal` names columns and what they hold, null for anything."""
    query = select(table).where(table.project_id == project_id)
    if table is HookDelivery:
        query = query.options(defer(HookDelivery.body))  # a MiB each, which no list shows
    for name, value in equal.items():
        if value is not None:
            query = query.where(getattr(table, name) == value)
    return newest(session, query, table.id, before=before, limit=limit)


def source(session: Session, source_id: str) -> HookSource | None:
    """Return a source of any project."""
    return session.get(HookSource, source_id)


def lock_source(session: Session, source_id: str) -> HookSource | None:
    """Hold a source until the end of the transaction."""
    return session.get(HookSource, source_id, with_for_update=True)


def lock_due_registry(
    session: Session, now: str, rounds: ProjectRoundRobin, *, kinds: Collection[str], busy: Collection[str]
) -> HookSource | None:
    """Lock the next source of some kinds whose registry is to be read, by turns of the projects that are not busy.

    `now`: as the cursors of sources write a time.
    """
    next_at = HookSource.cursor["next_at"].as_string()
    due = and_(
        HookSource.kind.in_(list(kinds)), or_(next_at.is_(None), next_at <= now), HookSource.project_id.not_in(busy)
    )
    for project in rounds.round(session, HookSource, due):
        query = select(HookSource).where(due, HookSource.project_id == project)
        query = query.order_by(next_at.nulls_first(), HookSource.id).limit(1)
        if (row := session.scalar(query.with_for_update(skip_locked=True))) is not None:
            return row
    return None


def delivery(session: Session, delivery_id: str) -> HookDelivery | None:
    """Return a delivery of any project."""
    return session.get(HookDelivery, delivery_id)


def add_delivery(session: Session, row: dict[str, Any]) -> bool:
    """Write a delivery, and tell whether it is the first of its kind; one that is being written is waited for."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(HookDelivery).values(row)
    statement = statement.on_conflict_do_nothing(index_elements=["source_id", "dedupe_key"])
    return session.scalar(statement.returning(HookDelivery.id)) is not None


def delivery_of(session: Session, source_id: str, dedupe_key: str) -> HookDelivery | None:
    """Return the delivery that was the first of its kind."""
    query = select(HookDelivery).where(HookDelivery.source_id == source_id, HookDelivery.dedupe_key == dedupe_key)
    return session.scalar(query)


def latest_about(session: Session, source_id: str, subject: str) -> HookDelivery | None:
    """Return the newest delivery about a subject."""
    query = select(HookDelivery).where(HookDelivery.source_id == source_id, HookDelivery.subject == subject)
    return session.scalar(query.order_by(HookDelivery.id.desc()).limit(1))


def claim_due(session: Session, now: datetime, rounds: ProjectRoundRobin) -> HookDelivery | None:
    """Lock the next delivery that is to be evaluated, by turns of the projects.

    One that another evaluator holds is passed over.
    """
    due = and_(HookDelivery.state == literal_column("'pending'"), HookDelivery.next_at <= now)
    for project in rounds.round(session, HookDelivery, due):
        query = select(HookDelivery).where(due, HookDelivery.project_id == project)
        query = query.order_by(HookDelivery.next_at, HookDelivery.id).limit(1)
        if (delivery := session.scalar(query.with_for_update(skip_locked=True))) is not None:
            return delivery
    return None


def rules_of(session: Session, source_id: str) -> Sequence[Rule]:
    """Return the rules of a source that are in force, in the order in which they are locked."""
    return session.scalars(select(Rule).where(Rule.source_id == source_id, Rule.enabled).order_by(Rule.id)).all()


def rule(session: Session, project_id: str, rule_id: str) -> Rule | None:
    """Return a rule of a project."""
    return session.scalar(select(Rule).where(Rule.id == rule_id, Rule.project_id == project_id))


def lock_rule(session: Session, rule_id: str) -> Rule | None:
    """Hold a rule, as it is now, until the end of the transaction."""
    query = select(Rule).where(Rule.id == rule_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update())


def verdicts_of(session: Session, delivery_ids: Sequence[str]) -> Sequence[HookVerdict]:
    """Return what rules made of some deliveries."""
    query = select(HookVerdict).where(HookVerdict.delivery_id.in_(delivery_ids))
    return session.scalars(query.order_by(HookVerdict.delivery_id, HookVerdict.rule_id)).all()


def proposal(session: Session, proposal_id: str, *, lock: bool = False) -> HookProposal | None:
    """Return a proposal of any project; with `lock`, hold it until the end of the transaction."""
    query = select(HookProposal).where(HookProposal.id == proposal_id)
    return session.scalar(query.with_for_update() if lock else query)
