"""Queues, workers, and how one is drained."""

from __future__ import annotations

from datetime import timedelta

from fastapi.testclient import TestClient

from app.db.job import Job, Worker
from app.db.queries import leases
from app.db.session import Database, clock
from tests.app.api.conftest import submit
from tests.workers.runs.test_claim import worker


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


def test_draining_is_asked_for_once_and_of_known_workers(client: TestClient, rows: Database) -> None:
    submit(client)
    claim(rows, "wrk_1")
    assert client.post("/v1/workers/wrk_1/drain").json()["state"] == "draining"
    assert client.post("/v1/workers/wrk_1/drain").status_code == 200
    assert client.post("/v1/workers/wrk_x/drain").status_code == 404
