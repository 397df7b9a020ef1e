"""Compute and traffic of a job, phase by phase: arithmetic over the recipe and the shapes of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from espalier.memory.pruning import ERROR_TOKENS
from espalier.memory.shapes import ModelShape
from espalier.recipe.phases import PHASES
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.prune import PruneStep

ASSUMED_WINDOWS: Final = 200
"""Windows of a measurement that takes all of its text."""
MOVES: Final = frozenset({"fetching", "exporting", "uploading"})
"""Phases whose work is bytes that move; that of all others is floating-point operations."""
SHARED: Final = frozenset({"calibrating", "pruning", "reconstructing", "retraining"})
"""Phases whose work several ranks share; the first one does all others alone."""
UNCOUNTED: Final = frozenset({"resolving", "publishing"})
"""Phases that wait for other systems."""
FORWARD: Final = 2.0
"""Operations of a forward pass for each weight and token."""
FORWARD_AND_BACKWARD: Final = 3 * FORWARD
MAX_TRIALS: Final = 5
TRIAL_FRACTION: Final = 0.1
"""Length of a trial as a fraction of a short training: all of them together are at most half of it."""
LONG_TRIAL_FRACTION: Final = 0.02
"""The same of a training of 1,000 steps and more: all of them together are at most a tenth of it."""
ENOUGH_STEPS: Final = 20
"""Of a trial, in between: what a tenth of 200 steps is, and a fiftieth of 1,000."""
MIN_STEPS: Final = 4
"""Shorter trials tell nothing."""


def works(spec: CompressionSpec, shape: ModelShape, *, file_bytes: int) -> dict[str, float]:
    """Return the work of every phase that a resolved spec goes through, in order.

    Cycles go through phases once each; members of a soup that are jobs of their own count with the job. A phase that
    nothing is said of here looks at every weight of the blocks once.
    """
    counted = _measuring(spec, shape) | _moving(spec, file_bytes) | _pruning(spec, shape) | _recovery(spec, shape)
    skipped = UNCOUNTED if spec.prune else UNCOUNTED | {"calibrating", "pruning"}
    planned = [phase.name for phase in PHASES if phase.field is None or getattr(spec, phase.field)]
    return {phase: counted.get(phase, float(shape.weights)) for phase in planned if phase not in skipped}


def of_one_rank(counts: Mapping[str, float], ranks: int) -> dict[str, float]:
    """Return the work of every phase that the first of several ranks does, of the work of all."""
    return {phase: count / ranks if phase in SHARED else count for phase, count in counts.items()}


def num_jobs(spec: CompressionSpec) -> int:
    """Return how many jobs a spec is: the members of a soup outside of cycles are jobs of their own."""
    return 1 + spec.soup.members if spec.soup and not spec.cycles else 1


def trials(steps: int) -> tuple[int, int]:
    """Return how many trials of a learning rate go before so many steps, at most, and the steps of one."""
    enough = max(ENOUGH_STEPS, round(LONG_TRIAL_FRACTION * steps))
    length = max(MIN_STEPS, min(round(TRIAL_FRACTION * steps), enough))
    return min(MAX_TRIALS, steps // (2 * length)), length


def training_steps(spec: CompressionSpec) -> int:
    """Return the optimizer steps of all cycles and members, trials of a rate at most; members share their trials."""
    retrain = spec.retrain
    if retrain is None:
        return 0
    cycles = spec.cycles
    runs = [retrain.steps] if cycles is None else [cycles.steps(n + 1, retrain.steps) for n in range(cycles.count)]
    searches = retrain.learning_rate == "auto" and retrain.rate_factor is None
    searched = sum(count * length for count, length in map(trials, runs)) if searches else 0
    return retrain.steps * (spec.soup.members if spec.soup else 1) + searched


def disk_bytes(phase: str, shape: ModelShape, *, file_bytes: int) -> int:
    """Return what a phase leaves in the working folder or the cache: weights, checkpoints of changed blocks."""
    if phase in {"fetching", "exporting"}:
        return file_bytes
    changed = shape.weights / shape.parameters if shape.parameters else 0.0
    return int(file_bytes * changed) if phase in {"pruning", "reconstructing", "merging"} else 0


def _scoring(spec: CompressionSpec, shape: ModelShape) -> float:
    """Count one measurement of every perplexity."""
    tokens = sum(
        (item.max_windows or ASSUMED_WINDOWS) * (item.sequence_length or 0) for item in spec.evaluate.perplexity
    )
    return FORWARD * shape.parameters * tokens


def _repetitions(spec: CompressionSpec) -> int:
    return spec.cycles.count if spec.cycles else 1


def _measuring(spec: CompressionSpec, shape: ModelShape) -> dict[str, float]:
    scoring = _scoring(spec, shape)
    return {"baseline": scoring, "evaluating": num_jobs(spec) * scoring}


def _moving(spec: CompressionSpec, file_bytes: int) -> dict[str, float]:
    written = float(num_jobs(spec) * file_bytes)
    return {"fetching": float(file_bytes), "exporting": written, "uploading": written}


def _pruning(spec: CompressionSpec, shape: ModelShape) -> dict[str, float]:
    """Count forwards through the blocks, Gram matrices, and the measurement before recovery."""
    tokens = spec.calibration.samples * (spec.calibration.sequence_length or 0)
    reads_gram = any(isinstance(step, PruneStep) and step.reads == "gram" for step in spec.prune)
    grams = tokens * shape.squares if reads_gram else 0
    recovers = spec.reconstruct is not None or spec.retrain is not None
    walk, measured = FORWARD * shape.weights * tokens, _scoring(spec, shape) if recovers else 0.0
    if spec.propagation == "dense":  # its statistics are a result by themselves, and pruning reads a few tokens
        errors = FORWARD * shape.weights * min(tokens, ERROR_TOKENS)
        return {"calibrating": _repetitions(spec) * (walk + grams), "pruning": _repetitions(spec) * (errors + measured)}
    return {"calibrating": 0.0, "pruning": _repetitions(spec) * (2 * walk + grams + measured)}


def _recovery(spec: CompressionSpec, shape: ModelShape) -> dict[str, float]:
    """Count the epochs of windows, the steps of a retraining, and what merging looks at."""
    counts: dict[str, float] = {}
    measured = _scoring(spec, shape) if spec.evaluate.after_each_phase else 0.0
    if spec.reconstruct is not None:
        tokens = spec.calibration.samples * (spec.calibration.sequence_length or 0)
        epochs = spec.reconstruct.epochs + 2  # the search of a rate and the errors before and after
        counts["reconstructing"] = _repetitions(spec) * (
            FORWARD_AND_BACKWARD * shape.weights * tokens * epochs + measured
        )
    if spec.retrain is not None:
        retrain, times = spec.retrain, _repetitions(spec) * (spec.soup.members if spec.soup else 1)
        tokens_read = training_steps(spec) * retrain.batch_size * retrain.accumulate * (retrain.sequence_length or 0)
        teacher = 0.0 if retrain.loss == "cross_entropy" else FORWARD
        counts["retraining"] = (FORWARD_AND_BACKWARD + teacher) * shape.parameters * tokens_read + times * measured
        counts["merging"] = float(times * shape.weights)
    return counts
