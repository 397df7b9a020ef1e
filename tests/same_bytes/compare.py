"""What two results of one job have in common, and where they differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

Result = dict[str, Any]
"""`files` (name -> sha256), `report`, `engine`; or `error`."""

OF_A_RUN: Final = re.compile(r"(^|_)(seconds|memory|latency|host|hostname|pid|id|ids|at)(_|$)|per_second")
"""Fields of a report that tell of the run, not of the result: times, speeds, hosts, ids, readings of memory."""
_ID: Final = re.compile(r"\b([a-z]{3})_[0-9A-HJKMNP-TV-Z]{26}\b")
WRITTEN_ABOUT_IT: Final = {"report", "card", "manifest", "log"}
"""Kinds of artifacts that tell of the run too."""


def digests(artifacts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return file name -> sha256 of what is compared byte by byte: weights, masks, configuration, tokenizer."""
    return {name: row["sha256"] for name, row in artifacts.items() if row["kind"] not in WRITTEN_ABOUT_IT}


def normalised(value: Any) -> Any:
    """Return a report without what no two runs share."""
    if isinstance(value, dict):
        return {key: _in_order(key, normalised(item)) for key, item in value.items() if not OF_A_RUN.search(key)}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    return _ID.sub(r"\1_*", value) if isinstance(value, str) else value


def _in_order(key: str, value: Any) -> Any:
    """Sort the rows of phases by name: an artifact may be measured before or after the rest of it is written."""
    if key != "phases" or not isinstance(value, list):
        return value
    return sorted(value, key=lambda row: (row.get("turn", ""), row["name"]))


def differences(before: Result, after: Result) -> list[str]:
    """Return where two results differ, a line each; results that are none differ in that."""
    broken = [f"{which}: {result['error']}" for which, result in (("old", before), ("new", after)) if "error" in result]
    if broken:
        return broken
    return [
        *different_files(before["files"], after["files"]),
        *(f"report{line}" for line in _unlike(normalised(before["report"]), normalised(after["report"]), "")),
        *([] if before["engine"] == after["engine"] else [f"engine {before['engine']} and {after['engine']}"]),
    ]


def different_files(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return what is not in both, or has other bytes; no weights at all are a difference, too."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return names if any(name.endswith(".safetensors") for name in before) else [*names, "no safetensors"]


def _unlike(before: Any, after: Any, place: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _unlike(before.get(key, "(absent)"), after.get(key, "(absent)"), f"{place}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _unlike(*pair, f"{place}/{number}")
    elif before != after or type(before) is not type(after):
        yield f"{place}: {before!r} and {after!r}"
