"""The before and after of a report, arranged for a table: one row per state of the model, one column per measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from espalier.evaluate.latency_comparison import compare_latency, timing
from espalier.recipe.phases import STAGES

TIMED = {"prefill": "prompt, per token", "decode": "decoding, per token"}
"""Timed quantity -> its label."""


@dataclass(frozen=True)
class Score:
    """One number, and how far it is from the dense model's."""

    value: float
    change: float | None


@dataclass(frozen=True)
class Stage:
    """A state of the model and its measurements."""

    name: str
    scores: dict[str, Score]


@dataclass(frozen=True)
class Comparison:
    """Two numbers of the same kind: of the dense model and of the result."""

    name: str
    before: float | None
    after: float | None
    unit: str
    """bytes, count, milliseconds or score."""
    texts: tuple[str, str] = ("", "")
    """Both numbers with their spread, for timings."""
    verdict: str = ""
    """The verdict on the change where it depends on more than two numbers."""


def stages(report: dict[str, Any]) -> list[Stage]:
    """Return the perplexities of every state of the model."""
    dense = report["dense"].get("perplexity") or {}
    return [Stage(name, _scores(scores, dense if name != "dense" else {})) for name, scores in _measured(report)]


def _measured(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    yield "dense", report["dense"].get("perplexity") or {}
    for phase in report.get("phases", []):
        if phase["name"] in STAGES and phase.get("perplexity"):
            repetition = f", turn {phase['turn']}" if phase.get("turn") else ""
            yield STAGES[phase["name"]] + repetition, phase["perplexity"]
    yield "the artifact, loaded again", report["compressed"].get("perplexity") or {}


def _scores(perplexities: dict[str, float], dense: dict[str, float]) -> dict[str, Score]:
    return {
        name: Score(value, value / dense[name] - 1 if dense.get(name) else None) for name, value in perplexities.items()
    }


def comparisons(report: dict[str, Any]) -> list[Comparison]:
    """Return sizes, work and speed, before and after."""
    dense, compressed = report["dense"], report["compressed"]
    rows = [
        Comparison("parameters", dense.get("parameters"), compressed.get("parameters"), "count"),
        Comparison("parameters not zero", dense.get("parameters"), compressed.get("nonzero_parameters"), "count"),
        Comparison("bytes on disk", dense.get("bytes"), compressed.get("bytes"), "bytes"),
        Comparison("bytes without the zeros", None, compressed.get("packed_bytes"), "bytes"),
        Comparison("multiply-adds per token", dense.get("macs_per_token"), compressed.get("macs_per_token"), "count"),
    ]
    rows += _timings(report)
    tasks = dense.get("tasks") or {}
    for task, scores in (compressed.get("tasks") or {}).items():
        rows += [
            Comparison(f"{task} {name}", tasks.get(task, {}).get(name), value, "score")
            for name, value in scores.items()
            if not name.endswith("_stderr")
        ]
    for name, scores in (compressed.get("divergence") or {}).items():
        rows += [Comparison(f"{name} {key}", None, value, "score") for key, value in scores.items()]
    return [row for row in rows if row.before is not None or row.after is not None]


def _timings(report: dict[str, Any]) -> Iterator[Comparison]:
    verdicts = {row.name: row.text for row in compare_latency(report)}
    for name, label in TIMED.items():
        pair = [timing(report[side].get("latency"), name) for side in ("dense", "compressed")]
        if any(pair):
            before, after = (None if time is None else 1e3 * time.median for time in pair)
            texts = ["" if time is None else f"{time.text} ms" for time in pair]
            yield Comparison(label, before, after, "milliseconds", (texts[0], texts[1]), verdicts.get(name, ""))
