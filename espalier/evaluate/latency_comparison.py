"""Decide whether a result is faster than the dense model beyond noise, for report, card, portal and command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

KINDS: Final = ("prefill", "decode")
MIN_REPEATS: Final = 4
"""Fewer repeats tell nothing of the noise: of two times four equal ones, one pair in 35 lies apart by chance."""
Verdict = Literal["better", "none", "worse"]


@dataclass(frozen=True)
class Timing:
    """Seconds per token over repeats."""

    median: float
    minimum: float
    maximum: float

    @property
    def text(self) -> str:
        """Milliseconds, with their spread."""
        return f"{1e3 * self.median:.3f} ({1e3 * self.minimum:.3f} to {1e3 * self.maximum:.3f})"


@dataclass(frozen=True)
class LatencyComparison:
    """One kind of work, timed on the dense model and on the result by turns."""

    name: str
    dense: Timing
    result: Timing
    repeats: int

    @property
    def verdict(self) -> Verdict:
        """`none` where the spreads overlap, or where the repeats are too few to know one."""
        if self.repeats < MIN_REPEATS or (
            self.result.minimum <= self.dense.maximum and self.dense.minimum <= self.result.maximum
        ):
            return "none"
        return "better" if self.result.median < self.dense.median else "worse"

    @property
    def text(self) -> str:
        """The verdict in words, with a factor only where there is a difference."""
        if self.verdict != "none":
            return f"{self.dense.median / self.result.median:.2f} x as fast"
        too_few = self.repeats < MIN_REPEATS
        return f"no difference told by {self.repeats} repeats" if too_few else "no difference beyond noise"


def compare_latency(report: Mapping[str, Any]) -> list[LatencyComparison]:
    """Return what was timed on both models of a report."""
    dense, result = (report[side].get("latency") for side in ("dense", "compressed"))
    if not dense or not result:
        return []
    repeats = min(int(side.get("repeats", 0)) for side in (dense, result))
    return [LatencyComparison(name, _timing(dense, name), _timing(result, name), repeats) for name in KINDS]


def regressions(compared: Sequence[LatencyComparison]) -> list[dict[str, Any]]:
    """Return the same as a report holds it: seconds per token, the spread of their difference, and the verdict."""
    return [
        {
            "name": f"{row.name}_seconds_per_token",
            "dense": row.dense.median,
            "result": row.result.median,
            "difference": row.result.median - row.dense.median,
            "interval": [row.result.minimum - row.dense.maximum, row.result.maximum - row.dense.minimum],
            "verdict": row.verdict,
        }
        for row in compared
    ]


def timing(latency: Mapping[str, Any] | None, name: str) -> Timing | None:
    """Return one timing of a model; None where it was not timed."""
    return _timing(latency, name) if latency else None


def _timing(latency: Mapping[str, Any], name: str) -> Timing:
    seconds = latency[f"{name}_seconds_per_token"]
    return Timing(float(seconds["median"]), float(seconds["least"]), float(seconds["most"]))
