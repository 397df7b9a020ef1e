"""What could keep a loop, a job or a disk busy for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from app.db.queries.queue import leases
from espalier.messages import ErrorInfo
from tests.fixtures.workers.runs import SCRIPTED, Bench
from workers.lease import retries
from workers.processes import groups, process, workspace
from workers.processes.process import Child
from workers.processes.workspace import remove_leftovers
from workers.supervisor import supervise


def test_a_slot_outlives_a_claim_that_breaks(sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, claim, broken = sqlite_bench, leases.claim, iter([True])

    def not_migrated(session: Session, *arguments: object, **options: object) -> object:
        if next(broken, False):
            raise ProgrammingError("SELECT", {}, Exception("relation jobs does not exist"))
        return claim(session, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(leases, "claim", not_migrated)
    job_id = bench.add()
    with bench.worker_loop():
        assert bench.wait(job_id, "succeeded").attempt == 1


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job_id = bench.add("leaves-a-grandchild")
    with bench.worker_loop():
        assert bench.wait(job_id, "succeeded").attempt == 1


def test_only_folders_of_ours_are_leftovers(tmp_path: Path) -> None:
    for name in ("job_01-a1", "run-a77", "notes", "job_01"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()
    assert remove_leftovers(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job_01", "job_01.lock", "notes", "notes.lock"]


HANGING = [
    ("spins", "cpu", None),
    ("spins", "cuda", "device_lost"),
    ("complains", "cuda", "device_lost"),
    ("plods", "cuda", None),
    ("plods", "cpu", None),
]
"""Script of the child, device, class of the error: to spin is to wait for a GPU, to complain is no step, to plod is."""


def impatient(bench: Bench, *, device: str = "cpu") -> Bench:
    """Let children stand still for a second, on a device that has answered."""
    settings = bench.settings.model_copy(update={"hang_seconds": 1.0, "device": device})
    bench.services = replace(bench.services, settings=settings, commands=replace(SCRIPTED, device=("true",)))
    return bench


def test_a_child_that_hangs_is_ended_and_followed(sqlite_bench: Bench) -> None:
    bench = impatient(sqlite_bench)
    job = bench.work(bench.add("hangs"))
    assert (job.state, job.failures) == ("queued", {"worker_lost": 1})
    error = bench.attempts(job.id)[0].error
    assert error is not None
    assert "made no step for 1 seconds" in error["message"]


@pytest.mark.parametrize(("script", "device", "class_"), HANGING)
def test_a_child_that_spins_hangs_on_a_gpu_and_computes_on_a_cpu(
    script: str, device: str, class_: str | None, sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "STILL_CPU_SECONDS", 0.05)
    bench = impatient(sqlite_bench, device=device)
    job = bench.work(bench.add(script))
    assert (job.state, job.failures) == (("queued", {class_: 1}) if class_ else ("succeeded", {}))


def test_a_request_that_this_version_cannot_read_fails_at_once(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job = bench.work(bench.add(request={"source": {"kind": "of another version"}, "spec": {}}))
    assert job.error is not None
    assert (job.state, job.error["class"]) == ("failed", "internal")


def test_attempts_are_bounded_whatever_ended_them(bench: Bench) -> None:
    job = bench.work(bench.add("dies-always", max_attempts=2), attempts=2)
    assert (job.state, job.attempt, job.failures) == ("failed", 2, {"worker_lost": 2})


def test_a_job_that_loses_every_device_fails_after_five_more(sqlite_bench: Bench) -> None:
    job = sqlite_bench.work(sqlite_bench.add("loses-its-device"), attempts=6)
    assert job.error is not None
    assert (job.state, job.error["class"], job.failures) == ("failed", "device_lost", {"device_lost": 6})


def test_a_job_that_fills_the_scratch_folder_beyond_its_cap_is_ended(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "CHECK_SECONDS", 0.0)
    bench = sqlite_bench
    settings = bench.settings.model_copy(update={"scratch_max_bytes": 100})  # three blocks of 32 bytes
    bench.services = replace(bench.services, settings=settings)
    job = bench.work(bench.add("slow"))
    assert (job.state, job.failures) == ("queued", {"disk_full": 1})
    assert list(settings.scratch.iterdir()) == []


def test_an_error_that_the_database_cannot_hold_is_told_without_that_character(bench: Bench) -> None:
    job = bench.work(bench.add("fails-with-nul"))
    assert job.error is not None
    assert (job.state, job.error["message"]) == ("failed", "a name with a  in it")


def test_kills_for_memory_are_counted_in_our_own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, whole = tmp_path / "memory.events", tmp_path / "vmstat"
    own.write_text("oom 5\noom_kill 2\noom_group_kill 0\n")
    whole.write_text("oom_kill 7\n")
    monkeypatch.setattr(groups, "counters", lambda: iter([tmp_path / "absent", own, whole]))
    assert groups.oom_kills() == 2
    own.unlink()
    assert groups.oom_kills() == 7


def test_a_child_that_the_kernel_keeps_is_reported_and_not_waited_for(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = impatient(sqlite_bench)
    monkeypatch.setattr(process, "KILL_SECONDS", 0.05)
    kept: set[Child] = set()
    with monkeypatch.context() as kernel:
        kernel.setattr(Child, "signal", lambda child, _number: kept.add(child))
        job = bench.work(bench.add("hangs"))
    assert (job.state, job.failures) == ("queued", {"device_lost": 1})
    for child in kept:
        child.close()


@pytest.mark.parametrize(("retryable", "allowed"), [(True, 3), (False, 0)])
def test_memory_that_a_limit_does_not_give_is_not_asked_for_again(retryable: bool, allowed: int) -> None:
    error = ErrorInfo(class_="host_oom", retryable=retryable, hint="h", message="m")
    assert retries.budget(error) == allowed
