"""Same call, same work: every POST that creates takes an Idempotency-Key, and tells the first answer again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.api.tenants import bearer

NOTHING_NEW = {
    "/v1/hooks/{source_id}",  # deliveries have names of their own
    "/v1/hook-deliveries/{delivery_id}/replay",
    "/v1/webhook-endpoints/{endpoint_id}/test",
    "/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver",
}
"""POSTs that answer 201 or 202 and make nothing that a second call would double."""
KEY = {"Idempotency-Key": "once"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: the statement itself is tested on both."""
    return sqlite_url


def bodies(client: TestClient, model: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Route -> a body and another one."""
    source = client.post("/v1/hook-sources", json={"kind": "generic", "name": "s"}).json()["id"]
    spec = {"prune": {"method": "magnitude", "sparsity": 0.5}}
    job = {"source": {"kind": "local", "path": str(model)}, "spec": spec}
    rule = {"source_id": source, "match": {}, "template": {"spec": spec}}
    return {
        "/v1/projects": ({"name": "a"}, {"name": "b"}),
        "/v1/api-keys": ({"name": "a", "scopes": ["jobs:read"]}, {"name": "b", "scopes": ["jobs:read"]}),
        "/v1/webhook-endpoints": ({"url": "https://example.com/a"}, {"url": "https://example.com/b"}),
        "/v1/hook-sources": ({"kind": "generic", "name": "a"}, {"kind": "generic", "name": "b"}),
        "/v1/rules": ({"name": "a", **rule}, {"name": "b", **rule}),
        "/v1/plans": (job, {**job, "name": "other"}),
    }


@pytest.mark.parametrize(
    "path", ["/v1/projects", "/v1/api-keys", "/v1/webhook-endpoints", "/v1/hook-sources", "/v1/rules", "/v1/plans"]
)
def test_an_equal_call_makes_nothing_and_answers_the_same(client: TestClient, model: Path, path: str) -> None:
    body, other = bodies(client, model)[path]
    first, again = (client.post(path, json=body, headers=KEY) for _ in range(2))
    assert first.status_code == 201, first.text
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.json() == first.json(), "secrets included: the first answer may have been lost"
    assert again.headers["Location"] == first.headers["Location"]
    refused = client.post(path, json=other, headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-key-reused")
    assert client.post(path, json=other, headers={"Idempotency-Key": "another"}).json()["id"] != first.json()["id"]


def test_a_key_that_is_told_again_works_and_is_no_word_of_the_caller(client: TestClient) -> None:
    body = {"name": "ci", "scopes": ["jobs:read"]}
    keys = {client.post("/v1/api-keys", json=body, headers=KEY).json()["key"] for _ in range(2)}
    assert len(keys) == 1
    assert client.get("/v1/jobs", headers=bearer(keys.pop())).status_code == 200
    assert "once" not in str(keys)


def test_every_route_that_creates_takes_a_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    creating = {
        path: operations["post"]
        for path, operations in document["paths"].items()
        if "post" in operations and {"201", "202"} & operations["post"]["responses"].keys() and path not in NOTHING_NEW
    }
    assert "/v1/jobs" in creating
    for path, operation in creating.items():
        assert "Idempotency-Key" in {parameter["name"] for parameter in operation.get("parameters", [])}, path
