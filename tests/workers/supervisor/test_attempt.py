"""Attempts with real child processes that follow a script."""

from __future__ import annotations

import hashlib
import time

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.job import Worker
from app.db.queries.queue import workers
from app.db.result import Artifact, LayerRow, LogLine, MetricPoint, PhaseRecord
from app.db.session import clock
from tests.fixtures.suite.patience import Patience
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.runs import Bench
from workers.supervisor.worker_loop import WorkerLoop


def types(bench: Bench, job_id: str) -> list[str]:
    return [event.type for event in bench.events(job_id)]


def children() -> list[psutil.Process]:
    return running("scripted_child")


def model(bench: Bench, job_id: str) -> str:
    with bench.database.reading() as session:
        row = session.scalar(select(Artifact).where(Artifact.job_id == job_id, Artifact.kind == "model"))
        assert row is not None
    data = b"".join(bench.store.open(row.key))
    assert hashlib.sha256(data).hexdigest() == row.sha256
    return row.sha256


def test_a_job_succeeds_and_leaves_its_rows_events_and_files(bench: Bench) -> None:
    job = bench.work(bench.add())
    assert (job.state, job.progress, job.attempt, job.error) == ("succeeded", 1.0, 1, None)
    assert job.report == {"dense": {}}
    assert job.resolved_revision == "r1"
    assert job.work_hash is not None
    assert job.lease_until is None
    with bench.database.reading() as session:
        layers = session.scalars(select(LayerRow).order_by(LayerRow.position)).all()
        assert [layer.name for layer in layers] == [f"layers.{i}.w" for i in range(5)]
        assert len(session.scalars(select(MetricPoint)).all()) == 5
        phases = {row.name: row.finished_at for row in session.scalars(select(PhaseRecord))}
        assert set(phases) == {"resolving", "pruning", "uploading"}
        assert all(phases.values())
        artifacts = session.scalars(select(Artifact)).all()
    assert {a.name for a in artifacts} == {"model.safetensors", "report.json", "manifest.json"}
    assert all(a.key.startswith(f"projects/prj_default/jobs/{job.id}/a1/") for a in artifacts)
    assert {stored.key for stored in bench.store.list("projects/")} == {a.key for a in artifacts}
    event_types = types(bench, job.id)
    assert event_types[0] == "job.started"
    assert event_types[-1] == "job.succeeded"
    assert event_types.count("job.layer_completed") == 5
    assert event_types.count("job.artifact_ready") == 3
    assert event_types.index("job.gate_evaluated") < event_types.index("job.artifact_ready")
    assert [event.seq for event in bench.events(job.id)] == list(range(1, len(event_types) + 1))
    assert list(bench.settings.scratch.iterdir()) == []


def test_a_child_killed_in_the_middle_is_followed_by_an_attempt_that_resumes(bench: Bench) -> None:
    undisturbed = bench.work(bench.add("steady"))
    killed = bench.work(bench.add("dies-once"), attempts=2)
    assert (killed.state, killed.attempt) == ("succeeded", 2)
    assert model(bench, killed.id) == model(bench, undisturbed.id)
    first, second = bench.attempts(killed.id)
    assert first.error is not None
    assert (first.outcome, first.error["class"]) == ("lost", "worker_lost")
    assert (second.outcome, second.resumed_from) == ("succeeded", {"phase": "pruning", "name": "block-00002"})
    event_types = types(bench, killed.id)
    assert event_types.count("job.layer_completed") == 5
    assert event_types.index("job.attempt_failed") < event_types.index("job.retry_scheduled")
    assert "job.failed" not in event_types


