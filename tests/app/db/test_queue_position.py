"""The place in the queue is counted in the index alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event

from app.db.job import Job
from app.db.queries import jobs
from app.db.session import Database


def test_the_place_of_a_job_is_counted_without_reading_the_rows_ahead(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    steps: list[str] = []

    def explain(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT count"):
            steps.extend(row.opcode for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))

    event.listen(database.engine, "before_cursor_execute", explain)
    with database.reading() as session:
        job = Job(id="job_1", priority=0, worker_class="default")
        assert jobs.queue_position(session, job) == 1
    database.dispose()
    assert "AggStep" in steps
    assert "DeferredSeek" not in steps  # how SQLite goes from an entry of an index to its row
