"""What leaves the cache when it is full."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.integrations.shared.cache import COMPLETE, evict, linked
from app.integrations.shared.sources import locked

HOURS = 3600.0


def repository(cache: Path, name: str, *, hours_ago: float) -> Path:
    folder = cache / "sources/place" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (folder / COMPLETE).write_text("[]")
    used = time.time() - hours_ago * HOURS
    os.utime(folder / COMPLETE, (used, used))
    return folder


def names(cache: Path) -> list[str]:
    return sorted(note.parent.name for note in cache.glob(f"sources/*/*/{COMPLETE}"))


@pytest.mark.parametrize(
    ("max_bytes", "left"),
    [
        (10_000, ["fresh", "middle", "old"]),  # below the cap
        (2_500, ["fresh", "middle"]),  # the oldest goes
        (0, ["fresh"]),  # what was used within the hour stays
    ],
)
def test_what_was_used_least_recently_goes_first(max_bytes: int, left: list[str], tmp_path: Path) -> None:
    for name, hours_ago in (("old", 9), ("middle", 5), ("fresh", 0.5)):
        repository(tmp_path, name, hours_ago=hours_ago)
    evict(tmp_path, max_bytes, in_use=())
    assert names(tmp_path) == left


def test_what_a_workspace_links_to_stays(tmp_path: Path) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    model, text = repository(cache, "used", hours_ago=9), cache / "text/0123.txt"
    repository(cache, "unused", hours_ago=5)
    text.parent.mkdir()
    for path in (text, text.with_name("4567.txt")):
        path.write_text("x" * 500)
        os.utime(path, (1, 1))
    for target, link in ((model / "model.safetensors", "model/model.safetensors"), (text, "text/0123.txt")):
        (scratch / "job_1-a1" / link).parent.mkdir(parents=True)
        (scratch / "job_1-a1" / link).symlink_to(target)
    evict(cache, 0, in_use=linked(scratch))
    assert names(cache) == ["used"]
    assert [path.name for path in text.parent.iterdir()] == ["0123.txt"]


def test_a_folder_that_is_being_filled_stays(tmp_path: Path) -> None:
    folder = repository(tmp_path, "filling", hours_ago=9)
    with locked(folder):
        evict(tmp_path, 0, in_use=())
        assert names(tmp_path) == ["filling"]
    evict(tmp_path, 0, in_use=())
    assert names(tmp_path) == []