def test_a_damaged_checkpoint_and_all_after_it_are_computed_again(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    undisturbed = bench.work(bench.add("steady"))
    job = bench.work(bench.add("dies-once"))
    assert [checkpoint["name"] for checkpoint in job.checkpoints] == ["block-00000", "block-00001", "block-00002"]
    (bench.store.root / job.checkpoints[1]["key"]).write_bytes(b"damaged")
    assert WorkerLoop(bench.services).work_once()
    job = bench.job(job.id)
    assert job.state == "succeeded"
    assert model(bench, job.id) == model(bench, undisturbed.id)


def test_a_child_that_always_dies_uses_up_its_budget(bench: Bench) -> None:
    job = bench.work(bench.add("dies-always"), attempts=4)
    assert (job.state, job.attempt) == ("failed", 4)
    assert job.error is not None
    assert job.error["class"] == "worker_lost"
    assert types(bench, job.id)[-1] == "job.failed"
    assert types(bench, job.id).count("job.attempt_failed") == 4


def test_what_a_child_calls_a_failure_is_the_jobs_error(sqlite_bench: Bench) -> None:
    job = sqlite_bench.work(sqlite_bench.add("fails"))
    assert job.error == {
        "class": "numerical",
        "retryable": False,
        "phase": None,
        "module": None,
        "hint": "h",
        "message": "m",
        "attempt": 1,
    }
    assert job.state == "failed"


def test_a_transient_failure_is_tried_again_after_a_pause(sqlite_bench: Bench) -> None:
    job = sqlite_bench.work(sqlite_bench.add("fails-transient"), attempts=6)
    assert (job.state, job.attempt) == ("failed", 6)
    pauses = [e.data["delay_seconds"] for e in sqlite_bench.events(job.id) if e.type == "job.retry_scheduled"]
    assert len(pauses) == 5
    assert pauses[-1] > 4 * pauses[0]


def test_a_child_that_ends_without_a_word_is_a_fault_and_its_last_line_is_told(sqlite_bench: Bench) -> None:
    job = sqlite_bench.work(sqlite_bench.add("mute"))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["class"] == "internal"
    assert "the last words" in job.error["message"]


def test_what_is_no_message_becomes_a_log_line(sqlite_bench: Bench) -> None:
    job = sqlite_bench.work(sqlite_bench.add("babbles"))
    assert job.state == "succeeded"
    with sqlite_bench.database.reading() as session:
        assert any("no message at all" in line.text for line in session.scalars(select(LogLine)))


def test_a_child_that_names_a_file_outside_of_its_folder_gets_nothing_stored(sqlite_bench: Bench) -> None:
    job = sqlite_bench.work(sqlite_bench.add("walks"))
    assert job.state == "failed"
    assert list(sqlite_bench.store.list(f"projects/prj_default/jobs/{job.id}/a")) == []


@pytest.mark.parametrize("script", ["endless", "stubborn"])
def test_cancel_ends_the_child_and_the_job(bench: Bench, script: str) -> None:
    job_id = bench.add(script)
    with bench.worker_loop() as loop:
        loop.notify()
        bench.wait_for_event(job_id, "job.layer_completed")
        bench.set(job_id, state="cancelling")
        job = bench.wait(job_id, "cancelled")
    assert types(bench, job_id)[-1] == "job.cancelled"
    assert job.finished_at is not None
    assert bench.attempts(job_id)[0].outcome == "cancelled"
    assert children() == []


def test_a_drained_worker_gives_its_job_back_uncharged_with_what_is_done(bench: Bench) -> None:
    job_id = bench.add("endless")
    with bench.worker_loop():
        bench.wait_for_event(job_id, "job.checkpoint", count=3)
    job = bench.job(job_id)
    assert (job.state, job.failures, job.not_before, job.max_attempts) == ("queued", {}, None, 21)
    assert len(job.checkpoints) >= 3
    assert bench.attempts(job_id)[0].outcome == "released"
    assert children() == []


def test_a_zombie_with_an_old_fence_kills_its_child_and_writes_nothing(bench: Bench) -> None:
    job_id = bench.add("endless")
    with bench.worker_loop():
        bench.wait_for_event(job_id, "job.layer_completed")
        bench.set(job_id, fence=7)
        patience = Patience(60)
        while children():
            patience.pause(0.02)
        before = types(bench, job_id)
        time.sleep(0.7)
    assert types(bench, job_id) == before
    assert bench.job(job_id).state == "running"


def test_a_worker_that_an_operator_drains_gives_its_job_back_and_stays_without_work(bench: Bench) -> None:
    job_id = bench.add("endless")
    with bench.worker_loop() as loop:
        bench.wait_for_event(job_id, "job.checkpoint", count=2)
        with bench.database.unit_of_work() as session:
            _worker(session, loop).drain_requested_at = clock(session)
        bench.wait(job_id, "queued")
        loop.notify()
        time.sleep(0.5)
        assert bench.job(job_id).state == "queued"
        with bench.database.reading() as session:
            row = session.get_one(Worker, loop.identity.id)
            assert (row.job_id, row.device, bool(row.memory_bytes)) == (None, "cpu", True)
        assert bench.attempts(job_id)[0].outcome == "released"
        with bench.database.unit_of_work() as session:
            _worker(session, loop).drain_requested_at = None
        loop.notify()
        bench.wait(job_id, "running")


def _worker(session: Session, loop: WorkerLoop) -> Worker:
    worker = workers.lock(session, loop.identity.id)
    assert worker is not None
    return worker


def test_a_job_is_paused_with_what_is_done_and_resumed_behind_it(bench: Bench) -> None:
    job_id = bench.add("slow")
    with bench.worker_loop():
        bench.wait_for_event(job_id, "job.checkpoint", count=2)
        bench.set(job_id, state="pausing")
        paused = bench.wait(job_id, "paused")
        assert (paused.worker_id, paused.lease_until, paused.max_attempts) == (None, None, 21)
        assert len(paused.checkpoints) >= 2
        bench.set(job_id, state="queued")
        bench.wait(job_id, "succeeded")
    assert [attempt.outcome for attempt in bench.attempts(job_id)] == ["released", "succeeded"]
    assert bench.attempts(job_id)[1].resumed_from is not None
    stored = [event.data["name"] for event in bench.events(job_id) if event.type == "job.checkpoint"]
    assert len(stored) == len(set(stored)) == 30
