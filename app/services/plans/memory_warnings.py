"""Memory of a job before its run: too small limits are refused, and too small workers are warned about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
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
from app.worker_classes import class_named
from espalier.errors import Problem
from espalier.memory import Decision, Device, MemoryEstimate, decide, estimate, itemsize_of, usable_bytes
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
        facts.shape,
        spec,
        device=device,
        itemsize=itemsize_of(spec.compute_dtype, device=device),
        text_bytes=text_bytes(session, spec),
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


@dataclass(frozen=True)
class Outlook:
    """How a job would keep to the memory of its worker class, as far as that is known before a run."""

    device: Device
    needed: MemoryEstimate
    budget: float
    """Bytes that it may plan with where it computes."""
    decision: Decision

    def peak(self, phase: str, spec: CompressionSpec) -> int:
        """Return the most that a phase holds at once where it computes."""
        by_blocks, micro_batch = self.decision.by_blocks, self.decision.micro_batch
        return self.needed.peak(phase, spec, device=self.device, by_blocks=by_blocks, micro_batch=micro_batch)

    def warnings(self, spec: CompressionSpec) -> Iterator[dict[str, str]]:
        """Tell what is measured or trained in another way than by the whole model at once, and what does not fit."""
        if self.decision.by_blocks:
            text = f"The whole model takes about {_mib(self.needed.scored)} MiB: perplexity is measured block by block."
            yield {"code": "by_blocks", "text": f"{text} Latency is not measured." if spec.evaluate.latency else text}
        if self.decision.micro_batch is not None and spec.retrain is not None:
            text = f"Of a batch of {spec.retrain.batch_size} windows, {self.decision.micro_batch} fit at once"
            yield {"code": "batch_in_parts", "text": f"{text}: they go through the model in parts."}
        if spec.retrain is None:
            return
        teacher = "" if spec.retrain.loss == "cross_entropy" else " beside a dense teacher"
        need = next((each for each in self.decision.lacking if each.pointer == "/spec/retrain"), None)
        if need is not None:
            text = f"Retraining{teacher} takes about {_mib(need.bytes)} MiB of memory, and a job here has"
            yield {"code": "retraining_does_not_fit", "text": f"{text} {int(self.budget) // MIB} MiB. {need.way_out}"}
        elif teacher:
            text = f"Retraining{teacher} takes about {_mib(self.needed.training)} MiB of memory."
            yield {"code": "teacher_in_memory", "text": text}


def outlook(
    session: Session,
    settings: Settings,
    worker_class: str,
    spec: CompressionSpec,
    facts: ModelFacts,
    limits: Limits,
    *,
    now: datetime,
) -> Outlook:
    """Return how a job would keep to its memory: that of its class, of its workers and of the job's limits."""
    named, lease = class_named(settings.classes, worker_class), timedelta(seconds=settings.lease_seconds)
    device: Device = device_of(session, worker_class, now=now) or named.device or "cpu"
    _, there = workers.largest(session, worker_class, seen_after=now - lease) or ("", float("inf"))
    memory = min(there, named.memory_bytes)
    limit = limits.max_device_memory_bytes if device == "cuda" else limits.max_host_memory_bytes
    budget = min(usable_bytes(memory) if device == "cuda" else memory, limit or float("inf"))
    itemsize = itemsize_of(spec.compute_dtype, device=device)
    size = text_bytes(session, spec)
    needed = estimate(facts.shape, spec, device=device, itemsize=itemsize, text_bytes=size)
    return Outlook(device, needed, budget, decide(needed, spec, device=device, budget=budget))


def _mib(size: int) -> int:
    return -(-size // MIB)
