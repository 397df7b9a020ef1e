"""What heals by itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import select, text

from app.db.job import IdempotencyKey, Job, Outbox
from app.db.queries.queue import leases
from app.db.session import Database, clock
from app.platform.ids import new_id
from app.platform.loops import OUTAGE
from app.queue import WorkNotifier
from tests.fixtures.workers.claims import worker
from tests.fixtures.workers.reconcilers import RecordedNotifier
from tests.fixtures.workers.runs import Bench
from workers.background import reconcile
from workers.background.reconcile import Reconciler
from workers.lease.retries import MACHINE_LOST, RETRIES
from workers.reconciler import FileLead, PostgresLead


@pytest.fixture
def notifier() -> RecordedNotifier:
    return RecordedNotifier()


@pytest.fixture
def reconciler(bench: Bench, notifier: RecordedNotifier) -> Reconciler:
    return Reconciler(bench.database, bench.store, cast(WorkNotifier, notifier))


def lose(bench: Bench, script: str = "steady", **fields: object) -> str:
    """A job whose worker is gone: its lease is past."""
    job_id = bench.add(script)
    with bench.database.unit_of_work() as session:
        leases.register(session, worker("wrk_gone"))
        assert leases.claim(session, worker("wrk_gone"), lease_seconds=60) is not None
        past = clock(session) - timedelta(seconds=1)
    bench.set(job_id, **({"lease_until": past} | fields))
    return job_id


def test_a_job_whose_lease_is_past_is_queued_again_with_a_pause_and_a_new_fence(
    bench: Bench, reconciler: Reconciler
) -> None:
    job_id = lose(bench)
    assert reconciler.recover() == 1
    job = bench.job(job_id)
    assert (job.state, job.fence, job.wait_reason, job.worker_id) == ("queued", 2, "backoff", None)
    assert job.not_before is not None
    assert job.failures == {"machine_lost": 1}
    assert bench.attempts(job_id)[0].outcome == "lost"
    assert [event.type for event in bench.events(job_id)] == [
        "job.started",
        "job.attempt_failed",
        "job.retry_scheduled",
    ]
    with bench.database.unit_of_work() as session:
        assert leases.held(session, job_id, 1) is None
    assert reconciler.recover() == 0


@pytest.mark.parametrize(("seconds", "reason"), [(-1, "capacity"), (60, "backoff")])
def test_a_job_waits_for_a_worker_once_its_pause_is_over(
    bench: Bench, reconciler: Reconciler, seconds: int, reason: str
) -> None:
    job_id = lose(bench)
    reconciler.recover()
    with bench.database.reading() as session:
        due = clock(session) + timedelta(seconds=seconds)
    bench.set(job_id, not_before=due)
    reconciler.mark_quotas()
    assert bench.job(job_id).wait_reason == reason


def test_a_null_lease_counts_as_dead_and_a_living_one_is_left_alone(bench: Bench, reconciler: Reconciler) -> None:
    dead = lose(bench, lease_until=None)
    with bench.database.reading() as session:
        alive = lose(bench, lease_until=clock(session) + timedelta(seconds=30))
    assert reconciler.recover() == 1
    assert (bench.job(dead).state, bench.job(alive).state) == ("queued", "running")


@pytest.mark.parametrize(("asked", "state"), [("cancelling", "cancelled"), ("pausing", "paused")])
def test_what_was_asked_of_a_lost_worker_is_done(bench: Bench, reconciler: Reconciler, asked: str, state: str) -> None:
    job_id = lose(bench, state=asked)
    reconciler.recover()
    assert bench.job(job_id).state == state
    assert bench.events(job_id)[-1].type == f"job.{state}"


def test_a_lost_machine_is_not_charged_as_a_crash_of_the_job_is(bench: Bench, reconciler: Reconciler) -> None:
    job_id = lose(bench, failures={"worker_lost": 3}, max_attempts=1)
    reconciler.recover()
    job = bench.job(job_id)
    assert (job.state, job.failures) == ("queued", {"worker_lost": 3, "machine_lost": 1})
    assert job.max_attempts == 2


def test_a_job_that_loses_machine_after_machine_and_gets_on_nowhere_fails_for_good(
    bench: Bench, reconciler: Reconciler
) -> None:
    job_id = lose(bench, failures={MACHINE_LOST: RETRIES[MACHINE_LOST].attempts})
    reconciler.recover()
    job = bench.job(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["class"] == "worker_lost"


def test_a_job_that_waits_longer_than_it_may_expires(bench: Bench, reconciler: Reconciler) -> None:
    patient, hasty = bench.add(), bench.add()
    with bench.database.reading() as session:
        queued_at = clock(session) - timedelta(seconds=60)
    for job_id, seconds in ((patient, 300.0), (hasty, 30.0)):
        bench.set(job_id, pending_until=queued_at + timedelta(seconds=seconds))
    assert reconciler.expire() == 1
    assert (bench.job(patient).state, bench.job(hasty).state) == ("queued", "expired")
    assert bench.events(hasty)[-1].type == "job.expired"


def test_a_job_that_nobody_heard_of_is_rung_for_again(
    bench: Bench, reconciler: Reconciler, notifier: RecordedNotifier
) -> None:
    fresh = bench.add(worker_class="fresh")
    with bench.database.reading() as session:
        queued_at = clock(session) - timedelta(seconds=60)
    bench.add(queued_at=queued_at)
    bench.add(queued_at=queued_at, worker_class="later", not_before=queued_at + timedelta(seconds=600))
    reconciler.ring_again()
    reconciler.ring_again()
    assert notifier.notified == ["default"]
    assert bench.job(fresh).state == "queued"


def test_the_outbox_is_delivered_once(bench: Bench, reconciler: Reconciler, notifier: RecordedNotifier) -> None:
    with bench.database.unit_of_work() as session:
        for _ in range(3):
            session.add(
                Outbox(
                    id=new_id("out"),
                    project_id="prj_default",
                    topic="bell",
                    payload={"worker_class": "gpu"},
                    created_at=clock(session),
                    sent_at=None,
                )
            )
    assert reconciler.deliver() == 3
    assert reconciler.deliver() == 0
    assert notifier.notified == ["gpu"]


def test_old_files_that_no_row_names_are_collected(bench: Bench, reconciler: Reconciler) -> None:
    job = bench.work(bench.add())
    kept = {stored.key for stored in bench.store.list("projects/")}
    bench.store.put_bytes("projects/prj_default/jobs/job_x/a1/model.safetensors", b"orphan")
    bench.store.put_bytes(f"projects/prj_default/jobs/{job.id}/a9/model.safetensors", b"zombie")
    assert reconciler.collect_garbage() == 0  # too young
    for stored in bench.store.list("projects/"):
        os.utime(bench.store.root / stored.key, (1, 1))
    assert reconciler.collect_garbage() == 2
    assert {stored.key for stored in bench.store.list("projects/")} == kept


def test_checkpoints_of_a_job_that_failed_are_kept_for_a_week(bench: Bench, reconciler: Reconciler) -> None:
    job = bench.work(bench.add("dies-once"))
    (first, *_) = [checkpoint["key"] for checkpoint in job.checkpoints]
    os.utime(bench.store.root / first, (1, 1))
    assert job.started_at is not None
    for days, removed in ((6, 0), (8, 1)):
        bench.set(job.id, state="failed", finished_at=job.started_at - timedelta(days=days))
        assert reconciler.collect_garbage() == removed


def test_idempotency_keys_are_forgotten_after_a_day(bench: Bench, reconciler: Reconciler) -> None:
    with bench.database.unit_of_work() as session:
        now = clock(session)
        for hours in (23, 25):
            session.add(
                IdempotencyKey(
                    id=new_id("idk"),
                    project_id="prj_default",
                    method="POST",
                    path="/v1/jobs",
                    key=f"{hours}",
                    body_sha256="",
                    resource_id=None,
                    created_at=now - timedelta(hours=hours),
                )
            )
    reconciler.collect_garbage()
    with bench.database.reading() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["23"]


def test_bells_that_nobody_hears_become_rare(
    bench: Bench, reconciler: Reconciler, notifier: RecordedNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.set(bench.add(), queued_at=datetime(2020, 1, 1, tzinfo=UTC))
    seconds = iter(range(10, 3610, 10))
    # The clock of this module alone: that of `time` is every thread's, and ends what waits for a while elsewhere.
    monkeypatch.setattr(reconcile, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    for _ in range(360):
        reconciler.ring_again()
    assert 10 <= len(notifier.notified) <= 25


def test_one_reconciler_leads_and_another_takes_over(database: Database) -> None:
    def lead() -> PostgresLead | FileLead:
        return FileLead(database) if database.url.startswith("sqlite") else PostgresLead(database)

    first, second = lead(), lead()
    assert first.held()
    assert first.held()
    assert not second.held()
    first.release()
    assert second.held()
    assert not first.held()
    second.release()


def test_the_lead_is_taken_again_when_the_server_was_away(postgres_url: str) -> None:
    database = Database(postgres_url)
    lead = PostgresLead(database)
    assert lead.held()
    with database.engine.connect() as other:
        ours = "locktype = 'advisory' AND datname = current_database()"  # other services may lead on this server
        other.execute(
            text(f"SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON oid = database WHERE {ours}")
        )
    with pytest.raises(OUTAGE):
        lead.held()
    assert lead.held()
    lead.release()
    database.dispose()


def test_jobs_are_not_touched_by_an_idle_sweep(bench: Bench, reconciler: Reconciler) -> None:
    job = bench.work(bench.add())
    with bench.database.reading() as session:
        before = session.get(Job, job.id)
    reconciler.sweep()
    after = bench.job(job.id)
    assert before is not None
    assert (after.state, after.fence, after.event_seq) == (before.state, before.fence, before.event_seq)
