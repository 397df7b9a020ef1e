"""The table of the heat map: every matrix with every number, for screen readers and for copying."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from markupsafe import Markup

from app.portal.drawings.heat import MatrixRow
from app.portal.drawings.scales import percent
from app.portal.drawings.svg import joined, tag

_NUMBERS = ("requested", "achieved", "error, mask alone", "error, after", "seconds")


class DetailedRow(MatrixRow, Protocol):
    """One pruned matrix with all that is known of it."""

    shape: list[Any]
    pattern: str
    sparsity_requested: float
    seconds: float


def matrix_table(rows: Iterable[DetailedRow], *, caption: str) -> Markup:
    """Return a table with a row per matrix."""
    heads = joined(
        *(tag("th", name, scope="col") for name in ("matrix", "shape", "pattern")),
        *(tag("th", name, scope="col", class_="num") for name in _NUMBERS),
    )
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", heads)),
        tag("tbody", *(_row(row) for row in rows)),
        class_="matrices",
    )


def _row(row: DetailedRow) -> Markup:
    numbers = (
        percent(row.sparsity_requested),
        percent(row.sparsity_achieved),
        *("\N{EN DASH}" if error is None else _error(error) for error in (row.error_before, row.error_after)),
        f"{row.seconds:,.2f}",
    )
    return tag(
        "tr",
        tag("th", row.name, scope="row"),
        tag("td", " \N{MULTIPLICATION SIGN} ".join(str(side) for side in row.shape), class_="tight"),
        tag("td", row.pattern),
        *(tag("td", text, class_="num") for text in numbers),
    )


def _error(value: float) -> str:
    """With as many decimals as its neighbours have, so that they stand below each other."""
    return f"{value:.4f}" if value == 0 or value >= 1e-4 else f"{value:.1e}"
