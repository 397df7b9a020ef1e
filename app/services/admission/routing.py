"""Routing of jobs to worker classes: the first class that holds a job and computes it in reasonable time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.errors import InvalidRequest
from app.settings import Settings
from app.worker_classes import WorkerClass
from espalier.errors import InsufficientMemoryError, Problem
from espalier.memory import Decision, Device, Need, decide, estimate, itemsize_of, usable_bytes, work
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec

SLOW_SECONDS: Final = 3600.0
"""A job that computes longer in a class goes to a faster one, if there is one that holds it."""


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


def worker_class(settings: Settings, spec: CompressionSpec | None, facts: ModelFacts | None) -> str:
    """Return the worker class of a job; the first class where its model is not known yet.

    Raises NoClassHolds. A class that holds the whole model comes before one that goes through it block by block.
    """
    known = settings.classes
    if spec is None or facts is None:
        return known[0].name
    counts = work.works(spec, facts.shape, file_bytes=0)
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


def require_class(settings: Settings, spec: CompressionSpec | None, facts: ModelFacts | None) -> str:
    """Return the worker class of a new job; raises InvalidRequest where none holds it, with the numbers."""
    try:
        return worker_class(settings, spec, facts)
    except NoClassHolds as error:
        items = [Problem(error.pointer, "no-worker-class", error.detail)]
        raise InvalidRequest("No worker class holds the job.", items=items) from error


def larger_class(settings: Settings, current: str, spec: CompressionSpec, facts: ModelFacts | None) -> str | None:
    """Return the worker class that a job has to move to: one after its own, where its own is not the right one.

    A job whose model nobody had seen begins in the first class. Raises NoClassHolds.
    """
    names = [each.name for each in settings.classes]
    if current not in names[:-1] or facts is None:
        return None
    wanted = worker_class(settings, spec, facts)
    return wanted if names.index(wanted) > names.index(current) else None


def fit(
    worker_class: WorkerClass, spec: CompressionSpec, facts: ModelFacts, *, device: Device, operations: float = 0.0
) -> ClassFit:
    """Return how a job fits into a worker class that computes on `device`; its texts are left out."""
    itemsize = itemsize_of(spec.compute_dtype, device=device)
    needed = estimate(facts.shape, spec, device=device, itemsize=itemsize, text_bytes=0)
    budget = budget_of(worker_class, device)
    decision = decide(needed, spec, device=device, budget=budget)
    peak = needed.largest_peak(spec, device=device, by_blocks=decision.by_blocks, micro_batch=decision.micro_batch)
    beyond = Need(peak, "the largest phase", "/source") if peak > budget else None
    lacking = decision.lacking[0] if decision.lacking else beyond
    return ClassFit(worker_class, decision, lacking, budget, worker_class.seconds(operations))


def budget_of(worker_class: WorkerClass, device: Device) -> float:
    """Return the bytes that a job may plan with in a worker class that computes on `device`."""
    return usable_bytes(worker_class.memory_bytes) if device == "cuda" else worker_class.memory_bytes
