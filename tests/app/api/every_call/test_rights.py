"""Queueing a job and publishing its result are two rights, whatever the entry point; each leaves an audit event."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.bodies.access import SCOPES
from app.db.hook import Rule
from app.db.job import Job
from app.db.queries.jobs import reuse
from app.db.session import clock
from app.platform.actor import DEFAULT_PROJECT
from app.services.resources import Resources
from app.services.reuse import result_reuse
from tests.app.api.entry_points import AXIS, ENTRY_POINTS, PLAIN, PUBLISHING, RUN, TARGET, WRITES, Caller, EntryPoint
from tests.app.api.tenants import bearer, new_key
from tests.fixtures.service.hooks import evaluate
from tests.fixtures.service.requests import REMOTE, submit


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Rights are looked at before a statement is made."""
    return sqlite_url


@pytest.fixture
def caller(client: TestClient, resources: Resources) -> Caller:
    return Caller(client, resources)


def _key(caller: Caller, scopes: AbstractSet[str]) -> str:
    return str(new_key(caller.client, DEFAULT_PROJECT, *sorted(scopes))["key"])


@pytest.mark.deep
@pytest.mark.parametrize("entry_point", ENTRY_POINTS, ids=lambda entry_point: entry_point.what.replace("/", " "))
def test_an_entry_point_takes_its_scopes_and_nothing_less(caller: Caller, entry_point: EntryPoint) -> None:
    for missing in sorted(entry_point.takes):
        caller.key = _key(caller, {*SCOPES} - {"admin", missing})
        answer = entry_point.attempt(caller)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (missing, answer.text)
        assert missing in answer.json()["detail"]
    caller.key = _key(caller, set(entry_point.takes))
    answer = entry_point.attempt(caller)
    assert answer.is_success, answer.text


@pytest.mark.parametrize("what", ["`POST /v1/jobs` that publishes", "`POST /v1/sweeps` with an axis that publishes"])
def test_who_may_not_publish_makes_no_job_that_does(caller: Caller, what: str) -> None:
    caller.key = _key(caller, {"jobs:write"})
    answer = next(entry_point for entry_point in ENTRY_POINTS if entry_point.what == what).attempt(caller)
    assert answer.status_code == 403
    assert "models:write" in answer.json()["errors"][0]["detail"]
    assert caller.own("GET", "/v1/jobs")["items"] == []


def test_a_rule_does_what_who_saved_it_last_may_do(caller: Caller) -> None:
    """Its preset publishes by now, and nobody asked the person who saved the rule."""
    caller.preset(PLAIN)
    caller.key = _key(caller, set(RUN | WRITES))
    registry, rule = caller.rule("run", {"preset": "house"})
    saved = caller.call("PATCH", f"/v1/rules/{rule}", {"template": {"preset": "house"}})
    assert saved.is_success, saved.text
    caller.preset(PUBLISHING)
    delivery = registry.deliver()
    evaluate(caller.resources)
    verdict = registry.verdicts(delivery)[0]
    assert verdict["outcome"] == "refused", verdict
    assert "models:write" in verdict["detail"]
    caller.own("PATCH", f"/v1/rules/{rule}", {"template": {"preset": "house"}})
    caller.own("POST", f"/v1/hook-deliveries/{delivery}/replay")
    evaluate(caller.resources)
    assert registry.verdicts(delivery)[0]["outcome"] == "job"


def test_whoever_switches_a_rule_off_does_not_answer_for_it(caller: Caller) -> None:
    """The template that was put into it meanwhile is that of somebody without the right."""
    _, rule = caller.rule("run", {"spec": PLAIN})
    caller.key = _key(caller, set(RUN))
    changed = {"enabled": False, "template": {"spec": PUBLISHING}}
    assert caller.call("PATCH", f"/v1/rules/{rule}", changed).is_success
    assert caller.call("PATCH", f"/v1/rules/{rule}", {"enabled": True}).status_code == 403
    with caller.resources.database.reading() as session:
        assert not session.scalars(select(Rule)).one().enabled


