"""Two projects, every route that takes an id, every verb: what is another's answers as what is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.services.resources import Resources
from tests.app.api.foreign_ids import ask_of_both, unknown
from tests.app.api.tenants import bearer, new_key, new_project, one_of_each
from tests.fixtures.service.hooks import SPEC


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The statements are the same on both databases; one is enough."""
    return sqlite_url


def test_what_is_anothers_answers_like_what_is_not_there(client: TestClient, resources: Resources) -> None:
    own, answers = ask_of_both(client, resources)
    for route, (anothers, nobodys) in answers.items():
        assert anothers == nobodys, route
        assert anothers[0] == 404, (route, anothers)
    assert {path.split("/")[2] for _, path in answers} == set(own)
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
        (
            "POST",
            "/v1/jobs",
            own["uploads"],
            lambda id_: {
                "source": source,
                "spec": {**SPEC, "calibration": {"dataset": _upload(id_)}},
            },
        ),
        ("POST", "/v1/jobs", "house", lambda name: {"source": source, "spec": {"preset": name}}),
        (
            "POST",
            "/v1/rules",
            own["hook-sources"],
            lambda id_: {
                "name": "r",
                "source_id": id_,
                "template": {"spec": SPEC},
            },
        ),
        (
            "POST",
            "/v1/api-keys",
            own["projects"],
            lambda id_: {
                "name": "k",
                "scopes": ["admin"],
                "project_id": id_,
            },
        ),
    ]
    for verb, path, mine, body in calls:
        answers = []
        for id_ in (mine, unknown(mine)):
            answer = client.request(verb, path.replace("ID", id_), json=body(id_), headers=headers)
            answers.append((answer.status_code, answer.text.replace(id_, "ID")))
        assert answers[0] == answers[1], (verb, path)
        assert answers[0][0] in {403, 404, 422}, (verb, path, answers[0])


def _upload(upload_id: str) -> dict[str, str]:
    return {"kind": "upload", "upload_id": upload_id}
