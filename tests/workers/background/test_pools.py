"""What works beside the reconciler is shared: the one item of a project is next beside a thousand of another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.db.base import Base
from app.db.hook import HookDelivery, HookSource
from app.db.job import Job
from app.db.publication import Publication
from app.db.session import clock
from app.db.webhook import WebhookDelivery, WebhookEndpoint
from app.integrations.mlflow.events import version_created
from app.platform import outbound
from app.queue import WorkNotifier
from app.services.hooks import evaluation
from tests.fixtures.service.rows import webhook_delivery, webhook_endpoint
from tests.fixtures.suite.patience import Patience
from tests.fixtures.workers.runs import Bench, job_fields
from workers.background import deliver
from workers.background.deliver import Dispatcher
from workers.background.hooks import Evaluator
from workers.background.registries import RegistrySweep
from workers.messages import Published
from workers.supervisor.publishing import Publisher

MANY = 1000
PROJECTS = {"prj-1-many": MANY, "prj-2-few": 1}
"""In this order, so that the many are first by their ids and by their times."""
MLFLOW = {"mlflow_tracking_uri": "http://127.0.0.1:9"}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs until the end of the test."""
    gate = threading.Event()
    yield gate
    gate.set()


def rows(session: Session, table: type[Base], project: str, /, **fields: object) -> list[str]:
    """Insert a project's items at once; a field may be made from an item's number."""
    ids = [f"{project}-{number:04d}" for number in range(PROJECTS[project])]
    columns = dict.fromkeys(table.__table__.columns.keys()) | {"project_id": project, "created_at": clock(session)}
    made = [
        columns | {"id": id_} | {name: of(id_) if callable(of) else of for name, of in fields.items()} for id_ in ids
    ]
    session.execute(insert(table), made)
    return ids


def webhooks(bench: Bench, project: str) -> None:
    """Give every one of a project's endpoints a message that is due."""
    with bench.database.unit_of_work() as session:
        now = clock(session)
        rows(session, WebhookEndpoint, project, **webhook_endpoint(bench.settings, project, now))
        rows(session, WebhookDelivery, project, endpoint_id=str, **webhook_delivery(project, now))


