"""Estimates of what a job takes: seconds from the model's shapes and the rates of finished jobs of the worker class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from sqlalchemy.orm import Session

from app.bodies.stored import stored_spec
from app.db.job import Job
from app.db.queries.jobs import reads
from app.db.queries.jobs.jobs import newest_measured
from app.integrations.systems import read_source
from app.services.admission import source_cache
from espalier.memory import work
from espalier.memory.accelerators import Accelerator, phase_seconds
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec

DEFAULT_RATES: Final[Mapping[str, float]] = {"compute": 2e10, "bytes": 1e8}
"""Floating-point operations and bytes a second of two CPU cores: until a job has finished here."""
SAMPLE_JOBS: Final = 20
OVERHEAD_SECONDS: Final = 3.0
"""Of starting the two children and of all else that is no phase, once per job: until a job has finished here."""


@dataclass(frozen=True)
class Rates:
    """Measured rates of work per second, by phase, and the number of jobs that they come from."""

    by_phase: Mapping[str, float]
    jobs: int
    overhead_seconds: float = OVERHEAD_SECONDS
    """What a job took beside its phases."""
    assumed: Mapping[str, float] = field(default_factory=dict)
    """Seconds of phases on a GPU that no job has measured yet, by arithmetic."""

    def seconds(self, phase: str, operations: float) -> float:
        """Return the seconds that operations take in a phase."""
        if phase not in self.by_phase and phase in self.assumed:
            return self.assumed[phase]
        default = DEFAULT_RATES["bytes" if phase in work.MOVES else "compute"]
        return operations / self.by_phase.get(phase, default)

    def total_seconds(self, works: Mapping[str, float]) -> float:
        """Return the seconds that the operations of all phases take."""
        return sum(self.seconds(phase, operations) for phase, operations in works.items())


UNKNOWN: Final = Rates({}, 0)
"""Until a job has finished here."""


def rates(session: Session, project_id: str, worker_class: str, *, assumed: Mapping[str, float] | None = None) -> Rates:
    """Measure how fast the last finished jobs of a worker class went, over models that are known.

    `assumed`: seconds of the phases of a job on a GPU, where none has finished.
    """
    reached: dict[str, list[float]] = defaultdict(list)
    beside: list[float] = []
    counted = 0
    for job in newest_measured(session, project_id, worker_class, limit=SAMPLE_JOBS):
        model = source_cache.model(session, project_id, _pinned(job))
        if model is None:
            continue
        assert job.resolved_spec is not None
        spec = stored_spec(job.resolved_spec)
        if work.num_jobs(spec) > 1:  # its rows are its own part only; its members tell theirs
            continue
        counted += 1
        expected = work.works(spec, model.facts.shape, file_bytes=model.facts.bytes)
        records = reads.phases(session, job.id)
        for record in records:
            if record.seconds and expected.get(record.name):
                reached[record.name].append(expected[record.name] / record.seconds)
        rest = job.running_seconds - sum(record.seconds or 0.0 for record in records)
        if job.attempt == 1 and rest > 0:  # what was resumed began more than once; phases taken over took nothing
            beside.append(rest)
    overhead = median(beside) if beside else OVERHEAD_SECONDS
    by_phase = {phase: median(values) for phase, values in reached.items()}
    return Rates(by_phase, counted, overhead, assumed or {})


def assumed(gpu: Accelerator | None, spec: CompressionSpec | None, facts: ModelFacts | None) -> dict[str, float]:
    """Return the seconds of a job's phases on a kind of GPU; nothing on a CPU, or of a model nobody has seen."""
    if gpu is None or spec is None or facts is None:
        return {}
    return phase_seconds(spec, facts.shape, gpu, file_bytes=facts.bytes)


def _pinned(job: Job) -> dict[str, object]:
    source = read_source(job.request["source"])
    return (source.at(job.resolved_revision) if job.resolved_revision else source).model_dump(mode="json")
