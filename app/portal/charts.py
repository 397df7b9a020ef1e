"""Metric series of a job, gathered into the few charts that people look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.db.result import PhaseRecord
from app.services.jobs.reads import Series
from espalier.checkpoint_names import RepetitionName

MOST: Final = 8
"""Lines in one chart."""
MOST_CYCLES: Final = 12
"""The newest ones, of a job with more; `/metrics` has all."""
_TITLES: Final = {
    "loss": ("Loss", "step"),
    "window": ("Relative error of windows, with the mask alone and refitted", "block"),
    "rate": ("Learning rate", "step"),
    "other": ("Other measures", "step"),
}


@dataclass(frozen=True)
class Line:
    """One series: values at steps."""

    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Chart:
    """Lines that share one pair of axes."""

    name: str
    title: str
    x_title: str
    lines: list[Line]
    ticks: list[str] | None = None
    """Names of the steps, where they are no numbers."""

    @property
    def rows(self) -> list[tuple[int | str, list[float | None]]]:
        """Every step with the value of each line: the table that holds the same."""
        steps = sorted({step for line in self.lines for step, _ in line.points})
        values = [dict(line.points) for line in self.lines]
        return [(self.ticks[step] if self.ticks else step, [by_step.get(step) for by_step in values]) for step in steps]

    def document(self) -> dict[str, Any]:
        """Return the chart as our script takes it."""
        rows = self.rows
        x = list(range(len(rows))) if self.ticks else [step for step, _ in rows]
        columns = [[values[index] for _, values in rows] for index in range(len(self.lines))]
        return {
            "names": [line.name for line in self.lines],
            "data": [x, *columns],
            "x_title": self.x_title,
            "ticks": [str(step) for step, _ in rows] if self.ticks else None,
        }


def charts(series: Sequence[Series], phases: Sequence[PhaseRecord]) -> list[Chart]:
    """Put what belongs together into one chart each; every cycle has its own, and members of a soup share it."""
    lines_of: dict[tuple[int | None, str], list[Line]] = {}
    for line in series:
        repetition, measure = RepetitionName.of_series(line.name)
        kind = _kind_of(measure)
        if line.points and kind:
            points = [(point.step, point.value) for point in line.points]
            name = measure if repetition.member is None else f"member {repetition.member} {measure}"
            lines_of.setdefault((repetition.cycle, kind), []).append(Line(name, points))
    cycles = sorted({cycle for cycle, _ in lines_of}, key=lambda cycle: cycle or 0)[-MOST_CYCLES:]
    return [
        *_perplexity(phases),
        *(_chart(kind, cycle, lines_of) for cycle in cycles for kind in _TITLES if (cycle, kind) in lines_of),
    ]


def _chart(kind: str, cycle: int | None, lines_of: dict[tuple[int | None, str], list[Line]]) -> Chart:
    title, x_title = _TITLES[kind]
    lines = lines_of[cycle, kind][:MOST]
    if cycle is None:
        return Chart(kind, title, x_title, lines)
    return Chart(f"{kind}-cycle-{cycle}", f"{title}, cycle {cycle}", x_title, lines)


def _kind_of(measure: str) -> str | None:
    if "." in measure:  # of the windows of reconstruction: a value per block
        return None if measure.endswith("learning_rate") else "window"
    if measure.endswith("loss"):
        return "loss"
    return "rate" if measure == "learning_rate" else "other"


def _perplexity(phases: Sequence[PhaseRecord]) -> Iterator[Chart]:
    measured = [(phase.name, phase.perplexity) for phase in phases if phase.perplexity]
    names = list(dict.fromkeys(name for _, scores in measured for name in scores))
    if len(measured) > 1:
        lines = [
            Line(name, [(index, float(scores[name])) for index, (_, scores) in enumerate(measured) if name in scores])
            for name in names[:MOST]
        ]
        yield Chart("perplexity", "Perplexity after each phase", "phase", lines, [phase for phase, _ in measured])
