"""Scales from numbers to positions and colours: linear and logarithmic axes, round ticks, the colour map cividis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CIVIDIS = (
    "#002051",
    "#11366c",
    "#3c4d6e",
    "#62646f",
    "#7f7c75",
    "#9a9478",
    "#bbaf71",
    "#e2cb5c",
    "#fdea45",
)
"""Nine even steps of cividis: dark to light alike for all kinds of colour vision."""
_FIRST_LIGHT = 4
"""From this step on black is the readable ink; contrast is 5:1 or better on every step."""


@dataclass(frozen=True)
class Shades:
    """Colours over a range of values."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Shades:
        """Span all values, of which there is at least one."""
        return cls(min(values), max(values))

    def step(self, value: float) -> int:
        """Return the index of the step that a value takes."""
        if self.high <= self.low:
            return 0
        fraction = (value - self.low) / (self.high - self.low)
        return min(max(int(fraction * len(CIVIDIS)), 0), len(CIVIDIS) - 1)

    def colour(self, value: float) -> str:
        """Return the colour behind a value."""
        return CIVIDIS[self.step(value)]

    def ink(self, value: float) -> str:
        """Return the class of the text on that colour: light or dark, which style sheets take for white and black."""
        return "light" if self.step(value) < _FIRST_LIGHT else "dark"


@dataclass(frozen=True)
class Axis:
    """Values over a stretch of the drawing; `start` may lie behind `end`, as it does on upright axes."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, spread: float = math.inf) -> Axis:
        """Return an axis with a margin around all values; logarithmic when they spread wider than `spread`."""
        low, high = min(values), max(values)
        if low > 0 and high / low > spread:
            return cls(low / 1.15, high * 1.15, start, end, logarithmic=True)
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(max(low - room, 0.0) if low >= 0 else low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high = self._bend(self.low), self._bend(self.high)
        return self.start + (self._bend(value) - low) / (high - low) * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round values on the axis."""
        if self.logarithmic:
            tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            # One decade alone would have two ticks.
            factors = (1, 2, 5) if self.high / self.low < 1e3 else (1,)
            values = [factor * 10.0**ten for ten in tens for factor in factors]
        else:
            step = _round_step((self.high - self.low) / max(count, 1))
            first = math.ceil(self.low / step - 1e-9)
            values = [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [value for value in values if self.low <= value <= self.high]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def plain(value: float) -> str:
    """Write a number with at most three significant digits, without an exponent where possible."""
    text = three_digits(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def three_digits(value: float) -> str:
    """Write a number with three significant digits, so that measurements align."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2g}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(digits, 6)}f}"


def percent(value: float) -> str:
    """Write a fraction in percent."""
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def size(value: float) -> str:
    """Write bytes."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(int(math.log(value, 1000) + 1e-9) if value >= 1 else 0, len(units) - 1)
    return f"{plain(value / 1000**power)} {units[power]}"


def seconds(value: float) -> str:
    """Write a duration."""
    if value < 90:
        return f"{plain(value)} s"
    return f"{plain(value / 60)} min" if value < 5400 else f"{plain(value / 3600)} h"


Writing = Callable[[float], str]
