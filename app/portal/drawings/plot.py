"""The frame of a plot: two axes with round ticks, their names and a quiet grid."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from app.portal.drawings.scales import Axis, Writing
from app.portal.drawings.svg import joined, tag, words


@dataclass(frozen=True)
class Plot:
    """The frame of a plot within its drawing."""

    width: float = 940
    height: float = 380
    left: float = 64
    top: float = 28
    right: float = 924
    bottom: float = 330

    def frame(self, x: Axis, y: Axis, *, x_title: str, x_write: Writing, y_title: str, y_write: Writing) -> Markup:
        """Draw both axes; upright names would have to be read with a bent head, so the y axis is named on top."""
        rows = (
            joined(
                tag("line", x1=self.left, x2=self.right, y1=y(tick), y2=y(tick), class_="grid"),
                words(y_write(tick), x=self.left - 8, y=y(tick) + 4, anchor="end"),
            )
            for tick in y.ticks()
        )
        columns = (
            joined(
                tag("line", x1=x(tick), x2=x(tick), y1=self.bottom, y2=self.bottom + 5, class_="axis"),
                words(x_write(tick), x=x(tick), y=self.bottom + 19, anchor="middle"),
            )
            for tick in x.ticks(6)
        )
        return joined(
            *rows,
            *columns,
            tag("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis"),
            words(x_title, x=(self.left + self.right) / 2, y=self.bottom + 42, anchor="middle", class_="axis-title"),
            words(y_title, x=0, y=14, class_="axis-title") if y_title else "",
        )
