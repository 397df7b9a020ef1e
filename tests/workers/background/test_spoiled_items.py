"""An item that breaks whoever works on it waits and is given up in the end, and those of others pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from app.db.hook import HookDelivery, HookSource
from app.db.job import Job
from app.db.publication import Publication
from app.db.queries.queue import leases
from app.db.session import clock
from app.db.webhook import WebhookDelivery
from app.platform import loops, outbound
from app.platform.ids import new_id
from app.queue import WorkNotifier
from app.services.hooks import evaluation
from tests.fixtures.service.rows import hook_source, queued_webhook
from tests.fixtures.workers.claims import worker
from tests.fixtures.workers.runs import Bench, job_fields
from tests.workers.background.faults import FAULTS
from workers.background import reconcile
from workers.background.deliver import Dispatcher
from workers.background.hooks import Evaluator
from workers.background.reconcile import Reconciler
from workers.background.registries import RegistrySweep
from workers.lease import transitions
from workers.messages import Published
from workers.supervisor.publishing import Publisher

IDS = [type(fault).__name__ for fault in FAULTS]


# Items: one that breaks whoever works on it, and one of another project behind it.


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the log of every fault from being drawn: that takes longer than the tests."""
    with capture_logs():
        yield


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_a_webhook_that_breaks_us_is_given_up_in_the_end_and_others_are_delivered(
    sqlite_bench: Bench, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sqlite_bench.database
    with database.unit_of_work() as session:
        bad, good = (queued_webhook(session, sqlite_bench.settings, project) for project in ("prj-bad", "prj-good"))
    monkeypatch.setattr(outbound, "post", _post(fault))
    dispatcher = Dispatcher(database, sqlite_bench.settings)
    assert dispatcher.dispatch(wait=True) == 2
    for _ in range(loops.MOST_ATTEMPTS):
        with database.unit_of_work() as session:
            session.execute(update(WebhookDelivery).values(next_at=clock(session)))
        dispatcher.dispatch(wait=True)
    with database.reading() as session:
        rows = {row.id: row for row in session.scalars(select(WebhookDelivery))}
    assert (rows[good].state, rows[bad].state, rows[bad].attempts) == ("delivered", "failed", loops.MOST_ATTEMPTS)


def _post(fault: BaseException) -> Callable[..., Any]:
    def post(target: Any, *_: object, **__: object) -> outbound.Answer:
        if "bad" in target.host:
            raise fault
        return outbound.Answer(204, None, "")

    return post


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_a_publication_that_breaks_us_is_given_up_in_the_end_and_others_are_done(
    sqlite_bench: Bench, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sqlite_bench.database
    with database.unit_of_work() as session:
        now = clock(session)
        for project in ("prj_bad", "prj_good"):
            job = Job(**(job_fields("steady", now) | {"project_id": project, "state": "succeeded"}))
            session.add(job)
            session.flush()
            session.add(
                Publication(
                    id=f"pub_{project}",
                    project_id=project,
                    job_id=job.id,
                    target={"kind": "s3", "uri": "s3://a/b"},
                    state="pending",
                    attempts=0,
                    next_at=now,
                    locked_until=None,
                    reference=None,
                    error=None,
                    created_at=now,
                    finished_at=None,
                )
            )
    publisher = Publisher(database, sqlite_bench.store, sqlite_bench.settings)

    def publish(row: Publication, _stopping: object) -> Any:
        if row.project_id == "prj_bad":
            raise fault
        return Published(target={"kind": "s3", "uri": "s3://a/b"}, reference="done")

    monkeypatch.setattr(publisher, "publish", publish)
    for _ in range(8):
        while publisher.work_once():
            pass
        with database.unit_of_work() as session:
            session.execute(update(Publication).values(next_at=clock(session)))
    with database.reading() as session:
        states = {row.id: row.state for row in session.scalars(select(Publication))}
    assert states == {"pub_prj_bad": "failed", "pub_prj_good": "succeeded"}


@pytest.mark.parametrize("fault", [one for one in FAULTS if not isinstance(one, SystemExit)], ids=repr)
def test_a_registry_event_that_breaks_us_is_given_up_in_the_end_and_others_are_evaluated(
    sqlite_bench: Bench, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sqlite_bench.database
    with database.unit_of_work() as session:
        bad, good = (_hook(session, project) for project in ("prj_bad", "prj_good"))

    def evaluate(_session: Session, _database: Any, _settings: Any, delivery: HookDelivery) -> list[str]:
        if delivery.id == bad:
            raise fault
        delivery.state = "evaluated"
        return []

    monkeypatch.setattr(evaluation, "evaluate_delivery", evaluate)
    evaluator = Evaluator(database, cast(WorkNotifier, None), sqlite_bench.settings)
    for _ in range(loops.MOST_ATTEMPTS + 1):
        while evaluator.work_once():
            pass
        with database.unit_of_work() as session:
            session.execute(update(HookDelivery).values(next_at=clock(session)))
    with database.reading() as session:
        states = {row.id: row.state for row in session.scalars(select(HookDelivery))}
    assert states == {bad: "failed", good: "evaluated"}


def _hook(session: Any, project: str) -> str:
    now = clock(session)
    row = HookDelivery(
        id=new_id("hkd"),
        source_id=hook_source(session, project).id,
        project_id=project,
        via="webhook",
        dedupe_key=project,
        subject=None,
        body=None,
        event={"kind": "mlflow", "event": "model_version.created", "model": "m"},
        state="pending",
        attempts=0,
        next_at=now,
        error=None,
        received_at=now,
        evaluated_at=None,
    )
    session.add(row)
    return row.id


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_a_registry_that_breaks_us_is_looked_at_later_and_the_others_now(
    sqlite_bench: Bench, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, looked = sqlite_bench.database, []
    with database.unit_of_work() as session:
        bad, good = (hook_source(session, project).id for project in ("prj_bad", "prj_good"))
    settings = sqlite_bench.settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    sweep = RegistrySweep(database, settings)

    def look(source: HookSource) -> int:
        looked.append(source.id)
        if source.id == bad:
            raise fault
        return 0

    monkeypatch.setattr(sweep, "poll", look)
    assert [sweep.poll_once() for _ in range(3)] == [0, 0, None]
    assert sorted(looked) == sorted([bad, good])
    with database.reading() as session:
        cursor = session.get_one(HookSource, bad).cursor
    assert cursor is not None
    assert cursor["broken"] == 1


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_a_lost_job_that_breaks_us_fails_in_the_end_and_others_are_recovered(
    sqlite_bench: Bench, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, jobs = sqlite_bench.database, [sqlite_bench.add() for _ in range(2)]
    with database.unit_of_work() as session:
        for _ in jobs:
            assert leases.claim(session, worker("wrk_gone"), lease_seconds=60)
        session.execute(update(Job).values(lease_until=clock(session) - timedelta(seconds=1)))
    real = transitions.finish_with_error

    def finish(session: Any, job: Job, *rest: Any, **named: Any) -> None:
        if job.id == jobs[0]:
            raise fault
        real(session, job, *rest, **named)

    monkeypatch.setattr(transitions, "finish_with_error", finish)
    healer = Reconciler(database, sqlite_bench.store, cast(WorkNotifier, None))
    assert healer.recover() == 1
    assert [sqlite_bench.job(job).state for job in jobs] == ["running", "queued"]
    for _ in range(loops.MOST_ATTEMPTS):
        healer.postponed = {job: (times, 0.0) for job, (times, _) in healer.postponed.items()}
        healer.recover()
    job = sqlite_bench.job(jobs[0])
    assert job.error is not None
    assert (job.state, job.error["class"]) == ("failed", "internal")


def test_jobs_that_are_postponed_keep_no_place_before_the_others(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "MOST_AT_ONCE", 2)
    jobs = sorted(sqlite_bench.add() for _ in range(3))
    for job in jobs:
        sqlite_bench.set(job, pending_until=datetime(2020, 1, 1, tzinfo=UTC))
    healer = Reconciler(sqlite_bench.database, sqlite_bench.store, cast(WorkNotifier, None))
    healer.postponed = dict.fromkeys(jobs[:2], (1, time.monotonic() + 1000))
    assert healer.expire() == 1
    assert [sqlite_bench.job(job).state for job in jobs] == ["queued", "queued", "expired"]


def test_a_step_that_breaks_does_not_keep_the_reconciler_from_the_others(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    healer = Reconciler(sqlite_bench.database, sqlite_bench.store, cast(WorkNotifier, None))
    done: list[str] = []
    for number, step in enumerate(("recover", "end_orphans", "wake", "expire", "mark_quotas", "deliver", "ring_again")):

        def work(step: str = step, fault: BaseException = FAULTS[number]) -> None:
            done.append(step)
            raise fault

        monkeypatch.setattr(healer, step, work)
    healer.sweep()
    assert len(done) == 7
