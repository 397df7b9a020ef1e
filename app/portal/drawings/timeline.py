"""The phases of a job as bars over time, one row for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup

from app.portal.drawings.scales import Axis
from app.portal.drawings.svg import drawing, shortened, tag, words
from app.portal.rendering import duration
from app.services.jobs.job_timeline import PhaseInterval
from espalier.recipe.phases import PHASE_NAMES

WIDTH, LEFT, RIGHT = 960.0, 84.0, 950.0
ROW, BAR = 46.0, 24.0
_LETTER = 7.2
"""Width of a letter of a name inside a bar."""


def timeline(intervals: Sequence[PhaseInterval], *, now: datetime) -> Markup | None:
    """Draw what every attempt was busy with; None before the first phase."""
    if not intervals:
        return None
    first = min(interval.start for interval in intervals)
    last = max((interval.end or now for interval in intervals), default=now)
    total = max((last - first).total_seconds(), 1e-3)
    x = Axis(0.0, total, LEFT, RIGHT)
    attempts = sorted({interval.attempt for interval in intervals})
    bottom = len(attempts) * ROW
    return drawing(
        "phases",
        *(words(f"attempt {number}", x=0, y=row * ROW + 17) for row, number in enumerate(attempts)),
        *(_bar(interval, attempts.index(interval.attempt), x, first, now) for interval in intervals),
        *(
            words(duration(fraction * total), x=x(fraction * total), y=bottom + 8, anchor=anchor)
            for fraction, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
        ),
        width=WIDTH,
        height=bottom + 16,
        title="Phases over time",
        description=f"{len(intervals)} phases in {len(attempts)} attempts; a table holds the same values.",
        broad=True,
    )


def _bar(interval: PhaseInterval, row: int, x: Axis, first: datetime, now: datetime) -> Markup:
    begin = (interval.start - first).total_seconds()
    end = ((interval.end or now) - first).total_seconds()
    left, width = x(begin), max(x(end) - x(begin), 2.0)
    how = "done" if interval.done else "open" if interval.end is None else "cut"
    suffix = {"done": "", "open": ", not yet over", "cut": ", not finished"}[how]
    room = int((width - 10) / _LETTER)
    text = shortened(interval.phase, room) if room >= 4 else ""
    return tag(
        "g",
        tag("title", f"{interval.phase}: {duration(end - begin)}{suffix}"),
        tag(
            "rect",
            x=left,
            y=row * ROW,
            width=max(width - 1, 1.0),
            height=BAR,
            rx=3,
            class_=f"phase phase-{PHASE_NAMES.index(interval.phase) % 4 if interval.phase in PHASE_NAMES else 0} {how}",
        ),
        *([words(text, x=left + 6, y=row * ROW + 16.5, class_="in-bar")] if text else []),
    )
