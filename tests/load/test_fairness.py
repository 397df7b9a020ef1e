"""A second tenant beside a thousand items of the first: its post, webhook, look-up and claim, and the same alone."""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete

from app.db.job import Job
from app.db.session import Database
from app.platform import outbound
from app.platform.fairness import ProjectThreads
from app.settings import Settings
from tests.fixtures.service.rows import queued_webhook
from tests.fixtures.suite.figures import load, record
from tests.fixtures.workers.claims import claim, queue, worker
from tests.fixtures.workers.runs import Bench
from tests.load.stack import BODY, Stack
from workers.background.deliver import Dispatcher

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]

MANY, TRIES = 1000, 7
CLIENTS = 64
"""Connections of the first tenant, each of which posts again as soon as it is answered."""
FLOOR_SECONDS = sys.getswitchinterval()
"""Five milliseconds, for which a thread may wait for another one of its process: what is shorter tells nothing."""


def _ratio(alone: Callable[[], float], beside: Callable[[], float]) -> tuple[float, float, float]:
    first, second = (statistics.median(measure() for _ in range(TRIES)) for measure in (alone, beside))
    return first, second, _times(first, second)


def _times(alone: float, beside: float) -> float:
    return max(beside, FLOOR_SECONDS) / max(alone, FLOOR_SECONDS)


def _post(stack: Stack) -> tuple[float, float, int]:
    """Seconds of a POST of a project alone, and beside as many clients of another as have its thousand on their way.

    Also how many of the other's were taken meanwhile.
    """
    with stack.api(processes=1) as url, httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(1) as crowd:
        keys = []
        for name in ("many", "few"):
            project = http.post("/v1/projects", json={"name": name}).raise_for_status().json()["id"]
            wanted = {"name": name, "project_id": project, "scopes": ["jobs:write", "models:write"]}
            keys.append(http.post("/v1/api-keys", json=wanted).raise_for_status().json()["key"])
        http.headers.update({"Authorization": f"Bearer {keys[1]}", "Content-Type": "application/json"})

        def one() -> float:
            began = time.monotonic()
            http.post("/v1/jobs", content=BODY).raise_for_status()
            return time.monotonic() - began

        stack.clients(url, "/v1/jobs", clients=4, seconds=1, key=keys[0])  # warm
        alone = [one() for _ in range(50)]
        others = crowd.submit(stack.clients, url, "/v1/jobs", clients=CLIENTS, seconds=8, key=keys[0])
        time.sleep(2)
        beside: list[float] = []
        while not others.done() and len(beside) < 50:
            beside.append(one())
        taken = others.result()["statuses"]["202"]
    return statistics.median(alone), statistics.median(beside), taken


def _look_up(many: int) -> float:
    """Seconds of one look-up beside those of another project, each of which takes a tenth of a second."""

    async def scene() -> float:
        rooms = ProjectThreads(16, per_project=4, waiting=MANY)
        others = [asyncio.create_task(rooms.run("prj_many", lambda: time.sleep(0.1))) for _ in range(many)]
        await asyncio.sleep(0)
        began = time.monotonic()
        await rooms.run("prj_few", lambda: time.sleep(0.1))
        seconds = time.monotonic() - began
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return seconds

    return asyncio.run(scene())


def _webhook(database: Database, settings: Settings, many: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds until one webhook arrives beside those of another project's endpoints, each of which takes a second."""
    arrived = threading.Event()

    def post(target: outbound.Destination, *_: object, **__: object) -> outbound.Answer:
        if "few" in target.host:
            arrived.set()
        else:
            time.sleep(1)
        return outbound.Answer(204, None, "")

    monkeypatch.setattr(outbound, "post", post)
    with database.unit_of_work() as session:
        for _ in range(many):
            queued_webhook(session, settings, "prj-many")
    dispatcher, stop = Dispatcher(database, settings), threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()
    time.sleep(1 if many else 0)
    with database.unit_of_work() as session:
        queued_webhook(session, settings, "prj-few")
    began = time.monotonic()
    assert arrived.wait(120)
    seconds = time.monotonic() - began
    stop.set()
    thread.join()
    dispatcher.close()
    return seconds


def _claim(bench: Bench, many: int) -> float:
    """Seconds until a worker holds the one job of a project."""
    with bench.database.unit_of_work() as session:
        session.execute(delete(Job))
    if many:
        queue(bench, "prj_many", many)
        claim(bench, worker("wrk_other"))
    (job,) = queue(bench, "prj_few", 1)
    began = time.monotonic()
    assert claim(bench, worker("wrk_a")) == job
    return time.monotonic() - began


def test_a_second_tenant_waits_no_longer_than_three_times_beside_a_thousand_items_of_the_first(
    stack: Stack, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(postgres_url, tmp_path)
    alone, beside, taken = _post(stack)
    ratios = {
        "POST": (alone, beside, _times(alone, beside)),
        "look-up": _ratio(lambda: _look_up(0), lambda: _look_up(MANY)),
        "claim": _ratio(lambda: _claim(bench, 0), lambda: _claim(bench, MANY)),
        "webhook": _ratio(
            lambda: _webhook(bench.database, bench.settings, 0, monkeypatch),
            lambda: _webhook(bench.database, bench.settings, MANY // TRIES, monkeypatch),
        ),
    }
    bench.database.dispose()
    summary = "; ".join(f"{name} {a * 1e3:.1f} -> {b * 1e3:.1f} ms ({r:.1f} x)" for name, (a, b, r) in ratios.items())
    record(
        "load",
        f"one item of a tenant beside {MANY:,} of another (POST, look-up, claim, webhook; medians)",
        "<= 3 x alone (5 ms where that is less)",
        f"{summary}; POSTs over HTTP to one process beside {CLIENTS} connections that post again and again, "
        f"{taken:,} taken; {load()}",
    )
    assert taken >= MANY
    assert max(ratio for _, _, ratio in ratios.values()) <= 3, summary
