"""What an attempt meets: outages, full disks, limits, data that moved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db.result import Artifact, LogLine
from app.storage.s3 import S3Store
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.runs import Bench
from workers.supervisor.worker_loop import WorkerLoop


def _children() -> list[psutil.Process]:
    return running("scripted_child")


def test_a_database_out_of_reach_for_longer_than_the_lease_ends_the_child(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = sqlite_bench
    settings = bench.settings.model_copy(update={"lease_seconds": 3.0})
    bench.services = replace(bench.services, settings=settings)
    job_id = bench.add("endless")
    thread = threading.Thread(target=WorkerLoop(bench.services).work_once)
    thread.start()
    bench.wait_for_event(job_id, "job.layer_completed")
    real = bench.database.engine.pool
    with monkeypatch.context() as patch:
        patch.setattr(bench.database, "unit_of_work", _unreachable)
        patch.setattr(bench.database, "reading", _unreachable)
        thread.join(60)
    assert not thread.is_alive()
    assert _children() == []
    assert bench.database.engine.pool is real
    assert bench.job(job_id).state == "running"  # until the reconciler finds it


def _unreachable() -> None:
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415

    raise OperationalError("SELECT 1", {}, Exception("gone"))


def test_a_short_outage_is_ridden_out(sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = sqlite_bench
    job_id = bench.add("slow")
    thread = threading.Thread(target=WorkerLoop(bench.services).work_once)
    thread.start()
    bench.wait_for_event(job_id, "job.layer_completed")
    tried = threading.Event()

    def unreachable() -> None:
        tried.set()
        _unreachable()

    with monkeypatch.context() as patch:
        patch.setattr(bench.database, "unit_of_work", unreachable)
        patch.setattr(bench.database, "reading", unreachable)
        assert tried.wait(60)
    thread.join(60)
    assert bench.job(job_id).state == "succeeded"
    assert [event.type for event in bench.events(job_id)].count("job.layer_completed") == 30


def test_a_job_that_runs_out_of_time_expires(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job_id = bench.add("slow")
    request = {**bench.job(job_id).request, "limits": {"max_run_seconds": 1.0}}
    bench.set(job_id, request=request)
    job = bench.work(job_id)
    assert job.state == "expired"
    assert job.error is not None
    assert job.error["class"] == "timeout"
    assert [event.type for event in bench.events(job_id)][-1] == "job.expired"


def test_a_child_gets_no_secret_of_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from workers.processes.process import environment  # noqa: PLC0415

    for name in ("ESPALIER_HF_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "ESPALIER_DATABASE_URL"):
        monkeypatch.setenv(name, "secret")
    sides: tuple[Literal["fetch", "compute"], ...] = ("fetch", "compute")
    for side in sides:
        given = environment(side, tmp_path, 1)
        assert "secret" not in given.values()
    assert given["HF_HUB_OFFLINE"] == "1"


def test_the_store_refusing_is_a_typed_failure_that_is_tried_again(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.errors import StorageError  # noqa: PLC0415

    bench = sqlite_bench
    job_id = bench.add()

    def refuse(*_: object) -> None:
        raise StorageError

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "put_file", refuse)
        job = bench.work(job_id)
    assert (job.state, job.failures) == ("queued", {"storage": 1})
    bench.hurry(job_id)
    assert bench.work(job_id).state == "succeeded"


def test_a_full_disk_is_named(sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = sqlite_bench
    job_id = bench.add()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        job = bench.work(job_id)
    error = bench.attempts(job_id)[0].error
    assert error is not None
    assert (job.state, error["class"]) == ("queued", "disk_full")


def test_leftovers_of_a_dead_worker_are_removed_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    from workers.processes.workspace import Workspace, remove_leftovers  # noqa: PLC0415

    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        Workspace(tmp_path, "job_dead", 1).__enter__()
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with Workspace(tmp_path, "job_alive", 1) as alive:
        assert remove_leftovers(tmp_path) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["job_alive-a1", "job_alive-a1.lock"]
        assert alive.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_other_data_are_not_used(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job = bench.work(bench.add("dies-once"))
    assert len(job.checkpoints) == 3
    bench.set(job.id, work_hash="of a data set that has moved since")
    # The child dies again where nothing was resumed, so this attempt did start from nothing.
    assert WorkerLoop(bench.services).work_once()
    job = bench.job(job.id)
    assert job.state == "queued"
    assert job.work_hash != "of a data set that has moved since"
    bench.hurry(job.id)
    assert bench.work(job.id).state == "succeeded"


def test_a_source_that_changed_between_attempts_ends_the_job(sqlite_bench: Bench) -> None:
    job_id = sqlite_bench.add(resolved_revision="r0")
    job = sqlite_bench.work(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["class"] == "source_not_found"
    assert "source changed" in job.error["message"]


def test_a_job_resumes_and_commits_on_s3_too(sqlite_bench: Bench, s3_store: S3Store) -> None:
    bench = sqlite_bench
    bench.services = replace(bench.services, store=s3_store)
    job = bench.work(bench.add("dies-once"), attempts=2)
    assert (job.state, job.attempt) == ("succeeded", 2)
    with bench.database.reading() as session:
        keys = {artifact.key for artifact in session.scalars(select(Artifact))}
    assert {stored.key for stored in s3_store.list("projects/")} == keys


def test_a_flush_whose_commit_was_never_learned_of_is_not_written_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = bench.add("slow")
    unit = bench.database.unit_of_work
    lost: list[int] = []

    @contextmanager
    def forgetful() -> Iterator[Session]:
        with unit() as session:
            yield session
        if sys._getframe(2).f_code.co_name == "flush_if_due" and len(lost) < 2:
            lost.append(1)
            raise OperationalError("COMMIT", {}, Exception("the connection broke"))

    monkeypatch.setattr(bench.database, "unit_of_work", forgetful)
    job = bench.work(job_id)
    assert job.state == "succeeded"
    assert lost
    events = [(event.type, event.phase, event.data.get("name")) for event in bench.events(job_id)]
    for type_ in ("job.phase_started", "job.layer_completed", "job.checkpoint"):
        some = [one for one in events if one[0] == type_]
        assert len(some) == len(set(some)) > 0
    with bench.database.reading() as session:
        lines = list(session.scalars(select(LogLine.text).where(LogLine.job_id == job_id)))
    assert len(lines) == len(set(lines)) > 0
