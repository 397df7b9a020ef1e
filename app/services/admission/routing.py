"""Routing of jobs to worker classes: the first class whose memory is enough."""

from __future__ import annotations

from app.settings import Settings
from espalier.memory import estimate, itemsize_of
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec


def worker_class(settings: Settings, spec: CompressionSpec | None, facts: ModelFacts | None) -> str:
    """Return the worker class of a job; the first class where its model is not known yet."""
    known = settings.classes
    if spec is None or facts is None:
        return known[0][0]
    needed = memory_bytes(spec, facts)
    return next((name for name, memory in known if needed <= memory), known[-1][0])


def larger_class(settings: Settings, current: str, spec: CompressionSpec, facts: ModelFacts | None) -> str | None:
    """Return the worker class that a job has to move to: one larger than its own, where its own cannot hold it.

    A job whose model nobody had seen begins in the smallest class.
    """
    names = [name for name, _ in settings.classes]
    if current not in names[:-1] or facts is None:
        return None
    wanted = worker_class(settings, spec, facts)
    return wanted if names.index(wanted) > names.index(current) else None


def memory_bytes(spec: CompressionSpec, facts: ModelFacts) -> int:
    """Estimate the peak memory of a job, its texts apart.

    Settings do not tell which classes have a GPU: all is counted as on a CPU, where host and device are one.
    """
    needed = estimate(facts.shape, spec, itemsize=itemsize_of(spec.compute_dtype, device="cpu"), text_bytes=0)
    return needed.largest_peak(spec, device="cpu")
