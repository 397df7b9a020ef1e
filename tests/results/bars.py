"""A bar chart as SVG, drawn without a library: few marks, readable on white and in a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, LEFT, WIDTH, TOP = 24, 210, 720, 44
"""Pixels: height of a bar's row, room for names, width of the drawing, room for the title."""


@dataclass(frozen=True)
class Bar:
    """One value and its name."""

    name: str
    value: float


def draw(title: str, bars: Sequence[Bar], *, line: float) -> str:
    """Draw horizontal bars from zero, their values beside them, and a dashed line for the dense model's value."""
    room = WIDTH - LEFT - 60
    scale = room / max([line, *(bar.value for bar in bars)])
    height = TOP + ROW * len(bars) + 12
    marks = [f'<text x="8" y="22" font-size="14" font-weight="bold">{escape(title)}</text>']
    for row, bar in enumerate(bars):
        y = TOP + ROW * row
        colour = "#b5bcc4" if row == 0 else "#3b7d4f"
        marks += [
            f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{LEFT}" y="{y + 3}" width="{bar.value * scale:.1f}" height="{ROW - 8}" fill="{colour}"/>',
            f'<text x="{LEFT + bar.value * scale + 6:.1f}" y="{y + 15}">{bar.value:.2f}</text>',
        ]
    x = LEFT + line * scale
    marks += [
        f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 8}" stroke="#222" stroke-dasharray="4 3"/>',
        f'<text x="{x:.1f}" y="{TOP - 8}" text-anchor="middle" font-size="11">dense {line:.2f}</text>',
    ]
    style = f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12"'
    frame = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {style}>{frame}{"".join(marks)}</svg>\n'
