"""Workers, a reconciler and the faults that befall them, over any database, broker and store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
from sqlalchemy import func, select

from app.db.job import Attempt, Event, Job, Worker
from app.db.result import Artifact
from app.platform.loops import OUTAGE
from app.storage.base import ObjectStore
from espalier.parent_death import die_with_parent
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.runs import Bench
from workers.lease.retries import lost_worker

ROOT = Path(__file__).resolve().parents[2]
WORKER = "tests.chaos.worker"
LEASE_SECONDS = 10.0
"""Long enough for a machine that does other things too."""
STRIKES = 2
_T = TypeVar("_T")


class Arena:
    """One installation under fire; `faults` counts what was done to it."""

    def __init__(
        self, bench: Bench, *, seed: int, environment: dict[str, str], store: ObjectStore | None = None
    ) -> None:
        self.bench, self.random, self.environment = bench, random.Random(seed), environment
        self.shim: dict[str, str] = {}
        """Environment of a wrong clock (`clock_shim`), for workers that share a database with its own."""
        bench.store = store or bench.store  # type: ignore[assignment]
        self.around: list[str] = []
        """A command that runs the worker's: in a namespace of its own, say."""
        self.workers: list[subprocess.Popen[bytes]] = []
        self._stopped: set[int] = set()
        self.faults: Counter[str] = Counter()
        self._pending: list[threading.Thread] = []
        self.drained: list[int] = []
        """Exit statuses of workers that were asked to end."""

    def spawn(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one of our modules."""
        settings = self.bench.settings
        env = {
            **os.environ,
            "ESPALIER_HOME": str(settings.home),
            "ESPALIER_DATABASE_URL": self.bench.database.url,
            "ESPALIER_LEASE_SECONDS": str(LEASE_SECONDS),
            "ESPALIER_THREADS": "1",
            **self.environment,
            **environment,
        }
        command = [*self.around, sys.executable, "-m", module, *arguments]
        with (settings.home / "workers.log").open("ab") as log:
            # Leashed: they end with a test that is ended from outside, too.
            return subprocess.Popen(
                die_with_parent(command), cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )

    @contextmanager
    def open(self, workers: int) -> Iterator[None]:
        """Run workers and a reconciler; with a shim, their clocks are an hour fast, an hour slow, and right."""
        skews = ("3600", "-3600", "0")
        reconciler = self.spawn("workers.reconciler", **self.shim, SKEW_SECONDS="3600")
        self.workers = [self.spawn(WORKER, **self.shim, SKEW_SECONDS=skews[n % 3]) for n in range(workers)]
        try:
            yield
        finally:
            for thread in self._pending:
                thread.join()
            assert set(self.drained) <= {0}, "a drained worker ended badly"
            for process in [*self.workers, reconciler]:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def patiently(self, read: Callable[[], _T]) -> _T:
        """Ask again while the database is away."""
        while True:
            try:
                return read()
            except OUTAGE:
                time.sleep(0.2)

    def left(self) -> int:
        """How many jobs have not ended."""

        def count() -> int:
            with self.bench.database.reading() as session:
                ended = Job.state.in_(("succeeded", "failed", "cancelled", "expired"))
                return session.scalar(select(func.count()).select_from(Job).where(~ended)) or 0

        return self.patiently(count)

    def kill_child(self) -> None:
        """kill -9 of a child."""
        number = self._victim()
        for child in children_of(self.workers[number]) if number is not None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                self.faults["child killed"] += 1

    def strike_fetch(self) -> None:
        """kill -9 of a child that fetches, or of its worker, as soon as one is seen."""
        for _ in range(40):
            number = self._victim()
            fetchers = children_of(self.workers[number], "mixed_child fetch") if number is not None else []
            if number is not None and fetchers:
                if self.random.random() < 0.5:
                    self._replace(number, "worker killed while it fetched")
                    return
                with contextlib.suppress(psutil.NoSuchProcess):
                    fetchers[0].kill()
                    self.faults["fetcher killed"] += 1
                return
            time.sleep(0.05)

    def _victim(self) -> int | None:
        """The number of a worker that has begun to work: a fault needs something to interrupt.

        A job is not struck a third time before its next checkpoint: one more may come by itself, and then its budget
        for lost workers ends it, as it should.
        """

        def begun() -> dict[int, int]:
            query = select(Worker.pid, Job.failures).outerjoin(Job, Job.id == Worker.job_id)
            with self.bench.database.reading() as session:
                return {pid: (failures or {}).get("worker_lost", 0) for pid, failures in session.execute(query)}

        struck = self.patiently(begun)
        able = [
            n
            for n, worker in enumerate(self.workers)
            if worker.pid not in self._stopped and struck.get(worker.pid, STRIKES) < STRIKES
        ]
        return self.random.choice(able) if able else None

    def kill_worker(self) -> None:
        """kill -9 of a worker; another one takes its place."""
        if (number := self._victim()) is not None:
            self._replace(number, "worker killed")

    def _replace(self, number: int, fault: str) -> None:
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self.spawn(WORKER)
        self.faults[fault] += 1

    def stop_worker(self) -> None:
        """SIGSTOP of a worker until its lease has long passed: then it writes as a zombie."""
        if (number := self._victim()) is not None:
            worker = self.workers[number]
            self._stopped.add(worker.pid)
            worker.send_signal(signal.SIGSTOP)
            self.later(LEASE_SECONDS + 2.5, lambda: self._go_on(worker))
            self.faults["zombie"] += 1

    def _go_on(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGCONT)
        self._stopped.discard(worker.pid)

    def drain_worker(self) -> None:
        """SIGTERM of a worker, which must give its job back and end well; another one takes its place."""
        if (number := self._victim()) is not None:
            worker, self.workers[number] = self.workers[number], self.spawn(WORKER)
            worker.terminate()
            self.later(0, lambda: self.drained.append(worker.wait(90)))
            self.faults["worker drained"] += 1

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something beside what goes on; waited for at the end."""

        def run() -> None:
            time.sleep(seconds)
            do()

        thread = threading.Thread(target=run)
        thread.start()
        self._pending.append(thread)

    def rage(self, faults: list[Callable[[], None]], *, count: int, every: float, seconds: float) -> float:
        """Do one thing after the other, so many in all, until every job has ended; return how long it took."""
        began = time.monotonic()
        while self.left():
            assert time.monotonic() - began < seconds, f"{self.left()} jobs left after {dict(self.faults)}"
            time.sleep(every)
            if self.faults.total() < count:
                self.random.choice(faults)()
        return time.monotonic() - began

    def verdict(self, expected: dict[str, str], *, attempts: int | None = None) -> int:
        """Hold every job against what it must have left behind; `expected`: job -> sha256 of its model file.

        `attempts`: how many each was given; a machine that was lost must have been none of them.

        Returns how many attempts were lost on the way.
        """
        with self.bench.database.reading() as session:
            states = Counter(session.scalars(select(Job.state).where(Job.id.in_(expected))))
            ends = Counter(session.scalars(select(Event.job_id).where(Event.type == "job.succeeded")))
            wins = Counter(session.scalars(select(Attempt.job_id).where(Attempt.outcome == "succeeded")))
            rows = session.scalars(select(Artifact)).all()
            free = Counter(
                attempt.job_id
                for attempt in session.scalars(select(Attempt).where(Attempt.outcome.in_(("lost", "released"))))
                if not attempt.error or attempt.error["message"] == lost_worker(None).message
            )
            budgets = dict(session.execute(select(Job.id, Job.max_attempts).where(Job.id.in_(expected))).tuples().all())
            gaps = session.execute(
                select(Event.job_id, func.count(), func.max(Event.seq), func.min(Event.seq)).group_by(Event.job_id)
            ).all()
        assert states == {"succeeded": len(expected)}, states
        assert all(ends[job] == wins[job] == 1 for job in expected), "a job succeeded twice"
        if attempts is not None:
            assert budgets == {job: attempts + free[job] for job in expected}, "a lost machine was charged to a job"
        assert all(count == last and first == 1 for _, count, last, first in gaps), "a gap in the events"
        assert len(rows) == len({(row.job_id, row.name) for row in rows}), "an artifact twice"
        models = {row.job_id: row for row in rows if row.name == "model.safetensors"}
        for job, sha256 in expected.items():
            data = b"".join(self.bench.store.open(models[job].key))
            assert hashlib.sha256(data).hexdigest() == models[job].sha256 == sha256, "a corrupt artifact"
        with self.bench.database.reading() as session:
            return session.scalar(select(func.count()).select_from(Attempt).where(Attempt.outcome == "lost")) or 0


def children_of(worker: subprocess.Popen[bytes], words: str = "mixed_child") -> list[psutil.Process]:
    """The children of a worker that may end at any moment."""
    try:
        return running(words, below=worker.pid)
    except psutil.NoSuchProcess:
        return []
