"""Comparison of jobs: a table of their results, and the differences of their specs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from app.portal.rendering import duration, number, percent, size
from app.portal.report_table import TIMED
from app.services.jobs.reads import JobReading
from espalier.evaluate.latency_comparison import timing

Write = Callable[[float | None], str]


@dataclass(frozen=True)
class ComparedMeasure:
    """One measure of all jobs."""

    title: str
    texts: list[str]
    best: frozenset[int]
    """Places of the lowest values, where lower is better and not all are alike; of jobs that have succeeded only."""
    note: str = ""
    """The reason why the values do not compare."""


def _count(value: float | None) -> str:
    return number(None if value is None else int(value))


_PARTS: Final[list[tuple[str, tuple[str, str], Write, bool]]] = [
    ("Bytes of the files", ("compressed", "bytes"), size, True),
    ("Bytes, packed", ("compressed", "packed_bytes"), size, True),
    ("Parameters", ("compressed", "parameters"), _count, False),
    ("Parameters that are not zero", ("compressed", "nonzero_parameters"), _count, False),
    ("Parameters that were trained", ("trained_parameters", "count"), _count, False),
    ("Multiply-adds per token", ("compressed", "macs_per_token"), _count, True),
]
"""Title, place in the report, how it is written, and whether the lowest wins."""


def lines(readings: Sequence[JobReading]) -> list[ComparedMeasure]:
    """Return the results of the jobs, one measure per line; a job without a report has dashes."""
    reports = [reading.job.report or {} for reading in readings]
    names = sorted({name for report in reports for name in _part(report, "compressed", "perplexity") or {}})
    rows = [
        _line(
            "Sparsity", [_part(report, "sparsity", "achieved") for report in reports], lambda value: percent(value, 2)
        )
    ]
    unlike = incomparable(reports)
    for name in names:
        note = "measured by different protocols" if name in unlike else ""
        after = [_part(report, "compressed", "perplexity", name) for report in reports]
        before = [_part(report, "dense", "perplexity", name) for report in reports]
        change = [_change(new, old) for new, old in zip(after, before, strict=True)]
        rows.append(replace(_line(f"Perplexity, {name}", after, number, lower_wins=not note), note=note))
        rows.append(replace(_line("against dense", change, _signed, lower_wins=not note), note=note))
        rows.append(_line("dense", before, number))
    for title, steps, write, lower_wins in _PARTS:
        values = [_part(report, *steps) for report in reports]
        rows.append(_line(title, values, write, lower_wins=lower_wins))
    rows.append(_line("Most memory", [_peak(report) for report in reports], size, lower_wins=True))
    for name, label in TIMED.items():
        # No award: the jobs ran at different times, perhaps on different machines.
        timings = [timing(_part(report, "compressed", "latency"), name) for report in reports]
        texts = [number(None) if item is None else f"{item.text} ms" for item in timings]
        rows.append(ComparedMeasure(f"{label[:1].upper()}{label[1:]}", texts, frozenset()))
    times = [reading.durations["running"] for reading in readings]
    ended = [reading.job.state == "succeeded" for reading in readings]
    rows.append(_line("Time of work", times, duration, lower_wins=True, among=ended))
    return [line for line in rows if set(line.texts) != {number(None)}]


def incomparable(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of measurements that two jobs have, or more, and that not all of them made by one protocol.

    Where a text's hash is known it is the text, wherever it lay.
    """
    protocols: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        for name in _part(report, "compressed", "perplexity") or {}:
            protocol = dict(_part(report, "protocol", "perplexity", name) or {})
            if protocol.get("text_sha256"):
                protocol.pop("dataset", None)
            protocols.setdefault(name, []).append(protocol)
    return sorted(name for name, made in protocols.items() if any(each != made[0] for each in made))


def _part(report: dict[str, Any], *steps: str) -> Any:  # noqa: ANN401 - JSON
    part: Any = report
    for step in steps:
        part = part.get(step) if isinstance(part, dict) else None
    return part


def _change(after: float | None, before: float | None) -> float | None:
    return None if after is None or not before else after / before - 1


def _peak(report: dict[str, Any]) -> float | None:
    peaks = [phase.get("peak_memory_bytes") for phase in report.get("phases") or []]
    return max((peak for peak in peaks if peak), default=None)


def _signed(value: float | None) -> str:
    return number(None) if value is None else f"{100 * value:+.1f} %"


def _line(
    title: str,
    values: Sequence[float | None],
    write: Write,
    *,
    lower_wins: bool = False,
    among: Sequence[bool] | None = None,
) -> ComparedMeasure:
    """`among`: the jobs that may win; default: all that have a value."""
    candidates = [value if among is None or among[index] else None for index, value in enumerate(values)]
    rivals = {value for value in candidates if value is not None}
    best = min(rivals) if lower_wins and len(rivals) > 1 else None
    winners = frozenset(index for index, value in enumerate(candidates) if best is not None and value == best)
    return ComparedMeasure(title, [write(value) for value in values], winners)


def differences(documents: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Return the JSON Pointers at which documents differ, with the value of each; None where it has none."""
    flat = [dict(_leaves(document, "")) for document in documents]
    pointers = sorted({pointer for leaves in flat for pointer in leaves})
    compared = [(pointer, [leaves.get(pointer) for leaves in flat]) for pointer in pointers]
    return [(pointer, values) for pointer, values in compared if any(value != values[0] for value in values)]


def _leaves(value: object, pointer: str) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{pointer}/{key}")]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [leaf for index, inner in enumerate(value) for leaf in _leaves(inner, f"{pointer}/{index}")]
    return [(pointer, value)]
