"""Quotas and rates: what a project may queue, run, store and ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db.job import Job
from app.db.queries.queue import leases
from app.db.queries.queue.leases import WorkerIdentity
from app.db.queries.tenancy import quotas
from app.db.session import Database, clock
from app.services.resources import Resources
from app.services.tenancy import keys
from app.settings import Settings
from tests.app.api.tenants import bearer, new_key, new_project
from tests.fixtures.service import rows as fixture_rows
from tests.fixtures.service.requests import REMOTE
from workers.background.reconcile import Reconciler
from workers.lease.holder import running_seconds


def _headers(client: TestClient, **quotas: int) -> tuple[str, dict[str, str]]:
    project = new_project(client, **quotas)
    return project, bearer(new_key(client, project)["key"])


def _claim(rows: Database, device: str = "cpu") -> Job | None:
    worker = WorkerIdentity("wrk_1", "default", "host", 1, device, "1000")
    with rows.unit_of_work() as session:
        leases.register(session, worker)
        return leases.claim(session, worker, lease_seconds=60)


def test_parallel_calls_never_queue_more_than_the_quota(client: TestClient) -> None:
    _, headers = _headers(client, max_queued_jobs=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=REMOTE, headers=headers), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "quota-exceeded"
    assert int(refused.headers["Retry-After"]) > 0


def test_jobs_beyond_the_running_quota_wait_for_it_and_others_pass(
    client: TestClient, rows: Database, resources: Resources
) -> None:
    _, headers = _headers(client, max_running_jobs=1)
    jobs = [client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"] for _ in range(2)]
    other = client.post("/v1/jobs", json=REMOTE).json()["id"]
    claimed = [_claim(rows) for _ in range(3)]
    assert [job and job.id for job in claimed] == [jobs[0], other, None]
    reconciler = Reconciler(rows, resources.store, resources.notifier)
    reconciler.mark_quotas()
    assert client.get(f"/v1/jobs/{jobs[1]}", headers=headers).json()["wait_reason"] == "quota"
    fixture_rows.end(rows, jobs[0], "failed")
    reconciler.mark_quotas()
    assert client.get(f"/v1/jobs/{jobs[1]}", headers=headers).json()["wait_reason"] == "capacity"
    following = _claim(rows)
    assert following is not None
    assert following.id == jobs[1]


def test_gpu_seconds_are_charged_and_bound(client: TestClient, rows: Database) -> None:
    project, headers = _headers(client, max_gpu_seconds=100)
    job = client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"]
    claimed = _claim(rows, "cuda")
    assert claimed is not None
    with rows.unit_of_work() as session:
        row = session.get_one(Job, job)
        now = clock(session)
        row.lease_until = now + timedelta(seconds=100)  # the worker beat for so long, and was missed a day later
        leases.end_attempt(session, row, "lost", now=now + timedelta(days=1))
        session.execute(update(Job).where(Job.id == job).values(state="failed"))
    usage = client.get("/v1/usage", headers=headers).json()
    assert usage["gpu_seconds"] == pytest.approx(100, abs=5)
    assert usage["attempts"] == 1
    assert usage["quotas"]["max_gpu_seconds"] == 100
    with rows.unit_of_work() as session:
        quotas.charge(session, project, seconds=10, gpu=True, now=clock(session))
    answer = client.post("/v1/jobs", json=REMOTE, headers=headers)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 31 * 86_400 + 1


def test_stored_bytes_are_counted_once_and_bound(client: TestClient, rows: Database, resources: Resources) -> None:
    _, headers = _headers(client, max_stored_bytes=10)
    job = client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"]
    fixture_rows.start(rows, job)
    fixture_rows.publish(rows, resources.store, job, {"a": b"x" * 8, "b": b"y" * 2})
    assert client.get("/v1/usage", headers=headers).json()["stored_bytes"] == 10
    assert client.post("/v1/jobs", json=REMOTE, headers=headers).status_code == 429


def test_a_key_that_asks_too_often_is_told_to_wait(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, headers = _headers(client, max_requests_per_second=5)
    monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: 100.0))  # all within one moment
    answers = [client.get("/v1/methods", headers=headers) for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 7
    assert (refused[0].json()["code"], refused[0].headers["Retry-After"]) == ("too-many-requests", "1")


def test_a_project_without_quotas_is_not_bound(client: TestClient) -> None:
    _, headers = _headers(client)
    assert {client.post("/v1/jobs", json=REMOTE, headers=headers).status_code for _ in range(5)} == {202}


def test_pause_and_resume_or_cancel_and_retry_queue_no_more_than_the_quota(client: TestClient, rows: Database) -> None:
    _, headers = _headers(client, max_queued_jobs=2)

    def post() -> tuple[int, str]:
        answer = client.post("/v1/jobs", json=REMOTE, headers=headers)
        return answer.status_code, answer.json().get("id", "")

    def act(job: str, verb: str) -> int:
        return client.post(f"/v1/jobs/{job}/{verb}", headers=headers).status_code

    (_, first), (_, second) = post(), post()
    assert act(first, "pause") == 200
    assert post()[0] == 429  # a paused job waits too
    assert act(first, "resume") == 200
    assert act(first, "cancel") == 200
    status, third = post()
    assert status == 202
    assert act(first, "retry") == 429
    assert client.get(f"/v1/jobs/{first}", headers=headers).json()["state"] == "cancelled"
    fixture_rows.start(rows, second)
    assert post()[0] == 202
    with rows.unit_of_work() as session:  # its worker has let it rest
        session.execute(update(Job).where(Job.id == second).values(state="paused", lease_until=None))
    assert act(second, "resume") == 429
    assert act(third, "cancel") == 200
    assert act(second, "resume") == 200


def test_used_up_gpu_seconds_and_stored_bytes_keep_from_resume_and_retry(client: TestClient, rows: Database) -> None:
    project, headers = _headers(client, max_gpu_seconds=10)
    paused, ended = (client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"] for _ in range(2))
    assert client.post(f"/v1/jobs/{paused}/pause", headers=headers).status_code == 200
    assert client.post(f"/v1/jobs/{ended}/cancel", headers=headers).status_code == 200
    with rows.unit_of_work() as session:
        quotas.charge(session, project, seconds=11, gpu=True, now=clock(session))
    for job, verb in ((paused, "resume"), (ended, "retry")):
        answer = client.post(f"/v1/jobs/{job}/{verb}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "quota-exceeded"), verb


def test_priority_high_takes_the_permission_of_an_operator(client: TestClient) -> None:
    project, headers = _headers(client)
    high = {**REMOTE, "priority": "high"}
    job = client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"]

    def tries() -> list[int]:
        client.post(f"/v1/jobs/{job}/cancel", headers=headers)
        return [
            client.post("/v1/jobs", json=high, headers=headers).status_code,
            client.post(f"/v1/jobs/{job}/retry", json={"priority": "high"}, headers=headers).status_code,
            client.post(
                "/v1/sweeps",
                headers=headers,
                json={
                    "name": "s",
                    "base": high,
                    "axes": {"/spec/prune/sparsity": [0.1, 0.2]},
                },
            ).status_code,
        ]

    assert tries() == [403, 403, 403]
    refused = client.post("/v1/jobs", json=high, headers=headers).json()
    assert refused["errors"][0]["pointer"] == "/priority"
    assert "operator" in refused["errors"][0]["detail"]
    waiting = client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"]
    changed = client.patch(f"/v1/jobs/{waiting}", json={"priority": "high"}, headers=headers)
    assert changed.status_code == 403
    allowed = client.patch(f"/v1/projects/{project}", json={"allow_high_priority": True})
    assert allowed.json()["allow_high_priority"] is True
    assert tries() == [202, 200, 202]
    high_job = client.get("/v1/jobs", headers=headers).json()["items"][0]["id"]
    assert client.post(f"/v1/jobs/{high_job}/cancel", headers=headers).json()["priority"] == "high"
    client.patch(f"/v1/projects/{project}", json={"allow_high_priority": False})
    retry = f"/v1/jobs/{high_job}/retry"
    assert client.post(retry, headers=headers).status_code == 403  # it was allowed once
    assert client.post(retry, json={"priority": "normal"}, headers=headers).status_code == 200
    assert client.post("/v1/jobs", json=high).status_code == 202  # the local project of the embedded mode


@pytest.mark.parametrize(
    ("pointer", "body"),
    [
        ("/limits/max_run_seconds", {"limits": {"max_run_seconds": 700_000}}),
        ("/spec/retrain/steps", {"spec": {**REMOTE["spec"], "retrain": {"method": "perp", "steps": 10_000_000}}}),
    ],
)
def test_a_job_names_no_more_than_the_service_does(client: TestClient, pointer: str, body: dict[str, object]) -> None:
    for path in ("/v1/jobs", "/v1/plans"):
        answer = client.post(path, json={**REMOTE, **body})
        assert answer.status_code == 422, answer.text
        (item,) = answer.json()["errors"]
        assert (item["pointer"], item["code"]) == (pointer, "too-large")
        assert "ESPALIER_" in item["detail"]


def test_a_job_that_names_no_running_time_has_the_default_and_none_has_more_than_the_most() -> None:
    settings = Settings(default_run_seconds=100, max_run_seconds=1000)

    def seconds(**limits: float) -> float:
        return running_seconds(settings, Job(request={"limits": limits} if limits else {}))

    assert [seconds(), seconds(max_run_seconds=5), seconds(max_run_seconds=5000)] == [100, 5, 1000]
