"""Memory of a job in its plan: how it would keep to that of its worker class, and what it does without there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.bodies.job import Limits
from app.db.queries.queue import workers
from app.services.admission import routing
from app.settings import Settings
from app.worker_classes import class_named
from espalier.memory import (
    Decision,
    Device,
    MemoryEstimate,
    decide,
    estimate,
    itemsize_of,
    stored_itemsize,
    usable_bytes,
)
from espalier.memory.accelerators import Accelerator, accelerator_of
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec

MIB = 2**20


@dataclass(frozen=True)
class Outlook:
    """How a job would keep to the memory of its worker class, as far as that is known before a run."""

    device: Device
    needed: MemoryEstimate
    budget: float
    """Bytes that it may plan with where it computes."""
    decision: Decision
    gpu: Accelerator | None
    """The kind of GPU that its class most likely has; None on a CPU."""

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
    device: Device = routing.device_of(session, worker_class, now=now) or named.device or "cpu"
    _, there = workers.largest(session, worker_class, seen_after=now - lease) or ("", float("inf"))
    memory = min(there, named.memory_bytes)
    limit = limits.max_device_memory_bytes if device == "cuda" else limits.max_host_memory_bytes
    budget = min(usable_bytes(memory) if device == "cuda" else memory, limit or float("inf"))
    itemsize = itemsize_of(spec.compute_dtype, device=device)
    size = routing.text_bytes(session, spec.datasets.values())
    stored, ranks = stored_itemsize(spec, facts.dtype), limits.gpus or 1
    needed = estimate(facts.shape, spec, device=device, itemsize=itemsize, stored=stored, text_bytes=size, ranks=ranks)
    gpu = accelerator_of(memory, named.flops) if device == "cuda" else None
    return Outlook(device, needed, budget, decide(needed, spec, device=device, budget=budget), gpu)


def _mib(size: int) -> int:
    return -(-size // MIB)
