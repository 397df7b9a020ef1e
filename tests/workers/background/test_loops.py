"""Whatever a round raises, its loop lives."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from app.db.commits import GroupCommit
from app.platform import loops
from app.queue import WorkNotifier
from app.settings import Settings
from tests.fixtures.workers.runs import Bench
from tests.workers.background.faults import FAULTS
from workers import host
from workers import reconciler as reconcilers
from workers.background.deliver import Dispatcher
from workers.background.hooks import Evaluator
from workers.background.reconcile import Reconciler
from workers.background.registries import RegistrySweep
from workers.lease.holder import LeaseHolder
from workers.processes.device import Device
from workers.processes.parts import ServiceProcess
from workers.processes.process import Commands
from workers.service import Service
from workers.supervisor.publishing import Publisher
from workers.supervisor.worker_loop import WorkerLoop

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [path for folder in ("app", "workers") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the log of every fault from being drawn: that takes longer than the tests."""
    with capture_logs():
        yield


class Now(threading.Event):
    """An event for which nobody waits long."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(0)


def breaking(stop: Callable[[], None]) -> Callable[..., Any]:
    """Raise every fault in turn, then stop."""
    left = iter(FAULTS)

    def work(*_: object, **__: object) -> None:
        fault = next(left, None)
        if fault is None:
            stop()
            return
        raise fault

    return work


def _plain(kind: type, attribute: str, **fields: Any) -> Callable[[], None]:
    """Run a loop whose work breaks, and whose object is otherwise empty."""
    made: Any = object.__new__(kind)
    stop = Now()
    vars(made).update({"_settings": Settings(publishers=1), "_pool": _Pool(), **fields})
    setattr(made, attribute, breaking(stop.set))
    return lambda: made.run(stop)


class _Pool:
    def shutdown(self, **_: object) -> None: ...


def _holder() -> None:
    made, stop = object.__new__(LeaseHolder), Now()
    made._go_round(breaking(stop.set), 0.001, stop)


def _worker_loop() -> None:
    made = object.__new__(WorkerLoop)
    made._ending, made._wake_up = Now(), Now()
    made.work_once = breaking(made._ending.set)  # type: ignore[method-assign]
    vars(made)["_services"] = type("S", (), {"settings": Settings()})
    made.device = Device(Settings(), Commands())
    made.run()


def _service() -> None:
    made = object.__new__(Service)
    made._stop = Now()
    made._watch = breaking(made._stop.set)  # type: ignore[method-assign]
    made.parts = []
    made.run()


def _host() -> None:
    stop = Now()
    part = ServiceProcess("worker", ["true"])
    part.watch = breaking(stop.set)  # type: ignore[method-assign]
    host.keep([part], {}, stop)


def _commits() -> None:
    made, over = object.__new__(GroupCommit), Now()
    made._next = breaking(over.set)  # type: ignore[method-assign]
    made._run(over)


def _notifier() -> None:
    made = object.__new__(WorkNotifier)
    made._over = Now()
    made._notify_next = breaking(made._over.set)  # type: ignore[method-assign]
    made._run()


def _lead() -> None:
    stop = Now()
    broken = type("R", (), {"sweep": staticmethod(breaking(stop.set))})
    reconcilers.reconcile(
        cast(Reconciler, broken), cast(Any, type("L", (), {"held": staticmethod(lambda: True)})), stop
    )


LOOPS: dict[str, Callable[[], None]] = {
    "app/db/commits.py": _commits,
    "app/queue.py": _notifier,
    "workers/reconciler.py": _lead,
    "workers/background/deliver.py": _plain(Dispatcher, "dispatch"),
    "workers/background/hooks.py": _plain(Evaluator, "work_once"),
    "workers/lease/holder.py": _holder,
    "workers/supervisor/publishing.py": _plain(Publisher, "work_once"),
    "workers/background/registries.py": _plain(RegistrySweep, "poll_once", _polled={"mlflow": None}),
    "workers/supervisor/worker_loop.py": _worker_loop,
    "workers/service.py": _service,
    "workers/host.py": _host,
}


def test_every_loop_is_run_by_the_one_helper() -> None:
    """A loop that ends with an event is written nowhere else, and all that use the helper are tried below."""
    by_hand, by_helper = [], set()
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            condition = ast.unparse(node.test) if isinstance(node, ast.While) else ""
            if "is_set()" in condition or ".wait(" in condition:
                by_hand.append(name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "loops.run":
                by_helper.add(name)
    # The others wait for a device's first answer, and read a pipe until its child has closed it.
    assert sorted(by_hand) == ["app/platform/loops.py", "workers/processes/device.py", "workers/processes/pipe.py"]
    assert by_helper == set(LOOPS)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_outlives_whatever_its_work_raises(name: str) -> None:
    thread = threading.Thread(target=LOOPS[name], daemon=True)
    thread.start()
    thread.join(60)  # it ends because it was told to, after all faults
    assert not thread.is_alive()


def test_a_request_to_end_the_process_ends_a_loop() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loops.run("test", threading.Event(), interrupted, idle_seconds=0)


def test_a_loop_that_breaks_again_and_again_waits_longer() -> None:
    waits: list[float] = []
    stop = threading.Event()
    work = breaking(stop.set)
    loops.run("test", stop, work, idle_seconds=0.5, pause=waits.append)
    assert waits[:5] == [1, 2, 4, 5, 5]


def test_threads_run_side_by_side_until_one_event_stops_them_all() -> None:
    stop, begun = threading.Event(), threading.Barrier(3, timeout=10)
    names: list[str] = []

    def work(stop: threading.Event) -> None:
        names.append(threading.current_thread().name)
        begun.wait()
        stop.wait(10)

    threads = loops.Threads(stop, {"one": work, "two": work}).start()
    begun.wait()
    threads.join(0.01)
    assert threading.active_count() > 2
    stop.set()
    threads.join()
    assert sorted(names) == ["one", "two"]


THREADS_OF_THEIR_OWN = {
    "app/db/commits.py": "each ends for itself, when nothing waits any more",
    "app/platform/loops.py": "the helper",
    "app/queue.py": "one, which a signal that is none ends",
    "workers/child.py": "one, which has nothing to end",
    "workers/main.py": "the loop, which ends when it is drained",
    "workers/processes/pipe.py": "the ends of pipes, which end with the child",
    "workers/processes/process.py": "the request, which ends when it is written",
}


def test_threads_are_started_by_the_one_helper() -> None:
    """Each of them with its reason."""
    starting = {str(path.relative_to(ROOT)) for path in SOURCES if "threading.Thread(" in path.read_text()}
    assert starting == set(THREADS_OF_THEIR_OWN)


def _overflows(_session: Session, _now: datetime) -> None:
    raise OverflowError


def test_a_caller_that_has_gone_does_not_end_the_thread_that_commits_for_all(sqlite_bench: Bench) -> None:
    commits = GroupCommit(sqlite_bench.database)
    held, go = threading.Event(), threading.Event()

    def hold(_session: Session, _now: datetime) -> bool:
        held.set()
        return go.wait(10)

    first = commits.put(hold)
    held.wait(10)
    gone = commits.put(lambda _session, _now: 1)
    assert gone.cancel()
    broken = commits.put(_overflows)
    go.set()
    assert first.result(10)
    with pytest.raises(OverflowError):
        broken.result(10)
    assert commits.put(lambda _session, _now: 2).result(10) == 2
    commits.close()
