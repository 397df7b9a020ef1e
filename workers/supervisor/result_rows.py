"""Write measured rows: metrics, layers, and checkpoints that other jobs may start from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import results
from app.db.result import LayerRow, MetricPoint
from app.db.reuse import PhaseResult
from espalier.messages import Layer, Metric
from workers.messages import StoredInStore


def write_metrics(session: Session, job: Job, points: Sequence[Metric], *, now: datetime) -> None:
    """Write one row per point; a point of the same name and step is overwritten."""
    rows = [
        {
            "job_id": job.id,
            "project_id": job.project_id,
            "name": point.name,
            "step": point.step,
            "attempt": job.attempt,
            "phase": point.phase,
            "value": point.value,
            "time": now,
        }
        for point in points
    ]
    results.upsert(session, MetricPoint, rows)


def write_layers(session: Session, job: Job, layers: Sequence[Layer]) -> set[str]:
    """Write one row per matrix and return the names that had one before."""
    if not layers:
        return set()
    known = results.layer_names(session, job.id, [layer.name for layer in layers])
    first = results.next_layer_position(session, job.id)
    rows = [
        {
            "job_id": job.id,
            "project_id": job.project_id,
            "position": first + index,
            **layer.model_dump(mode="json", exclude={"kind"}),
        }
        for index, layer in enumerate(layers)
    ]
    results.upsert(session, LayerRow, rows, keep=["position"])
    return known


def share_checkpoint(session: Session, job: Job, message: StoredInStore, *, now: datetime) -> None:
    """Share a checkpoint with other jobs that have the same phase."""
    if message.shared is None:
        return
    row = {
        "project_id": job.project_id,
        "key": message.shared,
        "name": message.name,
        "phase": message.phase,
        "job_id": job.id,
        "document": message.model_dump(mode="json"),
        "bytes": message.bytes,
        "created_at": now,
        "used_at": now,
    }
    results.upsert(session, PhaseResult, [row], keep=["created_at"])


def _columns(layer: Layer) -> dict[str, Any]:
    return layer.model_dump(mode="json", exclude={"kind"})
