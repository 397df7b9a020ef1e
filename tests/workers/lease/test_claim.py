"""Who gets a job, and who keeps it."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, event, text

from app.db.job import PRIORITIES
from app.db.queries.queue import leases
from app.db.session import clock
from tests.fixtures.workers.claims import claim, worker
from tests.fixtures.workers.runs import Bench


def test_of_many_workers_that_race_each_job_has_exactly_one(bench: Bench) -> None:
    jobs = {bench.add() for _ in range(40)}
    claimed: list[str] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        while (job := claim(bench, worker(f"wrk_{number}"))) is not None:
            claimed.append(job)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(claimed) == Counter(jobs)
    assert {bench.job(job).fence for job in jobs} == {1}


def test_priority_goes_before_age(bench: Bench) -> None:
    low, first, second, high = (bench.add(priority=PRIORITIES[name]) for name in ("low", "normal", "normal", "high"))
    assert [claim(bench, worker("wrk_a")) for _ in range(5)] == [high, first, second, low, None]


def test_a_claim_reads_the_queue_in_its_order_and_sorts_nothing(bench: Bench) -> None:
    plans: list[str] = []

    def explain(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "LIMIT" in statement and statement.startswith(("UPDATE jobs", "WITH RECURSIVE")):
            sqlite = connection.dialect.name == "sqlite"
            explained = f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{statement}"
            plans.append(str(connection.exec_driver_sql(explained, parameters).all()))

    bench.add()
    with bench.database.unit_of_work() as session:
        leases.register(session, worker("wrk_1"))
        if bench.database.engine.dialect.name == "postgresql":  # a table of no rows is faster without an index
            session.execute(text("SET LOCAL enable_seqscan = off"))
        event.listen(bench.database.engine, "before_cursor_execute", explain)
        try:
            leases.claim(session, worker("wrk_1"), lease_seconds=60)
        finally:
            event.remove(bench.database.engine, "before_cursor_execute", explain)
    assert len(plans) == 2  # whose turn it is, and which of its jobs
    for plan in plans:
        assert "ix_jobs_claim" in plan or "ix_jobs_queued" in plan
        assert "Sort" not in plan
        assert "TEMP B-TREE" not in plan


def test_a_claim_leaves_what_is_not_due_not_its_class_or_too_new(bench: Bench) -> None:
    with bench.database.reading() as session:
        now = clock(session)
    bench.add(not_before=now + timedelta(seconds=60))
    bench.add(worker_class="gpu")
    bench.add(engine_version="10")
    assert claim(bench, worker("wrk_a", engine_version="9")) is None
    bench.add(not_before=now - timedelta(seconds=1))
    assert claim(bench, worker("wrk_a", engine_version="9")) is not None


def test_a_claim_writes_the_attempt_the_worker_and_the_event(bench: Bench) -> None:
    job_id = bench.add()
    assert claim(bench, worker("wrk_a")) == job_id
    job, (attempt,), (event,) = bench.job(job_id), bench.attempts(job_id), bench.events(job_id)
    assert (job.state, job.attempt, job.fence, job.worker_id, job.wait_reason) == ("running", 1, 1, "wrk_a", None)
    assert job.lease_until is not None
    assert job.started_at is not None
    assert (attempt.number, attempt.fence, attempt.outcome, attempt.resumed_from) == (1, 1, None, None)
    assert (event.type, event.seq, event.attempt) == ("job.started", 1, 1)


def test_an_old_fence_neither_beats_nor_writes(bench: Bench) -> None:
    job_id = bench.add()
    claim(bench, worker("wrk_a"))
    with bench.database.unit_of_work() as session:
        assert leases.heartbeat(session, job_id, 1, worker_id="wrk_a", lease_seconds=60) == "running"
        assert leases.held(session, job_id, 1) is not None
    bench.set(job_id, fence=2)
    with bench.database.unit_of_work() as session:
        assert leases.heartbeat(session, job_id, 1, worker_id="wrk_a", lease_seconds=60) is None
        assert leases.held(session, job_id, 1) is None
        assert leases.state_of(session, job_id, 1) is None
