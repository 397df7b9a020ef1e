"""Overall progress of a job: its phases weighted by their usual duration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.db.job import Job
from espalier.checkpoint_names import RepetitionName
from espalier.recipe.phases import PHASES, Phase, PhaseInfo


def overall(spec: Mapping[str, Any], phase: Phase, current: int, total: int, repetition: str = "") -> float:
    """Return how far the job is, 0 to 1, given how far this phase is; `repetition`: its cycle or member."""
    steps = list(_steps(spec, phase))
    ours = [index for index, (name, _, _) in enumerate(steps) if name == phase]
    # What a cycle does once for all of its members (the search of a rate) bears the cycle's name alone.
    at = max(ours, key=lambda index: (steps[index][1] == repetition, steps[index][1].startswith(f"{repetition}-")))
    fraction = min(current / total, 1.0) if total > 0 else 0.0
    before = sum(weight for _, _, weight in steps[:at])
    return (before + steps[at][2] * fraction) / sum(weight for _, _, weight in steps)


def _steps(spec: Mapping[str, Any], now: Phase) -> Iterator[tuple[Phase, str, float]]:
    """Yield the phases in the order in which they come, with the repetition of each and its share of the work."""
    planned = [phase for phase in PHASES if phase.planned(spec) or phase.name == now]
    repeated = [phase for phase in planned if phase.repeats]
    first = planned.index(repeated[0])
    yield from ((phase.name, "", phase.weight) for phase in planned[:first])
    yield from _turns(spec, repeated)
    yield from ((phase.name, "", phase.weight) for phase in planned[first + len(repeated) :])


def _turns(spec: Mapping[str, Any], phases: Sequence[PhaseInfo]) -> Iterator[tuple[Phase, str, float]]:
    """Yield the phases of all cycles; a soup in cycles trains its members in sequence, and averages once more."""
    cycles, soup = spec.get("cycles"), spec.get("soup")
    count, members = (cycles or {}).get("count") or 1, (soup or {}).get("members") or 1
    for cycle in (RepetitionName(cycle=number) for number in range(1, count + 1)) if cycles else (RepetitionName(),):
        if not (cycles and soup):
            yield from ((phase.name, str(cycle), phase.weight / count) for phase in phases)
            continue
        trained = [phase for phase in phases if phase.field == "retrain"]
        yield from ((phase.name, str(cycle), phase.weight / count) for phase in phases if phase not in trained)
        for member in range(1, members + 1):
            repetition = str(replace(cycle, member=member))
            yield from ((phase.name, repetition, phase.weight / count / members) for phase in trained)
        averaging = trained[-1]
        yield averaging.name, str(cycle), averaging.weight / count


def note_fetched(job: Job, fetched: int) -> None:
    """Count it as progress when an attempt has fetched more bytes than any before it: failures begin anew."""
    if fetched > (job.fetched_bytes or 0):
        job.fetched_bytes, job.failures = fetched, {}
