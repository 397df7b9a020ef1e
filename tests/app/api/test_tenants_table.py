"""Two projects, every route that takes an id, every verb: what is another's answers as what is not there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.actor import DEFAULT_PROJECT
from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings
from tests.app.api.conftest import submit
from tests.app.api.tenants import bearer, new_key, new_project
from tests.fixtures import rows as fixture_rows

UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
SHARED = {"/v1/credentials/{kind}", "/v1/presets/{name}", "/v1/methods/{name}", "/v1/hooks/{source_id}"}
"""Names, not ids: there is nothing of another project to hide; and hooks, which bring credentials of their own."""
TEXT_UPLOAD = {"kind": "dataset", "files": [{"name": "a.txt", "bytes": 1, "sha256": "0" * 64}]}


def _routes() -> list[tuple[str, str]]:
    document = create_app(Settings()).openapi()
    return [
        (verb.upper(), path)
        for path, operations in document["paths"].items()
        if path.startswith("/v1/") and "{" in path and path not in SHARED
        for verb in operations
    ]


def _own(client: TestClient, resources: Resources) -> dict[str, str]:
    """One thing of each kind that the default project has, by the first part of its path."""
    job = submit(client)
    done = submit(client)
    fixture_rows.start(resources.database, done)
    artifact = fixture_rows.publish(resources.database, resources.store, done, {"config.json": b"{}"})["config.json"]
    return {
        "jobs": job,
        "artifacts": artifact,
        "api-keys": new_key(client, DEFAULT_PROJECT)["id"],
        "projects": DEFAULT_PROJECT,
        "uploads": client.post("/v1/uploads", json=TEXT_UPLOAD).json()["id"],
        "webhook-endpoints": client.post("/v1/webhook-endpoints", json={"url": "https://example.com"}).json()["id"],
    }


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The statements are the same on both databases; one is enough."""
    return sqlite_url


def _body(operation: dict[str, Any]) -> dict[str, Any] | None:
    return {} if "requestBody" in operation else None


def test_what_is_anothers_answers_like_what_is_not_there(
    client: TestClient, app: FastAPI, resources: Resources
) -> None:
    own = _own(client, resources)
    stranger = bearer(new_key(client, new_project(client))["key"]) | {"X-Request-ID": "same"}
    tried = set()
    for verb, path in _routes():
        kind = path.split("/")[2]
        if kind not in own:
            continue
        prefix = own[kind].split("_")[0]
        tried.add(kind)
        answers = []
        for id_ in (own[kind], f"{prefix}_{UNKNOWN}"):
            address = re.sub(r"\{\w+\}", id_, path, count=1)
            address = re.sub(r"\{\w+\}", f"x_{UNKNOWN}", address)
            answer = client.request(
                verb, address, json={} if verb in {"POST", "PATCH", "PUT"} else None, headers=stranger
            )
            answers.append((answer.status_code, answer.text.replace(id_, "ID"), answer.headers.get("content-type")))
        assert answers[0] == answers[1], (verb, path)
        assert answers[0][0] in {404, 422}, (verb, path, answers[0])
        if verb in {"GET", "DELETE"}:
            assert answers[0][0] == 404, (verb, path, answers[0])
    assert tried == set(own)
    assert client.get(f"/v1/jobs/{own['jobs']}").json()["state"] == "queued"
