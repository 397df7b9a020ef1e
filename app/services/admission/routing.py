"""Routing of jobs to worker classes: the first class that holds a job and computes it in reasonable time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from app.db.queries.queue import workers
from app.db.queries.requests import uploads
from app.db.session import once
from app.errors import InvalidRequest
from app.settings import Settings
from app.worker_classes import WorkerClass
from espalier.errors import EngineError, InsufficientMemoryError, Problem
from espalier.memory import Decision, Device, Need, decide, estimate, itemsize_of, stored_itemsize, usable_bytes, work
from espalier.memory.accelerators import Accelerator, accelerator_of
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.dataset import BuiltinDataset, Dataset, LocalDataset, UploadDataset

SLOW_SECONDS: Final = 3600.0
"""A job that computes longer in a class goes to a faster one, if there is one that holds it."""
SEEN: Final = timedelta(minutes=10)
"""Of workers whose device tells where a class computes."""
BUILTIN_BYTES: Final = 470_000
"""Of the text inside CPython, about."""


@dataclass(frozen=True)
class ClassFit:
    """How a job fits into a worker class."""

    worker_class: WorkerClass
    decision: Decision
    lacking: Need | None
    """The largest thing that the class does not hold; None where it holds the job."""
    budget: float
    """Bytes that a job may plan with there."""
    seconds: float
    """Of computing, at least."""


class NoClassHolds(InsufficientMemoryError):
    """No worker class holds a job."""

    def __init__(self, need: Need, largest: WorkerClass, budget: float) -> None:
        super().__init__(
            f"{need.what} takes about {need.bytes} bytes, and a job may take {budget:.0f} in the largest worker class "
            f"({largest.name}).",
            hint=need.way_out,
            class_="host_oom" if largest.device == "cpu" else "gpu_oom",
        )
        self.pointer = need.pointer


class NoClassOfCards(EngineError, class_="invalid_spec"):
    """No worker class has as many cards for one job as it asks for."""

    pointer = "/limits/gpus"

    def __init__(self, gpus: int, known: Sequence[WorkerClass]) -> None:
        there = ", ".join(f"{each.name} ({each.cards})" for each in known)
        super().__init__(
            f"No worker class has {gpus} cards for one job: {there}.",
            hint="Ask for as many as one has, or leave limits.gpus out; an operator adds a class in "
            "ESPALIER_WORKER_CLASSES (name=bytesxCARDS:flops).",
        )


def of_cards(settings: Settings, gpus: int | None) -> list[WorkerClass]:
    """Return the worker classes with as many cards as a job asks for, smallest first; raises NoClassOfCards."""
    known = [each for each in settings.classes if each.cards == (gpus or 1)]
    if not known:
        raise NoClassOfCards(gpus or 1, settings.classes)
    return known


def worker_class(
    settings: Settings, spec: CompressionSpec | None, facts: ModelFacts | None, *, gpus: int | None = None
) -> str:
    """Return the worker class of a job on so many cards; the first such class where its model is not known yet.

    Raises NoClassHolds and NoClassOfCards. A class that holds the whole model comes before one that goes through it
    block by block.
    """
    known = of_cards(settings, gpus)
    if spec is None or facts is None:
        return known[0].name
    counts = work.of_one_rank(work.works(spec, facts.shape, file_bytes=0), gpus or 1)
    operations = sum(count for phase, count in counts.items() if phase not in work.MOVES)
    fits = [fit(each, spec, facts, device=each.device or "cpu", operations=operations) for each in known]
    holding = [each for each in fits if each.lacking is None]
    quick = [each for each in holding if each.seconds <= SLOW_SECONDS]
    if quick:
        return min(quick, key=lambda each: each.decision.by_blocks).worker_class.name  # of equals the first
    if holding:
        return min(holding, key=lambda each: each.seconds).worker_class.name
    # Of a class that says neither by speed nor by name where it computes, nothing is refused that a GPU would hold.
    unknown = [fit(each, spec, facts, device="cuda", operations=operations) for each in known if each.device is None]
    if fitting := [each for each in unknown if each.lacking is None]:
        return fitting[-1].worker_class.name
    largest = (unknown or fits)[-1]
    assert largest.lacking is not None
    raise NoClassHolds(largest.lacking, largest.worker_class, largest.budget)


def require_class(
    settings: Settings, spec: CompressionSpec | None, facts: ModelFacts | None, *, gpus: int | None = None
) -> str:
    """Return the worker class of a new job; raises InvalidRequest where none holds it, with the numbers."""
    try:
        return worker_class(settings, spec, facts, gpus=gpus)
    except NoClassOfCards as error:
        items = [Problem(error.pointer, "no-worker-class", error.detail)]
        raise InvalidRequest("No worker class has the cards.", items=items) from error
    except NoClassHolds as error:
        items = [Problem(error.pointer, "no-worker-class", error.detail)]
        raise InvalidRequest("No worker class holds the job.", items=items) from error


def larger_class(
    settings: Settings, current: str, spec: CompressionSpec, facts: ModelFacts | None, *, gpus: int | None = None
) -> str | None:
    """Return the worker class that a job has to move to: one after its own, where its own is not the right one.

    A job whose model nobody had seen begins in the first class. Raises NoClassHolds and NoClassOfCards.
    """
    names = [each.name for each in of_cards(settings, gpus)]
    if current not in names[:-1] or facts is None:
        return None
    wanted = worker_class(settings, spec, facts, gpus=gpus)
    return wanted if names.index(wanted) > names.index(current) else None


def fit(
    worker_class: WorkerClass, spec: CompressionSpec, facts: ModelFacts, *, device: Device, operations: float = 0.0
) -> ClassFit:
    """Return how a job fits into a worker class that computes on `device`; its texts are left out."""
    itemsize = itemsize_of(spec.compute_dtype, device=device)
    stored, ranks = stored_itemsize(spec, facts.dtype), worker_class.cards
    needed = estimate(facts.shape, spec, device=device, itemsize=itemsize, stored=stored, text_bytes=0, ranks=ranks)
    budget = budget_of(worker_class, device)
    decision = decide(needed, spec, device=device, budget=budget)
    peak = needed.largest_peak(spec, device=device, by_blocks=decision.by_blocks, micro_batch=decision.micro_batch)
    beyond = Need(peak, "the largest phase", "/source") if peak > budget else None
    lacking = decision.lacking[0] if decision.lacking else beyond
    return ClassFit(worker_class, decision, lacking, budget, worker_class.seconds(operations))


def budget_of(worker_class: WorkerClass, device: Device) -> float:
    """Return the bytes that a job may plan with in a worker class that computes on `device`."""
    return usable_bytes(worker_class.memory_bytes) if device == "cuda" else worker_class.memory_bytes


def device_of(session: Session, worker_class: str, *, now: datetime) -> Device | None:
    """Return where the class's workers compute that were seen lately; None without one."""
    ask = partial(workers.largest, session, worker_class, seen_after=now - SEEN)
    kind, _ = once(session, ("largest worker", worker_class), ask) or ("", 0)
    return "cpu" if kind == "cpu" else "cuda" if kind else None


