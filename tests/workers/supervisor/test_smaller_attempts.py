"""An attempt that follows one without memory is told where it ran out, whatever happened between them."""

from __future__ import annotations

import json

from sqlalchemy import select

from app.db.job import Attempt
from tests.fixtures.workers.runs import Bench
from workers.supervisor.requests import ran_out


def test_every_attempt_is_told_how_often_memory_ran_out_before_it(bench: Bench) -> None:
    job = bench.work(bench.add("shrinks"), attempts=3)
    assert job.state == "succeeded"
    assert [each.outcome for each in bench.attempts(job.id)] == ["failed", "failed", "succeeded"]
    (said,) = [event for event in bench.events(job.id) if event.type == "job.warning"]
    assert said.data["code"] == "smaller_attempt"
    assert json.loads(said.data["text"]) == [{"retraining": 2}, False]


def test_progress_between_them_does_not_forget_it(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job_id = bench.add("shrinks")
    bench.work(job_id)
    with bench.database.unit_of_work() as session:
        row = bench.job(job_id)
        session.add(row)
        row.failures = {}  # as a new checkpoint leaves them
    assert ran_out(bench.database, job_id) == {"ran_out": {"retraining": 1}, "ran_out_on_host": False}


def test_what_a_limit_refuses_is_no_memory_that_ran_out(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job_id = bench.add("shrinks")
    bench.work(job_id)
    with bench.database.unit_of_work() as session:
        attempt = session.scalars(select(Attempt).where(Attempt.job_id == job_id)).one()
        assert attempt.error is not None
        attempt.error = {**attempt.error, "retryable": False, "class": "host_oom"}
    assert ran_out(bench.database, job_id) == {"ran_out": {}, "ran_out_on_host": False}
