"""The heat map of a job: one cell per block and kind of matrix, coloured by sparsity or error, its number beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from markupsafe import Markup

from app.portal.drawings.scales import CIVIDIS, Shades
from app.portal.drawings.svg import drawing, joined, shortened, tag, words

CELL_WIDTH, CELL_HEIGHT = 46.0, 20.0
GUTTER, HEAD, FOOT = 34.0, 40.0, 40.0


class MatrixRow(Protocol):
    """A pruned matrix, as both rows of the API and of the database describe it."""

    name: str
    block: int
    sparsity_achieved: float
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True)
class Measure:
    """The measure of a matrix that a heat map shows."""

    title: str
    value: Callable[[MatrixRow], float | None]
    write: Callable[[float], str]


def _cell_percent(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0")


def _two_digits(value: float) -> str:
    return f"{value:#.2g}".removesuffix(".")


MEASURES: Final[dict[str, Measure]] = {
    "sparsity": Measure("Sparsity, %", lambda row: row.sparsity_achieved, _cell_percent),
    "error_before": Measure("Error, mask alone", lambda row: row.error_before, _two_digits),
    "error_after": Measure("Error, after the update", lambda row: row.error_after, _two_digits),
}


@dataclass(frozen=True)
class Cell:
    """All matrices of one kind in one block; experts share a cell."""

    block: int
    kind: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the cell's matrices."""
        return sum(self.values) / len(self.values)


def kind_of(name: str, block: int) -> str:
    """Return what a matrix is in its block: its name behind the block's number, without the numbers of experts."""
    parts = name.split(".")
    inner = parts[parts.index(str(block)) + 1 :] if str(block) in parts[:-1] else parts
    return ".".join("*" if part.isdecimal() else part for part in inner)


def short_kinds(kinds: Sequence[str]) -> dict[str, str]:
    """Return the shortest ends of the names that tell them apart, without what all linear maps are called."""
    short: dict[str, str] = {}
    for kind in kinds:
        parts = kind.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        own = next((end for end in ends if sum(_ends_with(other, end) for other in kinds) == 1), kind)
        short[kind] = own.removesuffix("_proj") or own
    return short


def _ends_with(kind: str, end: str) -> bool:
    return kind == end or kind.endswith(f".{end}")


def cells(rows: Iterable[MatrixRow], measure: Measure) -> list[Cell]:
    """Return the cells that have a value, in the order of the rows."""
    values_of: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        if (value := measure.value(row)) is not None:
            values_of.setdefault((row.block, kind_of(row.name, row.block)), []).append(value)
    return [Cell(block, kind, tuple(values)) for (block, kind), values in values_of.items()]


def errors_range(rows: Iterable[MatrixRow]) -> Shades | None:
    """Return one range for both maps of errors, so that equal colours are equal errors."""
    kept = list(rows)
    means = [cell.mean for key in ("error_before", "error_after") for cell in cells(kept, MEASURES[key])]
    return Shades.over(means) if means else None


def heat_map(name: str, rows: Sequence[MatrixRow], measure: str, shades: Shades | None = None) -> Markup | None:
    """Draw one measure over blocks and kinds of matrices; None when no matrix has it."""
    what = MEASURES[measure]
    filled = cells(rows, what)
    if not filled:
        return None
    shades = shades or Shades.over([cell.mean for cell in filled])
    kinds = list(dict.fromkeys(kind_of(row.name, row.block) for row in rows))
    blocks = sorted({row.block for row in rows})
    width = GUTTER + max(len(kinds) * CELL_WIDTH, len(CIVIDIS) * 18 + 60)
    bottom = HEAD + len(blocks) * CELL_HEIGHT
    ends = f"from {what.write(shades.low)} to {what.write(shades.high)}"
    return drawing(
        name,
        _heads(kinds, short_kinds(kinds)),
        *(
            words(str(block), x=GUTTER - 6, y=HEAD + (index + 0.7) * CELL_HEIGHT, anchor="end")
            for index, block in enumerate(blocks)
        ),
        *(_cell(cell, blocks.index(cell.block), kinds.index(cell.kind), shades, what) for cell in filled),
        _legend(shades, what, bottom + 14),
        width=width,
        height=bottom + FOOT,
        title=what.title,
        description=f"{len(blocks)} blocks by {len(kinds)} kinds of matrices, {ends}; a table holds the same values.",
    )


def _heads(kinds: Sequence[str], short: dict[str, str]) -> Markup:
    """Names of columns, on two levels by turns where one is wider than a cell."""
    wide = any(len(name) > 7 for name in short.values())
    return joined(
        words("block", x=GUTTER - 6, y=HEAD - 6, anchor="end", class_="faint"),
        *(
            tag(
                "text",
                tag("title", kind),
                shortened(short[kind], 14),
                x=GUTTER + (index + 0.5) * CELL_WIDTH,
                y=HEAD - (22 if wide and index % 2 else 6),
                text_anchor="middle",
                class_="label",
            )
            for index, kind in enumerate(kinds)
        ),
    )


def _cell(cell: Cell, row: int, column: int, shades: Shades, what: Measure) -> Markup:
    x, y = GUTTER + column * CELL_WIDTH, HEAD + row * CELL_HEIGHT
    text = what.write(cell.mean)
    title = f"block {cell.block}, {cell.kind}: {text}"
    if len(cell.values) > 1:
        low, high = what.write(min(cell.values)), what.write(max(cell.values))
        title += f" (mean of {len(cell.values)}, {low} to {high})"
    return tag(
        "g",
        tag("title", title),
        tag("rect", x=x, y=y, width=CELL_WIDTH - 1, height=CELL_HEIGHT - 1, fill=shades.colour(cell.mean)),
        tag(
            "text",
            text,
            x=x + (CELL_WIDTH - 1) / 2,
            y=y + CELL_HEIGHT * 0.68,
            text_anchor="middle",
            class_=f"cell {shades.ink(cell.mean)}",
        ),
    )


def _legend(shades: Shades, what: Measure, y: float) -> Markup:
    low, high = what.write(shades.low), what.write(shades.high)
    if low == high:
        return words(f"all {low}", x=GUTTER, y=y + 10)
    steps = (
        tag("rect", x=GUTTER + index * 18, y=y, width=18, height=8, fill=colour) for index, colour in enumerate(CIVIDIS)
    )
    end = GUTTER + len(CIVIDIS) * 18
    return joined(*steps, words(low, x=GUTTER, y=y + 22), words(high, x=end, y=y + 22, anchor="end"))