def test_the_one_webhook_of_a_project_is_sent_beside_a_thousand_of_another_whose_endpoints_hang(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def post(target: outbound.Destination, *_: object, **__: object) -> outbound.Answer:
        called.append(target.host)
        if "many" in target.host:
            gate.wait(60)
        return outbound.Answer(204, None, "")

    monkeypatch.setattr(outbound, "post", post)
    dispatcher = Dispatcher(bench.database, bench.settings)
    webhooks(bench, "prj-1-many")
    assert dispatcher.dispatch() == deliver.PER_PROJECT
    webhooks(bench, "prj-2-few")
    assert dispatcher.dispatch() == 1
    patience = Patience(30)
    while "prj-2-few.test" not in called:
        patience.pause(0.005)
    assert called.count("prj-1-many.test") <= deliver.PER_PROJECT
    gate.set()
    dispatcher.close()


def beside_one_that_hangs(
    work: Callable[[], object], hangs: threading.Event, gate: threading.Event, add: Callable[[], None]
) -> None:
    """Let an item of the many hang in a thread; then the other project's one is all that is left to do."""
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(work)
        assert hangs.wait(60)
        add()
        for _ in range(2):
            work()  # the other's one, and then nothing
        assert not hanging.done()
        gate.set()


def publications(bench: Bench, project: str) -> None:
    """Let a job's result wait for its publication to many targets."""
    with bench.database.unit_of_work() as session:
        now = clock(session)
        session.add(Job(**(job_fields("steady", now) | {"id": project, "project_id": project, "state": "succeeded"})))
        session.flush()
        rows(
            session,
            Publication,
            project,
            job_id=project,
            target={"kind": "s3", "uri": "s3://a/b"},
            state="pending",
            attempts=0,
            next_at=now,
        )


def test_the_one_publication_of_a_project_is_next_beside_a_thousand_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, done = Publisher(bench.database, bench.store, bench.settings), []

    def publish(row: Publication, _stopping: object) -> Published:
        done.append(row.project_id)
        return Published(target=row.target, reference="done")

    monkeypatch.setattr(publisher, "publish", publish)
    for project in PROJECTS:
        publications(bench, project)
    assert [publisher.work_once() for _ in range(3)] == [True] * 3
    assert sorted(done[:2]) == sorted(PROJECTS)
    assert done[2] == "prj-1-many"


def test_a_publication_that_hangs_holds_up_those_of_its_own_project_alone(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, begun, hangs = Publisher(bench.database, bench.store, bench.settings), [], threading.Event()

    def publish(row: Publication, _stopping: object) -> Published:
        begun.append(row.project_id)
        if not hangs.is_set():
            hangs.set()
            gate.wait(60)
        return Published(target=row.target, reference="done")

    monkeypatch.setattr(publisher, "publish", publish)
    publications(bench, "prj-1-many")
    beside_one_that_hangs(publisher.work_once, hangs, gate, lambda: publications(bench, "prj-2-few"))
    assert begun == list(PROJECTS)


def sources(bench: Bench, project: str) -> None:
    """Let a project listen to many registries."""
    with bench.database.unit_of_work() as session:
        rows(session, HookSource, project, kind="mlflow", name=str, updated_at=clock(session))


def test_the_one_event_of_a_project_is_evaluated_next_beside_a_thousand_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = evaluation.evaluate_delivery, []

    def evaluate(session: Session, *rest: Any) -> list[str]:
        done.append(rest[-1].project_id)
        return real(session, *rest)

    monkeypatch.setattr(evaluation, "evaluate_delivery", evaluate)
    for project in PROJECTS:
        sources(bench, project)
        with bench.database.unit_of_work() as session:
            now = clock(session)
            rows(
                session,
                HookDelivery,
                project,
                source_id=str,
                via="webhook",
                dedupe_key=str,
                event=version_created("m", "1", {}).model_dump(mode="json"),
                state="pending",
                attempts=0,
                next_at=now,
                received_at=now,
            )
    evaluator = Evaluator(bench.database, cast(WorkNotifier, None), bench.settings)
    assert [evaluator.work_once() for _ in range(3)] == [True] * 3
    assert sorted(done[:2]) == sorted(PROJECTS)
    with bench.database.reading() as session:
        query = select(HookDelivery.state).where(HookDelivery.project_id == "prj-2-few")
        assert session.scalars(query).all() == ["evaluated"]


def test_the_one_registry_of_a_project_is_next_beside_a_thousand_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, looked = RegistrySweep(bench.database, bench.settings.model_copy(update=MLFLOW)), []

    def look(source: HookSource) -> int:
        looked.append(source.project_id)
        return 0

    monkeypatch.setattr(sweep, "poll", look)
    for project in PROJECTS:
        sources(bench, project)
    assert [sweep.poll_once() for _ in range(3)] == [0] * 3
    assert sorted(looked[:2]) == sorted(PROJECTS)
    with bench.database.unit_of_work() as session:  # due again long before the others have all been looked at
        session.execute(update(HookSource).where(HookSource.project_id == "prj-2-few").values(cursor=None))
    looked.clear()
    assert [sweep.poll_once() for _ in range(2)] == [0] * 2
    assert "prj-2-few" in looked


def test_a_registry_that_hangs_holds_up_those_of_its_own_project_alone(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, begun, hangs = RegistrySweep(bench.database, bench.settings.model_copy(update=MLFLOW)), [], threading.Event()

    def look(source: HookSource) -> int:
        begun.append(source.project_id)
        if not hangs.is_set():
            hangs.set()
            gate.wait(60)
        return 0

    monkeypatch.setattr(sweep, "poll", look)
    sources(bench, "prj-1-many")
    beside_one_that_hangs(sweep.poll_once, hangs, gate, lambda: sources(bench, "prj-2-few"))
    assert begun == list(PROJECTS)
