"""Guards of rules: results of ours never start a job, and a rule keeps its cooldown and its daily cap.

Four layers: an event that a publication of ours caused, an output that carries our tags, a source that is an output
of ours (lineage depth 1), and the cap and cooldown of every rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from app.bodies.hooks import RuleLimits
from app.db.hook import Rule
from app.db.queries.connections import publications
from app.db.queries.jobs import jobs
from app.integrations.shared.hooks import RegistryEvent
from app.integrations.systems import TARGETS, target_name

TAG: Final = "espalier."
"""Begins every tag that a publication leaves."""
MESSAGE: Final = "[espalier]"
"""Begins the message of every commit that a publication makes."""


@dataclass(frozen=True)
class Stop:
    """Why an event starts nothing."""

    reason: str
    detail: str


def ours(session: Session, project_id: str, event: RegistryEvent) -> Stop | None:
    """Return why an event is about a result of ours; None where it is not."""
    if (event.message or "").startswith(MESSAGE):
        return Stop("own-publication", f"the commit message begins with {MESSAGE}")
    if event.references and publications.has_reference(session, project_id, event.references):
        return Stop("own-publication", "this version is a publication of ours")
    tags = sorted(key for key in event.tags if key.startswith(TAG))
    if tags:
        return Stop("own-output", f"the version carries the tag {tags[0]}: it is an output of Espalier")
    for target in _targets(event):
        if publications.has_target(session, project_id, target):
            return Stop("lineage", "results are published to this very place: it is an output of ours")
    return None


def _targets(event: RegistryEvent) -> Iterator[dict[str, str]]:
    """Yield what the target of a publication would say that made this source."""
    target = TARGETS.get(str((event.source or {}).get("kind")))
    if target is not None:
        yield from target.made(event)


def publishing(session: Session, project_id: str, event: RegistryEvent, *, now: datetime) -> Stop | None:
    """Tell whether a publication to this model is in progress: until it ends, its own events cannot be recognised."""
    for job in jobs.publishing(session, project_id):
        output = job.request["spec"].get("output") or {}
        if any(_is_about(target, job.model, event) for target in output.get("publish") or []):
            return Stop("publication-under-way", f"{job.id} is publishing to this model")
    for row, model in publications.under_way(session, project_id, now):
        if _is_about(row.target, model, event):
            return Stop("publication-under-way", f"{row.id} is on its way to this model")
    return None


def _is_about(target: dict[str, Any], model: str, event: RegistryEvent) -> bool:
    source = event.source or {}
    if target.get("kind") != source.get("kind"):
        return False
    # A registry whose versions lie side by side takes the source's own name where none is given.
    return event.model == (target_name(target) or model)


def limited(rule: Rule, limits: RuleLimits, *, now: datetime) -> Stop | None:
    """Check the cooldown and the daily cap of a rule. The caller must lock the rule before it counts."""
    if rule.last_at is not None and now < rule.last_at + timedelta(seconds=limits.cooldown_seconds):
        return Stop("cooldown", f"less than {limits.cooldown_seconds} s after the event before")
    if rule.day == now.date().isoformat() and rule.day_count >= limits.max_per_day:
        return Stop("max-per-day", f"the rule has let {limits.max_per_day} through today (UTC)")
    return None


def count(rule: Rule, *, now: datetime) -> None:
    """Count an event that a locked rule lets through."""
    day = now.date().isoformat()
    rule.day, rule.day_count, rule.last_at = day, 1 + (rule.day_count if rule.day == day else 0), now
