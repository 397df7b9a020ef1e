"""Jobs that belong to another job: made for it, in its place of the queue, and ended with it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.lifecycle import TERMINAL
from app.db.queries.jobs import events, reuse
from app.integrations.systems import read_source
from app.platform.ids import new_id
from app.services.events import outbox
from espalier.recipe.spec import CompressionSpec


def add(
    session: Session, parent: Job, spec: CompressionSpec, *, name: str, checkpoints: list[dict[str, Any]], now: datetime
) -> Job:
    """Make a child of a locked job: the same model at the same revision, in the parent's place of the queue."""
    source = read_source(parent.request["source"])
    if parent.resolved_revision:
        source = source.at(parent.resolved_revision)
    request = {
        "source": source.model_dump(mode="json"),
        "spec": spec.model_dump(mode="json"),
        "reuse": parent.request.get("reuse", "auto"),
        "limits": {**(parent.request.get("limits") or {}), "max_pending_seconds": None},
    }
    if request["reuse"] == "require":
        request["reuse"] = "auto"
    step = spec.prune[0] if spec.prune else None
    child = Job(
        id=new_id("job"),
        project_id=parent.project_id,
        parent_id=parent.id,
        name=name,
        labels=dict(parent.labels),
        priority=parent.priority,
        turn=parent.turn,
        initiator={"type": "job", "id": parent.id},
        request=request,
        engine_version=parent.engine_version,
        model=parent.model,
        method=step.method if step else "none",
        state="queued",
        wait_reason="capacity",
        worker_class=parent.worker_class,
        failures={},
        checkpoints=checkpoints,
        warnings=[],
        created_at=now,
        queued_at=now,
    )
    session.add(child)
    session.flush()
    created = {"name": child.name, "model": child.model, "method": child.method, "parent_id": parent.id}
    events.append(session, child, [("job.created", created), ("job.queued", {"reason": "submitted"})], now=now)
    outbox.add_wake_up_signal(session, child, now=now)
    return child


def cancel(session: Session, job: Job, *, now: datetime) -> None:
    """End a locked job that is not over: at once when nobody holds it, else by its worker."""
    if job.state in {"cancelling", *TERMINAL}:
        return
    job.cancel_requested_at = now
    new_events: list[events.NewEvent] = [("job.cancel_requested", {})]
    if job.state in {"queued", "paused"}:
        events.move(session, job, "cancelled", [*new_events, ("job.cancelled", {})], now=now)
    else:
        events.move(session, job, "cancelling", new_events, now=now)


def cancel_all(session: Session, parent_id: str, *, now: datetime) -> None:
    """End what a job, or a sweep, has made and is not over."""
    for child in reuse.children(session, parent_id, lock=True):
        cancel(session, child, now=now)
        cancel_all(session, child.id, now=now)


def retry_all(session: Session, parent_id: str, *, now: datetime) -> None:
    """Queue the children of a job that ended without success again."""
    for child in reuse.children(session, parent_id, lock=True):
        if child.state in TERMINAL - {"succeeded"}:
            child.error, child.failures, child.not_before, child.cancel_requested_at = None, {}, None, None
            child.max_attempts, child.forgiven_seconds = child.max_attempts + child.attempt, child.running_seconds
            events.move(session, child, "queued", [("job.queued", {"reason": "retried"})], now=now)
            child.wait_reason = "capacity"
            outbox.add_wake_up_signal(session, child, now=now)
            retry_all(session, child.id, now=now)
