"""Whether a worker's memory holds a retraining, and the dense teacher beside it: said in the plan, before the run."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db.queries import workers
from app.probe import ModelFacts
from app.services import routing
from app.settings import Settings
from app.specs.job import CompressionSpec, Limits

MIB = 2**20


def warnings(
    session: Session, settings: Settings, worker_class: str, spec: CompressionSpec, facts: ModelFacts, limits: Limits,
    *, now: datetime,
) -> list[dict[str, str]]:  # fmt: skip
    """Tell what a retraining takes where it has a teacher, or more than the class's workers and the job's limits."""
    if spec.retrain is None:
        return []
    lease = timedelta(seconds=settings.lease_seconds)
    device, there = workers.largest(session, worker_class, seen_after=now - lease) or ("", float("inf"))
    halves = spec.compute_dtype == "bfloat16" or (spec.compute_dtype == "auto" and device == "cuda")
    needed = routing.training_bytes(spec, facts, itemsize=2 if halves else routing.FLOAT_BYTES)
    limit = limits.max_device_memory_bytes if device == "cuda" else limits.max_host_memory_bytes
    room = min(there, dict(settings.classes)[worker_class], limit or float("inf"))
    teacher = "" if spec.retrain.loss == "cross_entropy" else " beside a dense teacher"
    text = f"Retraining{teacher} takes about {-(-needed // MIB)} MiB of memory"
    if needed > room:
        short = f"{text}, and a job here has {int(room) // MIB} MiB: train less, without a teacher, or in bfloat16."
        return [{"code": "retraining_does_not_fit", "text": short}]
    return [{"code": "teacher_in_memory", "text": f"{text}."}] if teacher else []
