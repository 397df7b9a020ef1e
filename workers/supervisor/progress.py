"""One number for a whole job: its phases weighed by how long they usually take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from app.db.job import Job
from espalier.messages import Progress
from espalier.recipe.phases import PHASES, Phase

_WEIGHTS: Final[Mapping[Phase, float]] = {
    "resolving": 1, "fetching": 3, "baseline": 8, "calibrating": 2, "pruning": 20, "reconstructing": 30,
    "retraining": 30, "merging": 1, "evaluating": 8, "exporting": 2, "uploading": 3, "publishing": 0,
}  # fmt: skip
"""Shares on a CPU with the default spec; only their order of magnitude matters."""


_TURNED: Final[frozenset[Phase]] = frozenset({"calibrating", "pruning", "reconstructing", "retraining", "merging"})
"""What every cycle goes through."""


def overall(spec: Mapping[str, Any], phase: Phase, current: int, total: int, turn: str = "") -> float:
    """Return how far the job is, 0 to 1, given how far this phase is; `turn`: the cycle or member that it is in."""
    steps = list(_steps(spec, phase))
    ours = [index for index, (name, _, _) in enumerate(steps) if name == phase]
    # What a cycle does once for all of its members (the search of a rate) bears the cycle's name alone.
    at = max(ours, key=lambda index: (steps[index][1] == turn, steps[index][1].startswith(f"{turn}-")))
    share = min(current / total, 1.0) if total > 0 else 0.0
    before = sum(weight for _, _, weight in steps[:at])
    return (before + steps[at][2] * share) / sum(weight for _, _, weight in steps)


def _steps(spec: Mapping[str, Any], now: Phase) -> Iterator[tuple[Phase, str, float]]:
    """Yield the phases in the order in which they come, with the turn of each and its share of the work."""
    planned = [name for name in PHASES if _planned(spec, name) or name == now]
    yield from ((name, "", _WEIGHTS[name]) for name in planned[: planned.index("baseline") + 1])
    yield from _turns(spec, [name for name in planned if name in _TURNED])
    yield from ((name, "", _WEIGHTS[name]) for name in planned[planned.index("evaluating") :])


def _turns(spec: Mapping[str, Any], phases: Sequence[Phase]) -> Iterator[tuple[Phase, str, float]]:
    """The phases of all cycles; a soup in cycles trains its members one after the other, and merges once more."""
    cycles, soup = spec.get("cycles"), spec.get("soup")
    count, members = (cycles or {}).get("count") or 1, (soup or {}).get("members") or 1
    for cycle in (f"cycle-{number}" for number in range(1, count + 1)) if cycles else ("",):
        if not (cycles and soup):
            yield from ((name, cycle, _WEIGHTS[name] / count) for name in phases)
            continue
        trained = [name for name in phases if name in {"retraining", "merging"}]
        yield from ((name, cycle, _WEIGHTS[name] / count) for name in phases if name not in trained)
        for member in range(1, members + 1):
            yield from ((name, f"{cycle}-member-{member}", _WEIGHTS[name] / count / members) for name in trained)
        yield "merging", cycle, _WEIGHTS["merging"] / count


def _planned(spec: Mapping[str, Any], phase: Phase) -> bool:
    if phase == "reconstructing":
        return bool(spec.get("reconstruct"))
    if phase in {"retraining", "merging"}:
        return bool(spec.get("retrain"))
    return True


def note_fetched(job: Job, messages: Sequence[Progress]) -> None:
    """Count it as progress when an attempt has fetched more than any before it: failures begin anew."""
    fetched = max((message.current for message in messages if message.phase == "fetching"), default=0)
    if fetched > (job.fetched_bytes or 0):
        job.fetched_bytes, job.failures = fetched, {}
