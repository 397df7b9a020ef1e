"""What a job will take: seconds from the model's shapes and from what finished jobs of the worker class reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries import reads
from app.db.queries.jobs import newest_measured
from app.integrations.systems import read_source
from app.services.admission import known, routing
from espalier.memory import retraining, shapes
from espalier.probe import ModelFacts
from espalier.recipe.base import canonical
from espalier.recipe.prune import PruneStep
from espalier.recipe.spec import CompressionSpec

DEFAULT_RATES: Final[Mapping[str, float]] = {"compute": 2e10, "bytes": 1e8}
"""Floating-point operations and bytes a second of two CPU cores: until a job has finished here."""
ASSUMED_WINDOWS: Final = 200
"""Where a measurement takes all windows of its text."""
SAMPLE_JOBS: Final = 20
OVERHEAD_SECONDS: Final = 3.0
"""Of starting the two children and of all else that is no phase, once per job: until a job has finished here."""
_MOVES: Final = frozenset({"fetching", "exporting", "uploading"})
FLOAT_BYTES: Final = 4
ERROR_TOKENS: Final = 4096
"""What the walk measures the errors of masks on."""


@dataclass(frozen=True)
class Rates:
    """How much of a phase's work a second does, by phase, and from how many jobs that is known."""

    by_phase: Mapping[str, float]
    jobs: int
    overhead_seconds: float = OVERHEAD_SECONDS
    """What a job took beside its phases."""

    def seconds(self, phase: str, work: float) -> float:
        """Return how long some work takes in a phase."""
        default = DEFAULT_RATES["bytes" if phase in _MOVES else "compute"]
        return work / self.by_phase.get(phase, default)


UNKNOWN: Final = Rates({}, 0)
"""Until a job has finished here."""


def works(spec: CompressionSpec, facts: ModelFacts) -> dict[str, float]:
    """Return the work of every phase of a resolved spec: floating-point operations, or bytes where files move.

    Cycles go through phases once each; members of a soup that are jobs of their own count with the job.
    """
    inside = facts.inside
    tokens = spec.calibration.samples * (spec.calibration.sequence_length or 0)
    scored = sum(
        (item.max_windows or ASSUMED_WINDOWS) * (item.sequence_length or 0) for item in spec.evaluate.perplexity
    )
    forward = 2.0 * facts.parameters
    turns = spec.cycles.count if spec.cycles else 1
    members = spec.soup.members if spec.soup else 1
    after = forward * scored if spec.evaluate.after_each_phase else 0.0
    found = {"fetching": float(facts.bytes), "baseline": forward * scored}
    if spec.prune:
        reads_gram = any(isinstance(step, PruneStep) and step.reads == "gram" for step in spec.prune)
        grams = tokens * facts.squares if reads_gram else 0
        recovers = spec.reconstruct is not None or spec.retrain is not None
        walk, rescored = 2.0 * inside * tokens, forward * scored if recovers else 0.0
        if spec.propagation == "dense":  # its statistics are a result by themselves, and pruning reads a few tokens
            found |= {
                "calibrating": turns * (walk + grams),
                "pruning": turns * (2.0 * inside * min(tokens, ERROR_TOKENS) + rescored),
            }
        else:
            found |= {"calibrating": 0.0, "pruning": turns * (2 * walk + grams + rescored)}
    if spec.reconstruct is not None:
        epochs = spec.reconstruct.epochs + 2  # the search of a rate and the errors before and after
        found["reconstructing"] = turns * (6.0 * inside * tokens * epochs + after)
    if spec.retrain is not None:
        retrain = spec.retrain
        seen = retraining.steps(spec) * retrain.batch_size * retrain.accumulate * (retrain.sequence_length or 0)
        passes = 3 if retrain.loss == "cross_entropy" else 4  # forward, backward, and forward through the teacher
        found["retraining"] = passes * forward * seen + turns * members * after
        found["merging"] = float(turns * members * inside)
    written = float(jobs(spec) * facts.bytes)
    return {**found, "evaluating": jobs(spec) * forward * scored, "exporting": written, "uploading": written}


def jobs(spec: CompressionSpec) -> int:
    """Return how many jobs a spec is: the members of a soup outside of cycles are jobs of their own."""
    return 1 + spec.soup.members if spec.soup and not spec.cycles else 1


def memory_bytes(phase: str, spec: CompressionSpec, facts: ModelFacts, room: shapes.Room) -> int:
    """Estimate what a phase holds at once, its libraries and the text included; `room`: what the job's parts take."""
    if phase in _MOVES:
        return 0
    lone = spec.model_copy(update={"retrain": None, "soup": None, "cycles": None})
    scored = max(
        (shapes.logits_bytes(facts.vocab_size, item.sequence_length or 0) for item in spec.evaluate.perplexity),
        default=0,
    )
    walk = max(room.outside, room.block) + room.hidden
    held = {
        "baseline": room.model + scored,
        "calibrating": walk,
        "pruning": walk,
        "reconstructing": walk + shapes.STREAMS * room.hidden,
        "merging": walk,
        # Latency and divergence hold the dense model beside the result.
        "evaluating": max(room.outside, room.block) + 2 * room.model + scored,
    }
    if phase == "retraining" and spec.retrain is not None:
        batch = spec.retrain.batch_size
        logits = shapes.logits_bytes(facts.vocab_size, spec.retrain.sequence_length or 0, windows=batch)
        held[phase] = walk + room.training + room.training // 4 + logits  # a quarter for activations
    if phase in {"pruning", "reconstructing"}:
        held[phase] = max(held[phase], routing.memory_bytes(lone, facts))
    return room.process + max(room.text, held[phase])


def disk_bytes(phase: str, facts: ModelFacts) -> int:
    """Estimate what a phase leaves in the working folder or the cache: weights, checkpoints of changed blocks."""
    share = facts.inside / facts.parameters if facts.parameters else 0.0
    if phase in {"fetching", "exporting"}:
        return facts.bytes
    return int(facts.bytes * share) if phase in {"pruning", "reconstructing", "merging"} else 0


def rates(session: Session, project_id: str, worker_class: str) -> Rates:
    """Measure how fast the last finished jobs of a worker class went, over models that are known."""
    reached: dict[str, list[float]] = defaultdict(list)
    beside: list[float] = []
    counted = 0
    for job in newest_measured(session, project_id, worker_class, limit=SAMPLE_JOBS):
        model = known.model(session, project_id, _pinned(job))
        if model is None:
            continue
        spec = CompressionSpec.model_validate_json(canonical(job.resolved_spec))
        if jobs(spec) > 1:  # its rows are its own part only; its members tell theirs
            continue
        counted += 1
        expected = works(spec, model.facts)
        records = reads.phases(session, job.id)
        for record in records:
            if record.seconds and expected.get(record.name):
                reached[record.name].append(expected[record.name] / record.seconds)
        rest = job.running_seconds - sum(record.seconds or 0.0 for record in records)
        if job.attempt == 1 and rest > 0:  # what was resumed began more than once; phases taken over took nothing
            beside.append(rest)
    overhead = median(beside) if beside else OVERHEAD_SECONDS
    return Rates({phase: median(values) for phase, values in reached.items()}, counted, overhead)


def _pinned(job: Job) -> dict[str, object]:
    source = read_source(job.request["source"])
    return (source.at(job.resolved_revision) if job.resolved_revision else source).model_dump(mode="json")
