"""Stacked bar chart over days: two values, distinguished by colour and by order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.portal.drawings.scales import Axis, Writing
from app.portal.drawings.svg import drawing, joined, tag, words

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 940.0, 220.0, 88.0, 192.0, 28.0


@dataclass(frozen=True)
class Bar:
    """Two values of one day."""

    label: str
    first: float
    second: float


def bars(name: str, days: Sequence[Bar], *, names: tuple[str, str], write: Writing, title: str) -> Markup | None:
    """Draw the days; None when nothing was used."""
    highest = max((day.first + day.second for day in days), default=0.0)
    if highest <= 0:
        return None
    y = Axis(0, highest, _BOTTOM, _TOP)
    pitch = (_WIDTH - _LEFT) / len(days)
    return drawing(
        name,
        *(
            joined(
                tag("line", x1=_LEFT, x2=_WIDTH, y1=y(tick), y2=y(tick), class_="grid"),
                words(write(tick) if tick else "0", x=_LEFT - 8, y=y(tick) + 4, anchor="end"),
            )
            for tick in y.ticks(3)
        ),
        *(_day(day, _LEFT + index * pitch, pitch, y, names, write) for index, day in enumerate(days)),
        *(
            words(day.label, x=_LEFT + (index + 0.5) * pitch, y=_BOTTOM + 18, anchor="middle")
            for index, day in enumerate(days)
            if index == 0 or (index + 1) % 5 == 0
        ),
        _legend(names),
        width=_WIDTH,
        height=_HEIGHT,
        title=title,
        description=f"The most on one day: {write(highest)}; a table holds the same values.",
        broad=True,
    )


def _day(day: Bar, x: float, pitch: float, y: Axis, names: tuple[str, str], write: Writing) -> Markup:
    text = f"{day.label}: {names[0]} {write(day.first)}, {names[1]} {write(day.second)}"
    parts, at = [], 0.0
    for value, class_ in ((day.first, "bar-0"), (day.second, "bar-1")):
        if value > 0:
            top = y(at + value)
            parts.append(tag("rect", x=x + 2, y=top, width=pitch - 4, height=y(at) - top, class_=class_))
            at += value
    return tag("g", tag("title", text), *parts)


def _legend(names: tuple[str, str]) -> Markup:
    return joined(
        *(
            joined(
                tag("rect", x=_LEFT + index * 80, y=4, width=12, height=12, class_=f"bar-{index}"),
                words(name, x=_LEFT + index * 80 + 18, y=14),
            )
            for index, name in enumerate(names)
        )
    )
