"""Pause, resume, retry, clone, change and delete: every verb in every state."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.db.job import Attempt, Event, Job
from app.db.lifecycle import ACTIONS, STATES, TERMINAL, may_move
from app.db.session import Database
from app.services.resources import Resources
from tests.fixtures.service import rows as make
from tests.fixtures.service.requests import REMOTE, submit

PATHS: dict[str, list[str]] = {
    "queued": [],
    "paused": ["pause"],
    "cancelled": ["cancel"],
    "running": ["start"],
    "pausing": ["start", "pause"],
    "cancelling": ["start", "cancel"],
    "failed": ["start", "failed"],
    "succeeded": ["start", "succeeded"],
    "expired": ["start", "expired"],
}
"""How a new job comes into each state."""


def bring(client: TestClient, rows: Database, state: str) -> str:
    job = submit(client)
    for step in PATHS[state]:
        if step == "start":
            make.start(rows, job)
        elif step in TERMINAL:
            make.end(rows, job, step)
        else:
            assert client.post(f"/v1/jobs/{job}/{step}").status_code == 200
    assert client.get(f"/v1/jobs/{job}").json()["state"] == state
    return job


def types(client: TestClient, job: str) -> list[str]:
    return [event["type"] for event in client.get(f"/v1/jobs/{job}/events").json()["items"]]


def test_every_action_is_a_move_that_the_table_allows() -> None:
    assert all(may_move(old, new) for moves in ACTIONS.values() for old, new in moves.items())


@pytest.mark.parametrize("state", STATES)
def test_a_verb_does_what_the_table_tells_or_names_what_is_allowed(
    client: TestClient, rows: Database, state: str
) -> None:
    for verb in ("pause", "resume", "retry", "cancel"):
        job = bring(client, rows, state)
        answer = client.post(f"/v1/jobs/{job}/{verb}")
        target = ACTIONS[verb].get(state)  # type: ignore[call-overload]
        if target is None and (verb, state) not in {("cancel", "cancelling"), ("cancel", "cancelled")}:
            assert (answer.status_code, answer.json()["code"]) == (409, "illegal-transition"), (verb, answer.json())
            assert state in answer.json()["detail"]
            assert "allowed now: " in answer.json()["detail"]
        else:
            assert (answer.status_code, answer.json()["state"]) == (200, target or state), (verb, answer.json())


@pytest.mark.parametrize("state", STATES)
def test_only_what_is_over_is_deleted_with_all_that_it_told(client: TestClient, rows: Database, state: str) -> None:
    job = bring(client, rows, state)
    answer = client.delete(f"/v1/jobs/{job}")
    if state not in TERMINAL:
        assert answer.status_code == 409
        assert state in answer.json()["detail"]
        return
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    with rows.reading() as session:
        assert session.scalar(select(func.count()).select_from(Event).where(Event.job_id == job)) == 0
        assert session.scalar(select(func.count()).select_from(Attempt).where(Attempt.job_id == job)) == 0


def test_a_paused_job_waits_without_a_place_and_goes_on(client: TestClient) -> None:
    job = submit(client)
    paused = client.post(f"/v1/jobs/{job}/pause").json()
    assert (paused["queue_position"], paused["wait_reason"]) == (None, None)
    resumed = client.post(f"/v1/jobs/{job}/resume").json()
    assert (resumed["state"], resumed["queue_position"], resumed["wait_reason"]) == ("queued", 1, "capacity")
    assert types(client, job)[2:] == ["job.paused", "job.resumed", "job.queued"]


def test_a_retry_counts_on_and_keeps_or_drops_the_checkpoints(client: TestClient, rows: Database) -> None:
    for start, kept in (("failed_phase", 1), ("start", 0)):
        job = bring(client, rows, "failed")
        with rows.unit_of_work() as session:
            row = session.get_one(Job, job)
            row.checkpoints, row.running_seconds, row.error = [{"phase": "pruning"}], 50.0, {"class": "numerical"}
        limits = {"max_run_seconds": 60}
        answer = client.post(f"/v1/jobs/{job}/retry", json={"from": start, "priority": "high", "limits": limits})
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert (document["state"], document["error"], document["finished_at"]) == ("queued", None, None)
        assert (document["priority"], document["attempt"], document["max_attempts"]) == ("high", 1, 21)
        with rows.reading() as session:
            row = session.get_one(Job, job)
            assert len(row.checkpoints) == kept
            assert (row.request["limits"], row.forgiven_seconds) == (limits, 50.0)
        make.start(rows, job)
        assert client.get(f"/v1/jobs/{job}").json()["attempt"] == 2
        events = client.get(f"/v1/jobs/{job}/events").json()["items"]
        assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]
        assert [event["type"] for event in events][3:] == ["job.failed", "job.queued", "job.started"]


def test_a_retry_with_another_spec_is_a_clone(client: TestClient, rows: Database) -> None:
    job = bring(client, rows, "failed")
    answer = client.post(f"/v1/jobs/{job}/retry", json={"spec": REMOTE["spec"]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/spec")
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "failed"


def test_a_clone_is_a_new_job_from_the_same_body_with_changes(client: TestClient, rows: Database) -> None:
    first = submit(client, name="one", labels={"a": "1", "b": "2"}, priority="low")
    make.start(rows, first)
    plain = client.post(f"/v1/jobs/{first}/clone")
    assert plain.status_code == 202
    assert plain.headers["Location"] == f"/v1/jobs/{plain.json()['id']}"
    assert plain.json()["id"] != first
    same = ("name", "labels", "priority", "spec", "source")
    original = client.get(f"/v1/jobs/{first}").json()
    assert [plain.json()[field] for field in same] == [original[field] for field in same]
    patch = {"name": None, "labels": {"a": None}, "spec": {"prune": {"sparsity": 0.25}}}
    changed = client.post(f"/v1/jobs/{first}/clone", json=patch).json()
    assert changed["spec"] == {"prune": {"method": "magnitude", "sparsity": 0.25}}
    assert (changed["labels"], changed["name"]) == ({"b": "2"}, "org/model magnitude 25%")
    created = client.get(f"/v1/jobs/{changed['id']}/events").json()["items"][0]
    assert created["data"]["cloned_from"] == first


def test_a_clone_is_refused_with_a_pointer_and_made_once_per_key(client: TestClient) -> None:
    first = submit(client)
    answer = client.post(f"/v1/jobs/{first}/clone", json={"spec": {"prune": {"sparsity": 2}}})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/spec/prune/sparsity")
    headers = {"Idempotency-Key": "k"}
    misspelt = client.post(f"/v1/jobs/{first}/clone", json={"spec": {"prune": {"sparsty": 0.5}}}).json()
    assert misspelt["errors"][0]["detail"] == "There is no such field here; did you mean `sparsity`?"
    one, two = (client.post(f"/v1/jobs/{first}/clone", json={"name": "x"}, headers=headers) for _ in range(2))
    assert (one.status_code, two.status_code) == (202, 200)
    assert one.json()["id"] == two.json()["id"]
    assert two.headers["Idempotency-Replayed"] == "true"
    other = client.post(f"/v1/jobs/{first}/clone", json={"name": "y"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


def change(client: TestClient, job: str, **fields: Any) -> Any:
    return client.patch(f"/v1/jobs/{job}", json=fields)


def test_name_and_labels_change_at_any_time_and_the_priority_while_the_job_waits(
    client: TestClient, rows: Database
) -> None:
    first, second = submit(client), submit(client, labels={"a": "1"})
    answer = change(client, second, priority="high", name="new", labels={"a": None, "b": "2"})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["name"], document["labels"], document["priority"]) == ("new", {"b": "2"}, "high")
    assert (document["queue_position"], client.get(f"/v1/jobs/{first}").json()["queue_position"]) == (1, 2)
    make.start(rows, second)
    assert change(client, second, name="newer").json()["name"] == "newer"
    refused = change(client, second, priority="low")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal-transition")
    assert change(client, first, spec={}).status_code == 422
    assert change(client, first, labels={f"l{number}": "x" for number in range(65)}).status_code == 422


def test_a_low_job_is_passed_for_a_day_and_no_longer(client: TestClient, resources: Resources) -> None:
    low, normal, high = (submit(client, priority=priority) for priority in ("low", "normal", "high"))
    with resources.database.unit_of_work() as session:
        row = session.get_one(Job, low)
        row.turn -= 86_400_001  # it was submitted a day earlier
    positions = {job["id"]: job["queue_position"] for job in client.get("/v1/jobs").json()["items"]}
    assert positions == {high: 1, low: 2, normal: 3}


def test_every_verb_on_an_unknown_job_is_not_found(client: TestClient) -> None:
    for verb in ("pause", "resume", "retry", "clone", "cancel"):
        assert client.post(f"/v1/jobs/job_x/{verb}").status_code == 404
    assert change(client, "job_x", name="a").status_code == 404
    assert client.delete("/v1/jobs/job_x").status_code == 404
    assert client.get("/v1/jobs/").status_code == 404
