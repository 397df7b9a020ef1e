"""What is kept, and for how long: rows of old jobs go, those of young and unfinished ones stay."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.db.job import Event
from app.db.result import Artifact, LogLine
from app.db.session import clock
from tests.fixtures.workers.runs import Bench
from workers.background.retention import forget


def _count(bench: Bench, table: type[Artifact | Event | LogLine], job_id: str) -> int:
    with bench.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table).where(table.job_id == job_id)) or 0


@pytest.mark.parametrize(
    ("setting", "table"),
    [
        ("keep_artifacts_days", Artifact),
        ("keep_events_days", Event),
        ("keep_logs_days", LogLine),
    ],
)
def test_rows_are_forgotten_after_their_time(
    sqlite_bench: Bench, setting: str, table: type[Artifact | Event | LogLine]
) -> None:
    old, young = (sqlite_bench.work(sqlite_bench.add("tells")).id for _ in range(2))
    waiting = sqlite_bench.add()
    with sqlite_bench.database.reading() as session:
        now = clock(session)
    sqlite_bench.set(old, finished_at=now - timedelta(days=3))
    none = dict.fromkeys(("keep_artifacts_days", "keep_events_days", "keep_logs_days"), 0)
    settings = sqlite_bench.settings.model_copy(update=none)
    assert not any(forget(sqlite_bench.database, settings).values())
    assert _count(sqlite_bench, table, old) > 0
    forget(sqlite_bench.database, settings.model_copy(update={setting: 2}))
    assert _count(sqlite_bench, table, old) == 0
    assert _count(sqlite_bench, table, young) > 0
    assert sqlite_bench.job(old).report is not None
    assert sqlite_bench.job(waiting).state == "queued"
