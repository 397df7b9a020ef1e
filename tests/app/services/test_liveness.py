"""The probe of workers and of the reconciler tells those that are silent from a database that is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.db.job import Heartbeat, Worker
from app.db.queries.queue import leases, measures
from app.db.session import Database, clock
from app.services.liveness import is_alive
from app.settings import Settings


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=sqlite_url)


@pytest.fixture
def rows(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    yield database
    database.dispose()


def test_a_worker_is_known_by_its_host_and_when_it_was_seen(settings: Settings, rows: Database) -> None:
    assert not is_alive(settings, "worker", "pod-1")
    identity = leases.WorkerIdentity(
        id="wrk_a", worker_class="gpu", host="pod-1", pid=1, device="cuda", engine_version="2", memory_bytes=1
    )
    with rows.unit_of_work() as session:
        leases.register(session, identity)
    assert is_alive(settings, "worker", "pod-1")
    assert not is_alive(settings, "worker", "pod-2")
    with rows.unit_of_work() as session:
        session.get_one(Worker, "wrk_a").seen_at -= timedelta(minutes=4)
    assert not is_alive(settings, "worker", "pod-1")
    settings.lease_seconds = 600
    assert is_alive(settings, "worker", "pod-1")


def test_a_host_lives_while_one_of_its_gpus_answers_or_was_lost_a_while_ago(settings: Settings, rows: Database) -> None:
    with rows.unit_of_work() as session:
        for name in ("wrk_a", "wrk_b"):
            leases.register(
                session,
                leases.WorkerIdentity(
                    id=name, worker_class="gpu", host="pod-1", pid=1, device="cuda", engine_version="2", memory_bytes=1
                ),
            )
    for lost, minutes, alive in ((["wrk_a"], 60, True), (["wrk_b"], 10, True), (["wrk_b"], 16, False)):
        with rows.unit_of_work() as session:
            for name in lost:
                session.get_one(Worker, name).device_lost_at = clock(session) - timedelta(minutes=minutes)
        assert is_alive(settings, "worker", "pod-1", gpu=True) == alive
        assert is_alive(settings, "worker", "pod-1")


def test_a_reconciler_lives_while_one_of_them_sweeps(settings: Settings, rows: Database) -> None:
    assert not is_alive(settings, "reconciler", "any")
    with rows.unit_of_work() as session:
        measures.note_sweep(session)
    assert is_alive(settings, "reconciler", "any")
    with rows.unit_of_work() as session:
        session.get_one(Heartbeat, "reconciler").at = clock(session) - timedelta(minutes=4)
    assert not is_alive(settings, "reconciler", "any")


def test_a_database_that_is_away_or_empty_restarts_nobody(tmp_path: Path) -> None:
    nowhere = "postgresql+psycopg://user@127.0.0.1:1/espalier"
    assert is_alive(Settings(database_url=nowhere), "worker", "pod-1")
    assert is_alive(Settings(database_url=f"sqlite:///{tmp_path / 'new.db'}"), "reconciler", "pod-1")
