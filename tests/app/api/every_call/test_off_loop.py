"""A database that hangs holds up who asked it, and nobody else: nothing in the event loop ever talks to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.db.session import Database, clock
from app.errors import NotFound
from app.main import AT_ONCE
from app.platform.actor import DEFAULT_PROJECT
from app.services.admission import admit, source_cache
from app.services.readiness import Readiness
from app.services.resources import Resources
from espalier.errors import Problem
from espalier.probe import check, probe
from tests.app.api import stalls
from tests.app.api.tenants import bearer, new_key, new_project, one_of_each
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.requests import REMOTE

SPEC = {"prune": {"method": "magnitude", "sparsity": 0.5}}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Where a statement is made does not depend on the database."""
    return sqlite_url


@pytest.fixture
def in_the_loop(rows: Database) -> Iterator[list[str]]:
    """Statements that were made in the event loop."""
    blocking: list[str] = []

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        blocking.append(statement)

    event.listen(rows.engine, "before_cursor_execute", before)
    yield blocking
    event.remove(rows.engine, "before_cursor_execute", before)


def test_no_route_asks_the_database_in_the_event_loop(
    client: TestClient, resources: Resources, in_the_loop: list[str]
) -> None:
    things = one_of_each(client, resources)
    key = bearer(new_key(client)["key"])
    upload = {"kind": "upload", "upload_id": things["uploads"]}
    bodies: dict[tuple[str, str], dict[str, Any]] = {
        ("POST", "/v1/uploads/{upload_id}/parts"): {"file": "a.txt", "number": 1, "sha256": "0" * 64},
        ("PATCH", "/v1/hook-sources/{source_id}"): {"name": "n"},
    }
    for method, path in stalls.served():
        address = stalls.address(path, things if method != "DELETE" else {})
        body = bodies.get((method, path), {}) if method in {"POST", "PUT", "PATCH"} else None
        client.request(method, address, json=body, headers=key | {"X-Content-SHA256": "0" * 64})
        assert not in_the_loop, (method, path)
    for spec in (
        SPEC,
        {"preset": "house"},
        {"preset": "house@1"},
        {"preset": "nobodys"},
        {"preset": "fast"},
        {**SPEC, "calibration": {"dataset": upload}},
    ):
        for path in ("/v1/jobs", "/v1/plans"):
            client.post(path, json={**REMOTE, "spec": spec}, headers=key)
        axes = {"/spec/preset": ["house", "fast"]}
        client.post("/v1/sweeps", json={"base": {**REMOTE, "spec": spec}, "axes": axes}, headers=key)
        assert not in_the_loop, spec


def test_a_known_model_is_held_against_a_spec_before_the_transaction(
    client: TestClient, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"kind": "huggingface", "repo": "org/model", "revision": "0" * 40}
    key = source_cache.source_key(source)
    assert key
    with resources.database.unit_of_work() as session:
        document = {"revision": "0" * 40, "facts": probe(DEMO_MODEL).model_dump(mode="json")}
        source_cache.remember(session, DEFAULT_PROJECT, {key: document}, now=clock(session))
    where: list[str] = []

    def noting(*arguments: Any) -> list[Problem]:
        where.append(threading.current_thread().name)
        return check(*arguments)

    monkeypatch.setattr(admit, "check", noting)
    bad = {"prune": {"method": "magnitude", "sparsity": 0.5, "targets": {"include": ["no such name"]}}}
    for path, spec, status in (
        ("/v1/jobs", SPEC, 202),
        ("/v1/jobs", bad, 422),
        ("/v1/plans", SPEC, 201),
        ("/v1/plans", bad, 422),
    ):
        assert client.post(path, json={"source": source, "spec": spec}).status_code == status
    assert len(where) == 4
    assert all(name.startswith("AnyIO worker") for name in where)


def test_a_store_of_parts_is_written_off_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, resources: Resources
) -> None:
    where: list[str] = []
    plain = Path.open

    def noting(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "part":
            where.append(threading.current_thread().name)
        return plain(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", noting)
    things = one_of_each(client, resources)
    address = f"/v1/uploads/{things['uploads']}/files/a.txt/parts/1"
    client.put(address, content=b"x", headers={"X-Content-SHA256": "0" * 64})
    assert where
    assert "asyncio" not in where[0]
    assert where[0].startswith("AnyIO worker")


@pytest.fixture
def readiness(client: TestClient) -> Readiness:
    checks: Readiness = client.app.state.readiness  # type: ignore[attr-defined]
    return checks


def test_what_tells_that_the_process_lives_waits_for_nothing(
    client: TestClient, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setitem(readiness.checks, "store", lambda: hang.wait(60))
    monkeypatch.setattr("app.services.readiness.PATIENCE_SECONDS", 0.2)
    answer = client.get("/readyz")
    assert (answer.status_code, [item["code"] for item in answer.json()["errors"]]) == (503, ["store"])
    assert client.get("/healthz").status_code == 200
    assert not hang.is_set()
    hang.set()


def test_readiness_is_asked_once_a_second(
    client: TestClient, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setitem(readiness.checks, "store", lambda: asked.append(time.monotonic()))
    monkeypatch.setattr("app.services.readiness.FRESH_SECONDS", 3600)
    assert {client.get("/readyz").status_code for _ in range(20)} == {200}
    assert len(asked) == 1


def test_a_project_that_fills_every_thread_holds_no_other_up(
    client: TestClient, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the API nor by the portal: with all forty threads taken, nobody else was answered."""
    keys = [bearer(new_key(client, new_project(client))["key"]) for _ in range(2)]
    inside, over = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> Any:
        inside.release()
        over.wait(60)
        raise NotFound

    monkeypatch.setattr("app.services.workers.queues", slow)
    with ThreadPoolExecutor(61) as pool:
        calls = [pool.submit(client.get, "/v1/queues", headers=keys[0]) for _ in range(50)]
        calls += [pool.submit(client.get, "/portal/workers") for _ in range(10)]
        try:
            assert all(inside.acquire(timeout=30) for _ in range(2 * AT_ONCE))
            other = pool.submit(client.get, "/v1/usage", headers=keys[1])
            assert other.result(20).status_code == 200
            assert not inside.acquire(timeout=0.05), "more than its share"
        finally:
            over.set()
        assert {call.result(60).status_code for call in calls} == {404}


def test_the_looks_at_uploads_of_a_project_take_few_threads(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, highest, lock = 0, 0, threading.Lock()

    def slow(*_: Any) -> Any:
        nonlocal at_once, highest
        with lock:
            at_once += 1
            highest = max(highest, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        raise NotFound

    monkeypatch.setattr("app.services.uploads.complete", slow)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: client.post("/v1/uploads/upl_1/complete"), range(12)))
    assert highest == 2
