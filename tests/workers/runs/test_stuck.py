"""What could keep a slot, a job or a disk busy for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from app.db.queries import leases
from tests.fixtures.runs import Bench
from workers.runs.workspace import remove_leftovers


def test_a_slot_outlives_a_claim_that_breaks(sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, claim, broken = sqlite_bench, leases.claim, iter([True])

    def not_migrated(session: Session, *arguments: object, **options: object) -> object:
        if next(broken, False):
            raise ProgrammingError("SELECT", {}, Exception("relation jobs does not exist"))
        return claim(session, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(leases, "claim", not_migrated)
    job_id = bench.add()
    with bench.slot():
        assert bench.wait(job_id, "succeeded").attempt == 1


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job_id = bench.add("leaves-a-grandchild")
    with bench.slot():
        assert bench.wait(job_id, "succeeded", seconds=15).attempt == 1


def test_only_folders_of_ours_are_leftovers(tmp_path: Path) -> None:
    for name in ("job_01-a1", "run-a77", "notes", "job_01"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()
    assert remove_leftovers(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job_01", "job_01.lock", "notes", "notes.lock"]
