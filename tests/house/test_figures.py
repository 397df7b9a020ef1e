"""The table of figures: parts add up, and a part that is measured again replaces itself only."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.suite.figures import Figure, keep


def part(name: str, jobs: float) -> Figure:
    return Figure("chaos", "a mix", "0 lost", "{jobs:.0f} jobs in {parts} parts", name, {"jobs": jobs})


def test_parts_of_a_row_add_up(tmp_path: Path) -> None:
    keep([part("seed 0", 100), part("seed 1", 50)], tmp_path)
    keep([part("seed 1", 60), Figure("load", "posts", ">= 500/s", "{not a format}")], tmp_path)
    rows = json.loads((tmp_path / "durability.json").read_text())
    assert [(row["class"], row["measured"]) for row in rows] == [
        ("load", "{not a format}"),
        ("chaos", "160 jobs in 2 parts"),
    ]
    assert "| chaos | a mix | 0 lost | 160 jobs in 2 parts |" in (tmp_path / "durability.md").read_text()
