"""POST, GET, list and cancel, on SQLite and on Postgres."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from app.api.views import JobView
from app.db.job import Event, IdempotencyKey, Job, Outbox
from app.db.session import Database
from tests.fixtures.service import rows as make
from tests.fixtures.service.requests import REMOTE, submit


def _events(client: TestClient, job: str) -> list[str]:
    return [event["type"] for event in client.get(f"/v1/jobs/{job}/events").json()["items"]]


def test_a_job_is_accepted_with_its_place_and_everything_the_contract_names(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json={**REMOTE, "name": "mine", "labels": {"team": "nlp"}, "priority": "high"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert set(job) == {
        "id",
        "project_id",
        "parent_id",
        "name",
        "state",
        "phase",
        "phase_progress",
        "progress",
        "wait_reason",
        "queue_position",
        "attempt",
        "max_attempts",
        "priority",
        "labels",
        "source",
        "spec",
        "resolved_spec",
        "work_hash",
        "reused_from",
        "initiator",
        "durations",
        "error",
        "gate",
        "result",
        "warnings",
        "created_at",
        "started_at",
        "finished_at",
        "urls",
    }
    assert (job["state"], job["wait_reason"], job["queue_position"], job["attempt"]) == ("queued", "capacity", 1, 1)
    assert (job["name"], job["priority"], job["labels"]) == ("mine", "high", {"team": "nlp"})
    assert job["spec"] == REMOTE["spec"]
    assert job["source"] == {**REMOTE["source"], "resolved_revision": None}
    assert job["created_at"].endswith("Z")
    assert client.get(answer.headers["Location"]).json()["id"] == job["id"]


def test_job_event_and_bell_are_written_together(client: TestClient, rows: Database) -> None:
    job = submit(client)
    events = client.get(f"/v1/jobs/{job}/events").json()["items"]
    assert [(event["seq"], event["type"]) for event in events] == [(1, "job.created"), (2, "job.queued")]
    with rows.reading() as session:
        assert [row.payload["job_id"] for row in session.scalars(select(Outbox))] == [job]


def test_a_local_model_is_probed_and_its_spec_resolved_at_once(client: TestClient, model: Path) -> None:
    answer = client.post("/v1/jobs", json={**REMOTE, "source": {"kind": "local", "path": str(model)}})
    assert answer.status_code == 202, answer.text
    resolved = answer.json()["resolved_spec"]
    assert resolved["calibration"]["sequence_length"] > 0
    assert resolved["output"]["dtype"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/etc", "outside-roots"),
        ("relative/path", "outside-roots"),
        ("{roots}/../..", "outside-roots"),
        ("{roots}/link-out", "outside-roots"),  # a symbolic link that leaves the roots
        ("{roots}/nothing", "no-such-folder"),
        ("{roots}/" + "a" * 3000, "bad-path"),
    ],
)
def test_local_paths_stay_below_the_roots(client: TestClient, model: Path, path: str, code: str) -> None:
    (model.parent / "link-out").symlink_to("/etc")
    body = {**REMOTE, "source": {"kind": "local", "path": path.replace("{roots}", str(model.parent))}}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert [(e["pointer"], e["code"]) for e in answer.json()["errors"]] == [("/source/path", code)]


def test_local_text_stays_below_the_roots_too(client: TestClient) -> None:
    outside = {"kind": "local", "path": "/etc/passwd"}
    spec = {
        "prune": {"method": "magnitude", "sparsity": 0.5},
        "calibration": {"dataset": outside},
        "retrain": {"dataset": {**outside, "path": "/etc/group"}},
        "evaluate": {"perplexity": [{}, {"dataset": {**outside, "path": "/etc/hosts"}}]},
    }
    answer = client.post("/v1/jobs", json={**REMOTE, "spec": spec})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [
        "/spec/calibration/dataset/path",
        "/spec/retrain/dataset/path",
        "/spec/evaluate/perplexity/1/dataset/path",
    ]


def test_a_spec_that_does_not_fit_the_model_is_refused(client: TestClient, model: Path) -> None:
    source = {"kind": "local", "path": str(model)}
    spec = {"prune": {"method": "magnitude", "pattern": {"kind": "nm", "n": 1, "m": 7}}}
    answer = client.post("/v1/jobs", json={"source": source, "spec": spec})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/spec/prune/pattern"


def test_an_unsafe_model_is_refused_with_its_code_and_a_hint(client: TestClient, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    answer = client.post("/v1/jobs", json={**REMOTE, "source": {"kind": "local", "path": str(model)}})
    assert (answer.status_code, answer.json()["code"]) == (422, "source-unsafe")
    assert answer.json()["errors"][0]["pointer"] == "/source"


def test_a_repeated_call_gives_the_job_as_it_is_now(client: TestClient, rows: Database) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/v1/jobs", json=REMOTE, headers=headers)
    make.start(rows, first.json()["id"])
    again = client.post(
        "/v1/jobs",
        content=json.dumps(REMOTE, indent=3).encode(),
        headers={**headers, "Content-Type": "application/json"},
    )
    assert (first.status_code, again.status_code) == (202, 200)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.json()["id"], again.json()["state"]) == (first.json()["id"], "running")


def test_a_key_with_another_body_is_refused(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    client.post("/v1/jobs", json=REMOTE, headers=headers)
    answer = client.post("/v1/jobs", json={**REMOTE, "name": "other"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")


def test_a_refused_call_does_not_use_up_its_key(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    assert client.post("/v1/jobs", json={**REMOTE, "name": ""}, headers=headers).status_code == 422
    assert client.post("/v1/jobs", json=REMOTE, headers=headers).status_code == 202


def test_a_key_is_forgotten_after_a_day(client: TestClient, rows: Database) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/v1/jobs", json=REMOTE, headers=headers).json()["id"]
    with rows.unit_of_work() as session:
        session.execute(text("UPDATE idempotency_keys SET created_at = '2020-01-01 00:00:00'"))
    second = client.post("/v1/jobs", json={**REMOTE, "name": "new"}, headers=headers)
    assert second.status_code == 202
    assert second.json()["id"] != first


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "t\u00e4b"])
def test_a_bad_key_is_refused(client: TestClient, key: str) -> None:
    answer = client.post("/v1/jobs", json=REMOTE, headers={b"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"


def test_a_hundred_parallel_calls_with_one_key_make_one_job(client: TestClient, rows: Database) -> None:
    answers: list[Any] = []

    def call() -> None:
        answers.append(client.post("/v1/jobs", json=REMOTE, headers={"Idempotency-Key": "same"}))

    threads = [threading.Thread(target=call) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 99}
    assert len({answer.json()["id"] for answer in answers}) == 1
    with rows.reading() as session:
        for table, count in ((Job, 1), (IdempotencyKey, 1), (Outbox, 1), (Event, 2)):
            assert session.scalar(select(func.count()).select_from(table)) == count


def test_an_unknown_job_is_not_found_on_every_path(client: TestClient) -> None:
    for job in ("job_01AAAAAAAAAAAAAAAAAAAAAAAA", "x", "%F0%9F%92%A9"):
        for part in ("", "/events", "/logs", "/metrics", "/layers", "/attempts", "/report", "/artifacts"):
            answer = client.get(f"/v1/jobs/{job}{part}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), part
    assert client.post("/v1/jobs/x/cancel").status_code == 404


def test_pages_show_every_job_once_newest_first(client: TestClient) -> None:
    made = [submit(client) for _ in range(7)]
    seen: list[str] = []
    url: str | None = "/v1/jobs?limit=3"
    while url:
        answer = client.get(url)
        seen += [job["id"] for job in answer.json()["items"]]
        url = answer.headers["Link"].split(">")[0][1:] if "Link" in answer.headers else None
        assert bool(url) == bool(answer.json()["next_cursor"])
    assert seen == made[::-1]


def test_the_queue_is_ordered_by_priority_then_age(client: TestClient) -> None:
    low, first, high, second = (submit(client, priority=p) for p in ("low", "normal", "high", "normal"))
    positions = {job["id"]: job["queue_position"] for job in client.get("/v1/jobs").json()["items"]}
    assert all(client.get(f"/v1/jobs/{job}").json()["queue_position"] == place for job, place in positions.items())
    assert positions == {high: 1, first: 2, second: 3, low: 4}


def test_filters_choose_jobs(client: TestClient, rows: Database) -> None:
    one = submit(client, labels={"team": "nlp", "x": "a=b"})
    two = submit(client, labels={"team": "cv"}, source={"kind": "huggingface", "repo": "org/other"})
    three = submit(client, spec={"prune": {"method": "wanda", "sparsity": 0.5}})
    make.start(rows, three)
    middle = client.get(f"/v1/jobs/{two}").json()["created_at"]

    def found(query: str) -> set[str]:
        answer = client.get(f"/v1/jobs?{query}")
        assert answer.status_code == 200, answer.text
        return {job["id"] for job in answer.json()["items"]}

    assert found("label=team=nlp") == {one}
    assert found("label=x=a=b&label=team=nlp") == {one}
    assert found("label=team=nlp&label=x=other") == set()
    assert found("label=team=nlp&label=team=cv") == set()
    assert found("state=queued") == {one, two}
    assert found("state=queued&state=running") == {one, two, three}
    assert found("model=org/other") == {two}
    assert found("method=wanda") == {three}
    assert found(f"created_after={middle}") == {two, three}
    assert found(f"created_before={middle}") == {one}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "state=unknown",
        "label=no-value",
        "colour=red",
        "created_after=yesterday",
        "created_after=1",
        "created_after=2026-01-01T00:00:00",
        "created_before=0001-01-01T00:00:00%2B14:00",
    ],
)
def test_bad_filters_are_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith(f"/query/{query.split('=', maxsplit=1)[0]}")


def test_a_cursor_belongs_to_its_filters(client: TestClient) -> None:
    for _ in range(3):
        submit(client)
    cursor = client.get("/v1/jobs?limit=1&state=queued").json()["next_cursor"]
    assert client.get(f"/v1/jobs?limit=2&state=queued&cursor={cursor}").status_code == 200
    for query in (
        f"limit=1&cursor={cursor}",
        f"state=failed&cursor={cursor}",
        "cursor=abc",
        "cursor=%C3%A4",
        "cursor=",
    ):
        answer = client.get(f"/v1/jobs?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-cursor"), query


def test_a_queued_job_is_cancelled_at_once_and_only_once(client: TestClient) -> None:
    job = submit(client)
    first, again = client.post(f"/v1/jobs/{job}/cancel"), client.post(f"/v1/jobs/{job}/cancel")
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    assert first.json()["finished_at"] is not None
    assert _events(client, job) == ["job.created", "job.queued", "job.cancel_requested", "job.cancelled"]


def test_a_running_job_is_asked_to_end(client: TestClient, rows: Database) -> None:
    job = submit(client)
    fence = make.start(rows, job)
    first, again = client.post(f"/v1/jobs/{job}/cancel"), client.post(f"/v1/jobs/{job}/cancel")
    assert (first.json()["state"], again.json()["state"]) == ("cancelling", "cancelling")
    assert _events(client, job).count("job.cancel_requested") == 1
    with rows.reading() as session:
        row = session.get(Job, job)
        assert row is not None
        assert row.cancel_requested_at is not None
        assert (row.fence, row.lease_until is not None) == (fence, True)  # its worker still holds it


@pytest.mark.parametrize("state", ["succeeded", "failed", "expired"])
def test_a_finished_job_cannot_be_cancelled(client: TestClient, rows: Database, state: str) -> None:
    job = submit(client)
    make.start(rows, job)
    make.end(rows, job, state)
    answer = client.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal-transition")
    assert state in answer.json()["detail"]


def test_a_failed_job_tells_why(client: TestClient, rows: Database) -> None:
    job = submit(client)
    make.start(rows, job)
    error = {
        "class": "dataset_error",
        "retryable": False,
        "phase": "calibrating",
        "module": None,
        "hint": "Give more text.",
        "message": "too short",
        "attempt": 1,
    }
    make.end(rows, job, "failed", error=error)
    assert client.get(f"/v1/jobs/{job}").json()["error"] == error


def test_response_models_have_no_defaults() -> None:
    assert all(field.is_required() for field in JobView.model_fields.values())
