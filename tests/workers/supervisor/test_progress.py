"""One number for a whole job: it rises from phase to phase, cycle to cycle, and stands nowhere for long."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from espalier.recipe.phases import Phase
from workers.supervisor.progress import overall

WAY: list[Phase] = ["pruning", "reconstructing", "retraining", "merging"]
SPEC: dict[str, Any] = {"reconstruct": {"window": "submodule"}, "retrain": {"steps": 100}}
TEN = SPEC | {"cycles": {"count": 10}}


def _story(turns: list[str]) -> list[tuple[Phase, str]]:
    """The phases of a job in the order in which it goes through them."""
    start: list[tuple[Phase, str]] = [("fetching", ""), ("baseline", "")]
    return [*start, *((phase, turn) for turn in turns for phase in WAY), ("evaluating", ""), ("uploading", "")]


@pytest.mark.parametrize(
    ("spec", "turns"),
    [
        (SPEC, [""]),
        (SPEC | {"soup": {"members": 3}}, [""]),  # its members are jobs of their own
        (TEN, [f"cycle-{number}" for number in range(1, 11)]),
    ],
    ids=["once", "soup", "cycles"],
)
def test_progress_rises_in_even_steps(spec: dict[str, Any], turns: list[str]) -> None:
    story = [overall(spec, phase, half, 2, turn) for phase, turn in _story(turns) for half in (0, 1, 2)]
    assert story == sorted(story)
    assert max(after - before for before, after in pairwise(story)) < 0.5 / len(turns)
    assert story[-1] == pytest.approx(1.0)


def test_every_cycle_takes_its_share() -> None:
    ends = [overall(TEN, "merging", 1, 1, f"cycle-{number}") for number in range(1, 11)]
    steps = {round(after - before, 9) for before, after in pairwise(ends)}
    assert len(steps) == 1
    assert ends[0] < 0.25
    assert overall(SPEC, "merging", 1, 1) == pytest.approx(ends[-1])


def test_members_within_a_cycle_come_one_after_the_other() -> None:
    spec = {"retrain": {"steps": 100}, "cycles": {"count": 2}, "soup": {"members": 2}}
    way: list[tuple[Phase, str]] = []
    for cycle in ("cycle-1", "cycle-2"):
        way.append(("pruning", cycle))
        for member in (f"{cycle}-member-1", f"{cycle}-member-2"):
            way += [("retraining", member), ("merging", member)]
        way.append(("merging", cycle))
    fractions = [overall(spec, phase, 1, 1, turn) for phase, turn in way]
    assert fractions == sorted(set(fractions))
    searched = overall(spec, "retraining", 0, 1, "cycle-2")
    assert searched == overall(spec, "retraining", 0, 1, "cycle-2-member-1")
