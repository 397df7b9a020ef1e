"""Real worker and reconciler processes, over a folder and over Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis import Redis
from sqlalchemy import select

from app.db.job import Job, Worker
from app.queue import WorkNotifier, make_celery
from tests.fixtures.suite.patience import Patience, outlive
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.runs import Bench

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["folder", "redis"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """A broker of each kind."""
    return "" if request.param == "folder" else str(request.getfixturevalue("redis_url"))


def environment(bench: Bench, broker_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "ESPALIER_HOME": str(bench.settings.home),
        "ESPALIER_DATABASE_URL": bench.database.url,
        "ESPALIER_BROKER_URL": broker_url,
        "ESPALIER_LEASE_SECONDS": "5",
        "ESPALIER_THREADS": "1",
    }


@contextmanager
def process(bench: Bench, module: str, broker_url: str = "", *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", module, *flags]
    started = subprocess.Popen(command, cwd=ROOT, env=environment(bench, broker_url), start_new_session=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has said what it does at a signal: before that, it just dies."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def scripted(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return running("scripted_child", below=worker.pid)


WORKER, RECONCILER = "tests.fixtures.workers.scripted_worker", "workers.reconciler"


def wait_until_idle(bench: Bench, job: Job) -> None:
    """Wait until the worker of an ended job has looked again and found nothing."""
    while True:
        with bench.database.reading() as session:
            (worker,) = session.scalars(select(Worker))
        assert job.finished_at is not None
        if worker.job_id is None and worker.seen_at > job.finished_at:
            return
        time.sleep(0.02)


def test_a_bell_wakes_a_worker_that_never_looks_by_itself(sqlite_bench: Bench, broker_url: str) -> None:
    bench = sqlite_bench
    settings = bench.settings.model_copy(update={"broker_url": broker_url})
    notifier = WorkNotifier(make_celery(settings))
    with process(bench, WORKER, broker_url, "--never-looks"):
        job = bench.wait(bench.add(), "succeeded")
        for _ in range(3):
            wait_until_idle(bench, job)
            job_id, patience = bench.add(), Patience(60)
            while (job := bench.job(job_id)).state != "succeeded":
                notifier.notify("default")  # again: a broker on a crowded machine may not take the first one in time
                patience.pause(0.5, job.state)
    notifier.close()


def test_a_worker_without_a_broker_works_on(sqlite_bench: Bench) -> None:
    with process(sqlite_bench, WORKER, "redis://127.0.0.1:1/0"):
        sqlite_bench.wait(sqlite_bench.add(), "succeeded")


def test_jobs_whose_bells_were_flushed_all_succeed(sqlite_bench: Bench, redis_url: str) -> None:
    bench = sqlite_bench
    notifier = WorkNotifier(make_celery(bench.settings.model_copy(update={"broker_url": redis_url})))
    jobs = [bench.add() for _ in range(10)]
    for _ in jobs:
        notifier.notify("default")
    notifier.close(5)
    client = Redis.from_url(redis_url)
    assert client.llen("jobs-default") == 10
    client.flushall()
    client.close()
    with process(bench, WORKER, redis_url):
        for job in jobs:
            bench.wait(job, "succeeded")


@pytest.mark.parametrize("blow", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.deep)])
def test_a_job_outlives_its_worker(bench: Bench, blow: signal.Signals) -> None:
    job_id = bench.add("slow")
    with process(bench, RECONCILER), process(bench, WORKER) as worker:
        bench.wait_for_event(job_id, "job.checkpoint", count=3)
        (child,) = scripted(worker)
        worker.send_signal(blow)
        if blow == signal.SIGKILL:
            assert outlive([child]) == []
        with process(bench, WORKER):
            bench.wait_for_event(job_id, "job.started", count=2)
            worker.send_signal(signal.SIGCONT)
            job = bench.wait(job_id, "succeeded")
    assert job.attempt == 2
    lost, resumed = bench.attempts(job_id)
    assert lost.outcome == "lost"
    assert resumed.resumed_from is not None
    types = [event.type for event in bench.events(job_id)]
    assert types.count("job.succeeded") == 1
    assert types.count("job.layer_completed") == 30


def test_sigterm_drains_a_worker_in_the_middle_of_a_job(sqlite_bench: Bench, broker_url: str) -> None:
    bench = sqlite_bench
    job_id = bench.add("endless")
    with process(bench, WORKER, broker_url) as worker:
        bench.wait_for_event(job_id, "job.checkpoint")
        worker.terminate()
        assert worker.wait(60) == 0
    job = bench.job(job_id)
    assert (job.state, job.failures) == ("queued", {})
    assert bench.attempts(job_id)[0].outcome == "released"


def test_sigterm_ends_a_reconciler_cleanly(sqlite_bench: Bench) -> None:
    with process(sqlite_bench, RECONCILER) as reconciler:
        while not handles(reconciler.pid, signal.SIGTERM):
            assert reconciler.poll() is None
            time.sleep(0.05)
        reconciler.terminate()
        assert reconciler.wait(60) == 0


def test_a_worker_asked_for_one_job_does_one_and_leaves(sqlite_bench: Bench) -> None:
    # Its children are the real ones, so the job fails at its source: what counts is that it was worked on.
    first, second = sqlite_bench.add(), sqlite_bench.add()
    done = subprocess.run(
        [sys.executable, "-m", "workers.main", "--once"],
        cwd=ROOT,
        env=environment(sqlite_bench, ""),
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr.count("the memory of children is bounded by ") == 1
    assert sqlite_bench.job(first).attempt == 1
    assert sqlite_bench.job(second).state == "queued"
