"""Two projects, every route that takes an id, every verb: what is another's answers as what is not there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings
from tests.app.api.tenants import bearer, new_key, new_project, one_of_each
from tests.fixtures.service.hooks import SPEC

UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
WITHOUT_TENANTS = {
    "/v1/methods/{name}": "the catalogue is the same for everybody",
    "/v1/hooks/{source_id}": "deliveries bring credentials of their own, and belong to no caller",
    "/v1/workers/{worker_id}/drain": "machines belong to the operator: no project has any",
}
"""Routes that take a name and hide nothing of a project; every other route is tried, those to come too."""
CREATING = {("PUT", "/v1/presets/{name}")}
"""What makes a thing of the caller's own under a name."""
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/jobs/{job_id}/publications"): {"kind": "huggingface", "repo": "a/b"},
    ("PATCH", "/v1/hook-sources/{source_id}"): {"name": "n"},
    ("POST", "/v1/rules/{rule_id}/test"): {"delivery_id": f"hkd_{UNKNOWN}"},
    ("POST", "/v1/uploads/{upload_id}/parts"): {"file": "a.txt", "number": 1, "sha256": "0" * 64},
}
"""Where an empty object is no valid body: validation must not answer in the place of the 404."""


def _routes() -> list[tuple[str, str]]:
    document = create_app(Settings()).openapi()
    return [
        (verb.upper(), path)
        for path, operations in document["paths"].items()
        if path.startswith("/v1/") and "{" in path and path not in WITHOUT_TENANTS
        for verb in operations
        if (verb.upper(), path) not in CREATING
    ]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The statements are the same on both databases; one is enough."""
    return sqlite_url


def _unknown(mine: str) -> str:
    """What nobody has, and looks like what is somebody's."""
    names = {"house": "shed", "huggingface": "s3"}
    return names.get(mine) or f"{mine.partition('_')[0]}_{UNKNOWN}"


Answers = dict[tuple[str, str], list[tuple[int, str, str | None]]]


def ask_of_both(client: TestClient, resources: Resources) -> tuple[dict[str, str], Answers]:
    """Ask every route, as a stranger, about what the default project has and about what nobody has."""
    own = one_of_each(client, resources)
    stranger = bearer(new_key(client, new_project(client))["key"]) | {"X-Request-ID": "same"}
    found: Answers = {}
    for verb, path in _routes():
        kind = path.split("/")[2]
        assert kind in own, f"{path} is new: say in one_of_each what the default project has of it, or why it has none"
        for id_ in (own[kind], _unknown(own[kind])):
            address = re.sub(r"\{\w+\}", id_, path, count=1)
            address = address.replace("{file}", "a.txt").replace("{number}", "1")
            address = re.sub(r"\{\w+\}", f"x_{UNKNOWN}", address)
            body = BODIES.get((verb, path), {}) if verb in {"POST", "PATCH", "PUT"} else None
            answer = client.request(verb, address, json=body, headers=stranger | {"X-Content-SHA256": "0" * 64})
            told = (answer.status_code, answer.text.replace(id_, "ID"), answer.headers.get("content-type"))
            found.setdefault((verb, path), []).append(told)
    return own, found


def test_what_is_anothers_answers_like_what_is_not_there(client: TestClient, resources: Resources) -> None:
    own, found = ask_of_both(client, resources)
    for route, (anothers, nobodys) in found.items():
        assert anothers == nobodys, route
        assert anothers[0] == 404, (route, anothers)
    assert {path.split("/")[2] for _, path in found} == set(own)
    assert client.get(f"/v1/jobs/{own['jobs']}").json()["state"] == "queued"


def test_an_id_inside_of_a_body_or_behind_another_id_tells_no_more(client: TestClient, resources: Resources) -> None:
    own = one_of_each(client, resources)
    headers = bearer(new_key(client, new_project(client))["key"]) | {"X-Request-ID": "same"}
    delivery = client.post(f"/v1/webhook-endpoints/{own['webhook-endpoints']}/test").json()["id"]
    made = client.post("/v1/webhook-endpoints", json={"url": "https://example.com"}, headers=headers).json()["id"]
    behind = f"/v1/webhook-endpoints/{made}/deliveries"
    source = {"kind": "huggingface", "repo": "org/model"}
    calls: list[tuple[str, str, str, Callable[[str], dict[str, Any] | None]]] = [
        ("GET", f"{behind}/ID", delivery, lambda _: None),
        ("POST", f"{behind}/ID/redeliver", delivery, lambda _: None),
        ("POST", "/v1/jobs", own["plans"], lambda id_: {"source": source, "spec": SPEC, "plan_id": id_}),
        ("POST", "/v1/jobs", own["uploads"], lambda id_: {"source": _upload(id_), "spec": SPEC}),
        ("POST", "/v1/models/resolve", own["uploads"], lambda id_: {"source": _upload(id_)}),
        ("POST", "/v1/jobs", own["uploads"], lambda id_: {
            "source": source, "spec": {**SPEC, "calibration": {"dataset": _upload(id_)}},
        }),
        ("POST", "/v1/jobs", "house", lambda name: {"source": source, "spec": {"preset": name}}),
        ("POST", "/v1/rules", own["hook-sources"], lambda id_: {
            "name": "r", "source_id": id_, "template": {"spec": SPEC},
        }),
        ("POST", "/v1/api-keys", own["projects"], lambda id_: {
            "name": "k", "scopes": ["admin"], "project_id": id_,
        }),
    ]  # fmt: skip
    for verb, path, mine, body in calls:
        answers = []
        for id_ in (mine, _unknown(mine)):
            answer = client.request(verb, path.replace("ID", id_), json=body(id_), headers=headers)
            answers.append((answer.status_code, answer.text.replace(id_, "ID")))
        assert answers[0] == answers[1], (verb, path)
        assert answers[0][0] in {403, 404, 422}, (verb, path, answers[0])


def _upload(upload_id: str) -> dict[str, str]:
    return {"kind": "upload", "upload_id": upload_id}
