"""The place in the queue is counted in the index alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from app.db.job import Job
from app.db.queries.jobs import jobs
from app.db.session import Database


def test_the_place_of_a_job_names_the_state_that_the_index_is_made_for(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    sent: list[tuple[str, Any]] = []
    event.listen(
        database.engine, "before_cursor_execute", lambda _c, _cursor, sql, values, *_: sent.append((sql, values))
    )
    with database.reading() as session:
        assert jobs.queue_position(session, Job(id="job_1", project_id="prj_1", turn=0, worker_class="default")) == 1
        assert jobs.queue_positions(session, "prj_1", ["job_1"]) == {}
    database.dispose()
    reads = [(sql, values) for sql, values in sent if sql.startswith("SELECT")]
    assert len(reads) == 2
    # As a parameter the state would make both databases read every row that the index has already chosen.
    assert all("jobs.state = 'queued'" in sql and "queued" not in values for sql, values in reads)