def gpu_of(session: Session, worker_class: str, *, now: datetime) -> Accelerator | None:
    """Return the kind of GPU that the class's workers have that were seen lately; None without one, or on a CPU."""
    ask = partial(workers.largest, session, worker_class, seen_after=now - SEEN)
    kind, memory = once(session, ("largest worker", worker_class), ask) or ("", 0)
    return accelerator_of(memory) if kind == "cuda" else None


def require_limit(
    session: Session, limit: int | None, worker_class: str, spec: CompressionSpec, facts: ModelFacts, *, now: datetime
) -> None:
    """Raise InvalidRequest where `limits.max_host_memory_bytes` cannot hold the job; names the least that would.

    Where no worker tells that the class computes on a CPU, only what a job with a GPU needs as well is asked for.
    """
    if limit is None:
        return
    device = device_of(session, worker_class, now=now) or "cuda"
    parts = estimate(
        facts.shape,
        spec,
        device=device,
        itemsize=itemsize_of(spec.compute_dtype, device=device),
        stored=stored_itemsize(spec, facts.dtype),
        text_bytes=text_bytes(session, spec.datasets.values()),
    )
    needed, what, _ = max(parts.required_on_host(spec, device=device))
    if needed > limit:
        detail = f"{what} takes about {needed} bytes, the libraries' {parts.process} included: give at least {needed}"
        raise InvalidRequest(
            "The limit on memory cannot hold the job.",
            items=[Problem("/limits/max_host_memory_bytes", "limit-too-small", detail)],
        )


def text_bytes(session: Session, datasets: Iterable[Dataset]) -> int:
    """Return the size of the largest text, as far as it is known before a run."""
    return max(_bytes_of(session, dataset) for dataset in datasets)


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
