"""Files stay small enough to be read at one go."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 300


def test_no_file_is_longer_than_300_lines() -> None:
    sizes = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for folder in ("app", "espalier", "workers", "migrations")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert sizes
    assert {path: lines for path, lines in sizes.items() if lines > MAX_LINES} == {}


def test_nothing_is_called_utils_or_helpers() -> None:
    names = {path.stem for folder in ("app", "espalier", "workers", "tests") for path in (ROOT / folder).rglob("*.py")}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()
