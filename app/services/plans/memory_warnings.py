"""Memory of a job before its run: too small limits are refused, and too small workers are warned about."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from app.bodies.job import JobRequest, Limits
from app.db.queries.queue import workers
from app.db.queries.requests import uploads
from app.db.session import once
from app.errors import InvalidRequest
from app.settings import Settings
from espalier.errors import Problem
from espalier.memory import Device, estimate, itemsize_of, training
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.dataset import BuiltinDataset, Dataset, LocalDataset, UploadDataset

MIB = 2**20
SEEN = timedelta(minutes=10)
"""Of workers whose device tells where a class computes."""
BUILTIN_BYTES = 470_000
"""Of the text inside CPython, about."""


def device_of(session: Session, worker_class: str, *, now: datetime) -> Device | None:
    """Return where the class's workers compute that were seen lately; None without one."""
    ask = partial(workers.largest, session, worker_class, seen_after=now - SEEN)
    kind, _ = once(session, ("largest worker", worker_class), ask) or ("", 0)
    return "cpu" if kind == "cpu" else "cuda" if kind else None


def require(
    session: Session, worker_class: str, request: JobRequest, spec: CompressionSpec, facts: ModelFacts, *, now: datetime
) -> None:
    """Raise InvalidRequest where `limits.max_host_memory_bytes` cannot hold the job; names the least that would.

    Where no worker tells that the class computes on a CPU, only what a job with a GPU needs as well is asked for.
    """
    limit = request.limits.max_host_memory_bytes
    if limit is None:
        return
    device = device_of(session, worker_class, now=now) or "cuda"
    parts = estimate(
        facts.shape, spec, itemsize=itemsize_of(spec.compute_dtype, device=device), text_bytes=text_bytes(session, spec)
    )
    needed, what, _ = max(parts.required_on_host(spec, device=device))
    if needed > limit:
        detail = f"{what} takes about {needed} bytes, the libraries' {parts.process} included: give at least {needed}"
        raise InvalidRequest(
            "The limit on memory cannot hold the job.",
            items=[Problem("/limits/max_host_memory_bytes", "limit-too-small", detail)],
        )


def text_bytes(session: Session, spec: CompressionSpec) -> int:
    """Return the size of the largest text that a job reads, as far as it is known before a run."""
    read = [spec.calibration.dataset, *(item.dataset for item in spec.evaluate.perplexity)]
    if spec.retrain is not None and spec.retrain.dataset is not None:
        read.append(spec.retrain.dataset)
    return max(_bytes_of(session, dataset) for dataset in read)


def _bytes_of(session: Session, dataset: Dataset) -> int:
    if isinstance(dataset, BuiltinDataset):
        return BUILTIN_BYTES
    if isinstance(dataset, UploadDataset):
        row = uploads.find(session, dataset.upload_id)
        return row.bytes if row is not None else 0
    if isinstance(dataset, LocalDataset):
        with contextlib.suppress(OSError):
            return Path(dataset.path).stat().st_size
    return 0


def warnings(
    session: Session,
    settings: Settings,
    worker_class: str,
    spec: CompressionSpec,
    facts: ModelFacts,
    limits: Limits,
    *,
    now: datetime,
) -> list[dict[str, str]]:
    """Tell what a retraining takes where it has a teacher, or more than the class's workers and the job's limits."""
    if spec.retrain is None:
        return []
    lease = timedelta(seconds=settings.lease_seconds)
    kind, there = workers.largest(session, worker_class, seen_after=now - lease) or ("", float("inf"))
    device: Device = "cuda" if kind == "cuda" else "cpu"
    itemsize = itemsize_of(spec.compute_dtype, device=device)
    needed = training.resident_bytes(spec.retrain, facts.shape, itemsize=itemsize)
    limit = limits.max_device_memory_bytes if device == "cuda" else limits.max_host_memory_bytes
    budget = min(there, dict(settings.classes)[worker_class], limit or float("inf"))
    teacher = "" if spec.retrain.loss == "cross_entropy" else " beside a dense teacher"
    text = f"Retraining{teacher} takes about {-(-needed // MIB)} MiB of memory"
    if needed > budget:
        short = f"{text}, and a job here has {int(budget) // MIB} MiB: train less, without a teacher, or in bfloat16."
        return [{"code": "retraining_does_not_fit", "text": short}]
    return [{"code": "teacher_in_memory", "text": f"{text}."}] if teacher else []
