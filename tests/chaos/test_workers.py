"""Workers killed, stopped, drained, and run by wrong clocks: what the lease promises, measured.

ESPALIER_CHAOS_ROUNDS says how often each blow falls.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from app.db.job import Worker
from tests.chaos.arena import LEASE_SECONDS, Arena, children_of
from tests.fixtures.suite.figures import record
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench

ROUNDS = int(os.environ.get("ESPALIER_CHAOS_ROUNDS", "3"))
SEED = 20261124

pytestmark = pytest.mark.timeout(1200)


def holder(arena: Arena, job_id: str) -> subprocess.Popen[bytes]:
    """The worker that holds a job."""
    worker_id = arena.bench.job(job_id).worker_id
    with arena.bench.database.reading() as session:
        pid = session.scalars(select(Worker.pid).where(Worker.id == worker_id)).one()
    return next(worker for worker in arena.workers if worker.pid == pid)


def _lives(process: psutil.Process) -> bool:
    """Tell a process that runs from one that is dead and waits for the init process to notice."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_a_job_moves_to_another_worker_within_its_lease(sqlite_url: str, tmp_path: Path, blow: signal.Signals) -> None:
    bench = Bench(sqlite_url, tmp_path)
    arena = Arena(bench, seed=SEED, environment={})
    waits, refused, expected = [], 0, {}
    with arena.open(2):
        for _ in range(ROUNDS):
            job_id = bench.add("slow")
            expected[job_id] = model(30)
            bench.wait_for_event(job_id, "job.checkpoint", count=2, seconds=60)
            victim = holder(arena, job_id)
            children = children_of(victim)
            struck = time.monotonic()
            victim.send_signal(blow)
            if blow == signal.SIGKILL:
                _, alive = psutil.wait_procs(children, timeout=2)
                assert not alive, "an orphan child"
                victim.wait()
                arena.workers[arena.workers.index(victim)] = arena.spawn("tests.chaos.worker")
            bench.wait_for_event(job_id, "job.started", count=2, seconds=LEASE_SECONDS + 30)
            waits.append(time.monotonic() - struck)
            if blow == signal.SIGSTOP:
                victim.send_signal(signal.SIGCONT)
                refused += _refused(tmp_path / "workers.log", job_id)
                psutil.wait_procs(children, timeout=10)
                assert not [child for child in children if child.is_running()], "a zombie's child"
            assert bench.wait(job_id, "succeeded", seconds=90).attempt >= 2
    arena.verdict(expected)
    what = "kill -9" if blow == signal.SIGKILL else "SIGSTOP, SIGCONT after another has the job"
    writes = f", {refused} zombies refused" if refused else ""
    record(
        "fault",
        f"{what} of the worker, lease {LEASE_SECONDS:.0f} s",
        "recovered <= lease + 5 s, no orphan child",
        f"{ROUNDS} of {ROUNDS} recovered, the slowest after {max(waits):.1f} s{writes}; no orphan, equal bytes",
    )
    assert max(waits) < LEASE_SECONDS + 5
    assert blow == signal.SIGKILL or refused == ROUNDS
    bench.database.dispose()


def _refused(log: Path, job_id: str) -> int:
    """Wait until the zombie has found that the job is not its own any more: 1."""
    deadline = time.monotonic() + 20
    while not any("without a word" in line and job_id in line for line in log.read_text().splitlines()):
        assert time.monotonic() < deadline, "the zombie went on"
        time.sleep(0.05)
    return 1


def test_sigterm_drains_within_seconds_and_charges_nothing(sqlite_url: str, tmp_path: Path) -> None:
    bench = Bench(sqlite_url, tmp_path)
    arena = Arena(bench, seed=SEED, environment={})
    job_id, seconds = bench.add("slow", max_attempts=1), []
    with arena.open(1):
        for number in range(ROUNDS):
            bench.wait_for_event(job_id, "job.started", count=number + 1, seconds=60)
            bench.wait_for_event(job_id, "job.checkpoint", count=number + 1, seconds=60)
            asked = time.monotonic()
            arena.workers[0].terminate()
            assert arena.workers[0].wait(30) == 0
            seconds.append(time.monotonic() - asked)
            arena.workers[0] = arena.spawn("tests.chaos.worker")
        job = bench.wait(job_id, "succeeded", seconds=120)
    outcomes = [attempt.outcome for attempt in bench.attempts(job_id)]
    assert outcomes == ["released"] * ROUNDS + ["succeeded"]
    assert job.failures == {}
    names = [event.data["name"] for event in bench.events(job_id) if event.type == "job.checkpoint"]
    assert len(names) == len(set(names)) == 30, "a stored block was made again"
    arena.verdict({job_id: model(30)})
    record(
        "fault",
        "SIGTERM of a worker within a job",
        "drained, exit 0, no attempt charged",
        f"{ROUNDS} of {ROUNDS} drained, the slowest in {max(seconds):.1f} s; no stored block made again, equal bytes",
    )
    bench.database.dispose()


def test_clocks_that_are_an_hour_off_end_no_lease(
    postgres_url: str, clock_shim: dict[str, str], tmp_path: Path
) -> None:
    bench = Bench(postgres_url, tmp_path)
    arena = Arena(bench, seed=SEED, environment={})
    arena.shim = clock_shim
    expected = {bench.add("slow"): model(30) for _ in range(4)}
    with arena.open(2):  # one an hour fast, one an hour slow; the reconciler is fast
        time.sleep(2 * LEASE_SECONDS)
        arena.kill_worker()
        arena.rage([], count=0, every=0.2, seconds=120)
    lost = arena.verdict(expected)
    assert arena.faults["worker killed"] == 1 <= lost <= 2, "only the killed worker's job was taken from anybody"
    times = [event.time for job_id in expected for event in bench.events(job_id)]
    assert (max(times) - min(times)).total_seconds() < 300, "an event bears the time of a worker"
    record(
        "fault",
        "clocks of workers and reconciler an hour fast and slow, Postgres",
        "0 lost",
        f"{len(expected)} of {len(expected)} succeeded; one worker killed, {lost} attempts lost",
    )
    bench.database.dispose()
