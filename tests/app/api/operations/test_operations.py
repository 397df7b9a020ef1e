"""Queues, workers, and how one is drained."""

from __future__ import annotations

from datetime import timedelta

from fastapi.testclient import TestClient

from app.db.job import Job, Worker
from app.db.queries.queue import leases
from app.db.session import Database, clock
from app.platform.actor import DEFAULT_PROJECT
from tests.app.api.tenants import bearer, new_key, new_project
from tests.fixtures.service.requests import submit
from tests.fixtures.workers.claims import worker


def claim(rows: Database, name: str) -> str | None:
    with rows.unit_of_work() as session:
        leases.register(session, worker(name))
        job = leases.claim(session, worker(name), lease_seconds=60)
        return job.id if job else None


def test_queues_tell_depth_age_and_workers_of_every_class(client: TestClient, rows: Database) -> None:
    jobs = [submit(client) for _ in range(4)]
    with rows.unit_of_work() as session:
        now = clock(session)
        session.get_one(Job, jobs[1]).not_before = now + timedelta(seconds=60)
        session.get_one(Job, jobs[2]).queued_at = now - timedelta(seconds=100)
        session.get_one(Job, jobs[3]).worker_class = "gpu"
    assert claim(rows, "wrk_1") == jobs[0]
    default, gpu = client.get("/v1/queues").json()["items"]
    assert 100 <= default.pop("oldest_age_seconds") < 110
    assert default == {"worker_class": "default", "depth": 1, "delayed": 1, "running": 1, "workers": 1}
    assert (gpu["worker_class"], gpu["depth"], gpu["workers"]) == ("gpu", 1, 0)


def test_workers_are_shown_with_what_they_do(client: TestClient, rows: Database) -> None:
    job = submit(client)
    assert claim(rows, "wrk_1") == job
    assert claim(rows, "wrk_2") is None
    with rows.unit_of_work() as session:
        session.get_one(Worker, "wrk_2").seen_at = clock(session) - timedelta(seconds=1000)
    busy, lost = client.get("/v1/workers").json()["items"]
    assert (busy["id"], busy["state"], busy["job_id"], busy["device"]) == ("wrk_1", "busy", job, "cpu")
    assert busy["heartbeat_age_seconds"] < 5
    assert (lost["state"], lost["job_id"]) == ("lost", None)
    page = client.get("/v1/workers?limit=1").json()
    assert [row["id"] for row in page["items"]] == ["wrk_1"]
    assert client.get(f"/v1/workers?limit=1&cursor={page['next_cursor']}").json()["items"][0]["id"] == "wrk_2"
    with rows.unit_of_work() as session:
        session.get_one(Job, job).project_id = "prj_other"
    assert client.get("/v1/workers").json()["items"][0]["job_id"] is None


def test_a_worker_whose_device_does_not_answer_says_so(client: TestClient, rows: Database) -> None:
    assert claim(rows, "wrk_1") is None
    for lost, state in ((True, "device_lost"), (True, "device_lost"), (False, "idle")):
        with rows.unit_of_work() as session:
            leases.seen(session, "wrk_1", job_id=None, device_lost=lost)
            since = session.get_one(Worker, "wrk_1").device_lost_at
        (shown,) = client.get("/v1/workers").json()["items"]
        assert shown["state"] == state
        assert (shown["device_lost_at"] is not None) == (since is not None) == lost
    assert client.post("/v1/workers/wrk_1/drain").json()["state"] == "drained"


def test_a_device_is_lost_since_it_was_first_told(client: TestClient, rows: Database) -> None:
    claim(rows, "wrk_1")
    with rows.unit_of_work() as session:
        now = clock(session)
        for seconds in (0, 5):
            leases.seen(session, "wrk_1", job_id=None, device_lost=True, now=now + timedelta(seconds=seconds))
        worker = session.get_one(Worker, "wrk_1")
        session.refresh(worker)
        assert (worker.device_lost_at, worker.seen_at) == (now, now + timedelta(seconds=5))


def test_a_drain_is_asked_for_once_taken_back_and_written_down(client: TestClient, rows: Database) -> None:
    job = submit(client)
    claim(rows, "wrk_1")
    drain = "/v1/workers/wrk_1/drain"
    assert client.post(drain).json()["state"] == "draining"
    assert client.post(drain).status_code == 200
    assert client.delete(drain).json()["state"] == "busy"
    assert client.delete(drain).status_code == 200
    assert client.post("/v1/workers/wrk_x/drain").status_code == client.delete("/v1/workers/wrk_x/drain").status_code
    events = client.get("/v1/audit-events").json()["items"]
    noted = [(row["action"], row["resource_id"], row["data"]["job_id"]) for row in events if "worker" in row["action"]]
    assert noted == [("worker.undrain", "wrk_1", job), ("worker.drain", "wrk_1", job)]


def test_machines_are_the_operators(client: TestClient, rows: Database) -> None:
    claim(rows, "wrk_1")
    tenant = bearer(new_key(client, new_project(client))["key"])
    reader = bearer(new_key(client, DEFAULT_PROJECT, "jobs:read")["key"])
    for verb in ("POST", "DELETE"):
        for headers in (tenant, reader):
            answer = client.request(verb, "/v1/workers/wrk_1/drain", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    for headers in (tenant, reader):
        shown = client.get("/v1/workers", headers=headers).json()["items"][0]
        assert (shown["id"], shown["state"], shown["host"], shown["pid"]) == ("wrk_1", "idle", None, None)
    mine = client.get("/v1/workers").json()["items"][0]
    assert mine["host"]
    assert mine["pid"] is not None
