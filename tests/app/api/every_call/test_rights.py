"""To queue a job and to publish its result are two rights, and no door leads around either; each leaves its trace."""

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
from tests.app.api.doors import AXIS, DOORS, PLAIN, PUBLISHING, RUN, TARGET, WRITES, Door, House
from tests.app.api.tenants import bearer, new_key
from tests.fixtures.service.hooks import evaluate
from tests.fixtures.service.requests import REMOTE, submit


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Rights are looked at before a statement is made."""
    return sqlite_url


@pytest.fixture
def house(client: TestClient, resources: Resources) -> House:
    return House(client, resources)


def _key(house: House, scopes: AbstractSet[str]) -> str:
    return str(new_key(house.client, DEFAULT_PROJECT, *sorted(scopes))["key"])


@pytest.mark.deep
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.what.replace("/", " "))
def test_a_door_opens_to_what_it_takes_and_to_nothing_less(house: House, door: Door) -> None:
    for missing in sorted(door.takes):
        house.key = _key(house, {*SCOPES} - {"admin", missing})
        answer = door.knock(house)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (missing, answer.text)
        assert missing in answer.json()["detail"]
    house.key = _key(house, set(door.takes))
    answer = door.knock(house)
    assert answer.is_success, answer.text


@pytest.mark.parametrize("what", ["`POST /v1/jobs` that publishes", "`POST /v1/sweeps` with an axis that publishes"])
def test_who_may_not_publish_makes_no_job_that_does(house: House, what: str) -> None:
    house.key = _key(house, {"jobs:write"})
    answer = next(door for door in DOORS if door.what == what).knock(house)
    assert answer.status_code == 403
    assert "models:write" in answer.json()["errors"][0]["detail"]
    assert house.own("GET", "/v1/jobs")["items"] == []


def test_a_rule_does_what_who_saved_it_last_may_do(house: House) -> None:
    """Its preset publishes by now, and nobody asked the person who saved the rule."""
    house.preset(PLAIN)
    house.key = _key(house, set(RUN | WRITES))
    registry, rule = house.rule("run", {"preset": "house"})
    saved = house.call("PATCH", f"/v1/rules/{rule}", {"template": {"preset": "house"}})
    assert saved.is_success, saved.text
    house.preset(PUBLISHING)
    delivery = registry.deliver()
    evaluate(house.resources)
    verdict = registry.verdicts(delivery)[0]
    assert verdict["outcome"] == "refused", verdict
    assert "models:write" in verdict["detail"]
    house.own("PATCH", f"/v1/rules/{rule}", {"template": {"preset": "house"}})
    house.own("POST", f"/v1/hook-deliveries/{delivery}/replay")
    evaluate(house.resources)
    assert registry.verdicts(delivery)[0]["outcome"] == "job"


def test_whoever_switches_a_rule_off_does_not_answer_for_it(house: House) -> None:
    """The template that was put into it meanwhile is that of somebody without the right."""
    _, rule = house.rule("run", {"spec": PLAIN})
    house.key = _key(house, set(RUN))
    changed = {"enabled": False, "template": {"spec": PUBLISHING}}
    assert house.call("PATCH", f"/v1/rules/{rule}", changed).is_success
    assert house.call("PATCH", f"/v1/rules/{rule}", {"enabled": True}).status_code == 403
    with house.resources.database.reading() as session:
        assert not session.scalars(select(Rule)).one().enabled


def test_clone_tells_nothing_to_who_may_not_read(house: House) -> None:
    job = house.job(PLAIN)
    house.key = _key(house, {"jobs:write"})
    answer = house.call("POST", f"/v1/jobs/{job}/clone")
    assert (answer.status_code, "jobs:read" in answer.json()["detail"]) == (403, True)


def test_an_action_tells_no_more_of_a_job_than_its_caller_may_read(house: House) -> None:
    house.key = _key(house, {"jobs:write", "jobs:cancel", "models:write"})
    job = house.job(PUBLISHING)
    sweep = house.own("POST", "/v1/sweeps", {"base": {**REMOTE, "labels": {"a": "b"}}, "axes": AXIS})["id"]
    calls: list[tuple[str, str, Any]] = [
        ("PATCH", f"/v1/jobs/{job}", {"labels": {"team": "nlp"}}),
        ("POST", f"/v1/jobs/{job}/pause", None),
        ("POST", f"/v1/jobs/{job}/resume", None),
        ("POST", f"/v1/jobs/{job}/cancel", None),
        ("POST", f"/v1/jobs/{job}/retry", None),
        ("POST", f"/v1/sweeps/{sweep}/cancel", None),
    ]
    for verb, path, body in calls:
        answer = house.call(verb, path, body)
        assert answer.is_success, answer.text
        assert answer.json()["state"]
        for secret in (TARGET["uri"], REMOTE["source"]["repo"], 'magnitude"', "nlp"):
            assert secret not in answer.text.replace(answer.json()["name"], ""), (path, secret)
    assert house.own("GET", f"/v1/jobs/{job}")["labels"] == {"team": "nlp"}


def test_each_publication_is_in_the_audit_log_whatever_asked_for_it(house: House) -> None:
    done, asking = house.done(), submit(house.client, spec=PUBLISHING)
    house.own("POST", f"/v1/jobs/{done}/publications", TARGET)
    with house.resources.database.unit_of_work() as session:  # a worker, which is nobody
        mine, (theirs,) = session.get_one(Job, asking), reuse.held(session, [done])
        mine.state = "running"
        result_reuse.finish_with_result(session, mine, theirs, now=clock(session))
    events = [row for row in house.own("GET", "/v1/audit-events")["items"] if row["action"] == "publication.create"]
    assert [row["data"]["job_id"] for row in events] == [asking, done]
    for row in events:
        assert row["actor"] == {"type": "user", "id": "local"}
        assert (row["data"]["kind"], row["data"]["target"]) == ("s3", TARGET["uri"])


def test_reads_of_results_and_refused_keys_are_in_the_audit_log(house: House) -> None:
    job = house.done()
    artifact = house.own("GET", f"/v1/jobs/{job}/artifacts")["items"][0]["id"]
    house.own("GET", f"/v1/artifacts/{artifact}")
    assert house.client.get(f"/v1/artifacts/{artifact}/download").is_success
    key = new_key(house.client)
    house.client.delete(f"/v1/api-keys/{key['id']}")
    wrong = key["key"][:-1] + ("0" if key["key"][-1] != "0" else "1")
    for token in (key["key"], key["key"], f"esp_{'0' * 26}_{'0' * 48}", f"esp_{'1' * 26}_{'0' * 48}"):
        assert house.client.get("/v1/jobs", headers=bearer(token)).status_code == 401
    assert house.client.get("/v1/jobs", headers=bearer(wrong)).status_code == 401
    rows = house.own("GET", "/v1/audit-events")["items"]
    noted = ("api_key.refused", "artifact.")
    noted_rows = [(row["action"], row["resource_id"], row["data"]) for row in rows if row["action"].startswith(noted)]
    assert noted_rows == [
        ("api_key.refused", "unknown", {"why": "unknown key"}),
        ("api_key.refused", key["id"], {"why": "revoked"}),
        ("artifact.download", artifact, {}),
        ("artifact.read", artifact, {}),
        ("artifact.list", job, {}),
    ]
