"""Equal work is looked for in an index: a POST costs the same however many jobs the project has had."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event, text

from app.db.queries.jobs import reuse
from app.db.session import Database


def test_equal_work_is_found_without_a_look_at_the_other_jobs_of_the_project(database: Database) -> None:
    plans: list[str] = []

    def explain(connection: Connection, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith("SELECT jobs."):
            how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            plans.append(str(connection.exec_driver_sql(f"{how} {statement}", values).all()))

    with database.reading() as session:
        if database.engine.dialect.name == "postgresql":  # a table of no rows is faster without an index
            session.execute(text("SET LOCAL enable_seqscan = off"))
        event.listen(database.engine, "before_cursor_execute", explain)
        reuse.done(session, "prj_1", "hash", but="job_1")
        reuse.in_flight(session, "prj_1", "hash", before="job_1")
    assert len(plans) == 2
    for plan in plans:
        assert "ix_jobs_work" in plan
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan
