"""Curves of several jobs in one plot, distinguished by colour, dashes and name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.portal.drawings.plot import Plot
from app.portal.drawings.scales import Axis, plain
from app.portal.drawings.svg import drawing, joined, number, shortened, tag, words

DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
"""One per curve, so that no curve is known by its colour alone."""
LOG_SPREAD = 50.0
_ROW = 20.0


@dataclass(frozen=True)
class Curve:
    """One series of one job."""

    label: str
    points: Sequence[tuple[float, float]]


def curves(name: str, series: Sequence[Curve], *, title: str, x_title: str, y_title: str) -> Markup | None:
    """Draw up to six curves with one pair of axes and a legend; None when no curve has a point."""
    shown = [(index, curve) for index, curve in enumerate(series[: len(DASHES)]) if curve.points]
    if not shown:
        return None
    plot = Plot(height=380 + _ROW * len(shown))
    points = [point for _, curve in shown for point in curve.points]
    x = Axis.over([at for at, _ in points], plot.left, plot.right)
    y = Axis.over([value for _, value in points], plot.bottom, plot.top, spread=LOG_SPREAD)
    return drawing(
        name,
        plot.frame(x, y, x_title=x_title, x_write=plain, y_title=y_title, y_write=plain),
        *(_curve(index, curve, x, y) for index, curve in shown),
        *(_name(row, index, curve, plot) for row, (index, curve) in enumerate(shown)),
        width=plot.width,
        height=plot.height,
        title=title,
        description="; ".join(f"{curve.label} ends at {plain(curve.points[-1][1])}" for _, curve in shown),
        broad=True,
    )


def _curve(index: int, curve: Curve, x: Axis, y: Axis) -> Markup:
    title = tag("title", curve.label)
    if len(curve.points) == 1:
        at, value = curve.points[0]
        return tag("g", title, tag("circle", cx=x(at), cy=y(value), r=3.5), class_=f"series series-{index} dot")
    line = " ".join(f"{number(x(at))},{number(y(value))}" for at, value in curve.points)
    return tag(
        "g",
        title,
        tag("polyline", points=line, fill="none", stroke_dasharray=DASHES[index]),
        class_=f"series series-{index}",
    )


def _name(row: int, index: int, curve: Curve, plot: Plot) -> Markup:
    y = plot.bottom + 62 + row * _ROW
    line = tag("line", x1=plot.left, x2=plot.left + 36, y1=y - 4, y2=y - 4, stroke_dasharray=DASHES[index])
    last = plain(curve.points[-1][1])
    return joined(
        tag("g", line, class_=f"series series-{index}"),
        words(shortened(curve.label, 80), x=plot.left + 46, y=y),
        words(last, x=plot.right, y=y, anchor="end"),
    )