def test_clone_tells_nothing_to_who_may_not_read(caller: Caller) -> None:
    job = caller.job(PLAIN)
    caller.key = _key(caller, {"jobs:write"})
    answer = caller.call("POST", f"/v1/jobs/{job}/clone")
    assert (answer.status_code, "jobs:read" in answer.json()["detail"]) == (403, True)


def test_an_action_tells_no_more_of_a_job_than_its_caller_may_read(caller: Caller) -> None:
    caller.key = _key(caller, {"jobs:write", "jobs:cancel", "models:write"})
    job = caller.job(PUBLISHING)
    sweep = caller.own("POST", "/v1/sweeps", {"base": {**REMOTE, "labels": {"a": "b"}}, "axes": AXIS})["id"]
    calls: list[tuple[str, str, Any]] = [
        ("PATCH", f"/v1/jobs/{job}", {"labels": {"team": "nlp"}}),
        ("POST", f"/v1/jobs/{job}/pause", None),
        ("POST", f"/v1/jobs/{job}/resume", None),
        ("POST", f"/v1/jobs/{job}/cancel", None),
        ("POST", f"/v1/jobs/{job}/retry", None),
        ("POST", f"/v1/sweeps/{sweep}/cancel", None),
    ]
    for verb, path, body in calls:
        answer = caller.call(verb, path, body)
        assert answer.is_success, answer.text
        assert answer.json()["state"]
        for secret in (TARGET["uri"], REMOTE["source"]["repo"], 'magnitude"', "nlp"):
            assert secret not in answer.text.replace(answer.json()["name"], ""), (path, secret)
    assert caller.own("GET", f"/v1/jobs/{job}")["labels"] == {"team": "nlp"}


def test_each_publication_is_in_the_audit_log_whatever_asked_for_it(caller: Caller) -> None:
    done, asking = caller.done(), submit(caller.client, spec=PUBLISHING)
    caller.own("POST", f"/v1/jobs/{done}/publications", TARGET)
    with caller.resources.database.unit_of_work() as session:  # a worker, which is nobody
        mine, (theirs,) = session.get_one(Job, asking), reuse.held(session, [done])
        mine.state = "running"
        result_reuse.finish_with_result(session, mine, theirs, now=clock(session))
    events = [row for row in caller.own("GET", "/v1/audit-events")["items"] if row["action"] == "publication.create"]
    assert [row["data"]["job_id"] for row in events] == [asking, done]
    for row in events:
        assert row["actor"] == {"type": "user", "id": "local"}
        assert (row["data"]["kind"], row["data"]["target"]) == ("s3", TARGET["uri"])


def test_reads_of_results_and_refused_keys_are_in_the_audit_log(caller: Caller) -> None:
    job = caller.done()
    artifact = caller.own("GET", f"/v1/jobs/{job}/artifacts")["items"][0]["id"]
    caller.own("GET", f"/v1/artifacts/{artifact}")
    assert caller.client.get(f"/v1/artifacts/{artifact}/download").is_success
    key = new_key(caller.client)
    caller.client.delete(f"/v1/api-keys/{key['id']}")
    wrong = key["key"][:-1] + ("0" if key["key"][-1] != "0" else "1")
    for token in (key["key"], key["key"], f"esp_{'0' * 26}_{'0' * 48}", f"esp_{'1' * 26}_{'0' * 48}"):
        assert caller.client.get("/v1/jobs", headers=bearer(token)).status_code == 401
    assert caller.client.get("/v1/jobs", headers=bearer(wrong)).status_code == 401
    rows = caller.own("GET", "/v1/audit-events")["items"]
    noted = ("api_key.refused", "artifact.")
    noted_rows = [(row["action"], row["resource_id"], row["data"]) for row in rows if row["action"].startswith(noted)]
    assert noted_rows == [
        ("api_key.refused", "unknown", {"why": "unknown key"}),
        ("api_key.refused", key["id"], {"why": "revoked"}),
        ("artifact.download", artifact, {}),
        ("artifact.read", artifact, {}),
        ("artifact.list", job, {}),
    ]
