"""Scatter plot of results, cost against perplexity, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.portal.drawings.plot import Plot
from app.portal.drawings.scales import Axis, Writing, plain, three_digits
from app.portal.drawings.svg import drawing, joined, number, tag, words

LOG_SPREAD = 20.0
"""Perplexities that differ by more are drawn on a logarithmic axis."""
_RADIUS = 5.0


@dataclass(frozen=True)
class Mark:
    """One result."""

    label: str
    x: float
    y: float
    front: bool
    href: str | None = None
    """The page of its job; None for the dense model."""


def scatter(
    name: str, points: Sequence[Mark], *, x_title: str, x_write: Writing, y_title: str, title: str
) -> Markup | None:
    """Draw the results, and the Pareto front as a line; None when there are none."""
    if not points:
        return None
    plot = Plot()
    x = Axis.over([mark.x for mark in points], plot.left, plot.right)
    y = Axis.over([mark.y for mark in points], plot.bottom - 16, plot.top, spread=LOG_SPREAD)
    front = sorted((mark for mark in points if mark.front), key=lambda mark: (mark.x, mark.y))
    best = f"{len(front)} of {len(points)} are on the front" if len(points) > 1 else "one result"
    scale = ", logarithmic" if y.logarithmic else ""
    return drawing(
        name,
        plot.frame(x, y, x_title=x_title, x_write=x_write, y_title=y_title + scale, y_write=plain),
        _line(front, x, y),
        *(_mark(mark, x, y, x_write, y_title) for mark in sorted(points, key=lambda mark: mark.front)),
        _labels([*(mark for mark in points if mark.href is None), *front], x, y, plot),
        width=plot.width,
        height=plot.height,
        title=title,
        description=f"{x_title} against {y_title}; {best}; a table holds the same values.",
        links=True,
        broad=True,
    )


def _line(front: Sequence[Mark], x: Axis, y: Axis) -> Markup:
    if len(front) < 2:
        return Markup()
    points = " ".join(f"{number(x(mark.x))},{number(y(mark.y))}" for mark in front)
    return tag("polyline", points=points, class_="front-line", fill="none")


def _mark(mark: Mark, x: Axis, y: Axis, x_write: Writing, y_title: str) -> Markup:
    at_x, at_y = x(mark.x), y(mark.y)
    text = f"{mark.label}: {x_write(mark.x)}, {y_title} {three_digits(mark.y)}"
    if mark.href is not None:
        text += ", on the front" if mark.front else ", beaten"
    else:
        r = _RADIUS + 2
        points = " ".join(f"{number(at_x + dx)},{number(at_y + dy)}" for dx, dy in ((0, -r), (r, 0), (0, r), (-r, 0)))
        return tag("g", tag("title", text), tag("polygon", points=points, class_="mark dense"))
    circle = tag("circle", cx=at_x, cy=at_y, r=_RADIUS, class_="mark front" if mark.front else "mark")
    # The circle around a small mark makes it easy to hit.
    target = tag("circle", cx=at_x, cy=at_y, r=12, class_="hit", fill="transparent")
    return tag("a", tag("title", text), target, circle, href=mark.href, aria_label=text)


def _labels(points: Sequence[Mark], x: Axis, y: Axis, plot: Plot) -> Markup:
    """Write values beside marks, the first first, where there is room."""
    taken: list[tuple[float, float]] = []
    labels: list[Markup] = []
    for mark in points:
        text = three_digits(mark.y) if mark.href else f"dense {three_digits(mark.y)}"
        at_x, at_y = x(mark.x), y(mark.y) + 20  # below: the results that it dominates are above
        half = 3.5 * len(text)
        at_x = min(max(at_x, plot.left + half), plot.right - half)
        if all(abs(at_x - other_x) > 2 * half + 4 or abs(at_y - other_y) > 13 for other_x, other_y in taken):
            taken.append((at_x, at_y))
            labels.append(words(text, x=at_x, y=at_y, anchor="middle"))
    return joined(*labels)
