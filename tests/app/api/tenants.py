"""Two projects with keys, for tests of who may do what."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from app.actor import DEFAULT_PROJECT


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def new_project(client: TestClient, **quotas: int) -> str:
    """Make a project and return its id."""
    answer = client.post("/v1/projects", json={"name": "tenant", "quotas": quotas})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def new_key(client: TestClient, project_id: str = DEFAULT_PROJECT, *scopes: str, **fields: Any) -> dict[str, Any]:
    """Make a key and return what the service says of it."""
    body = {"name": "test", "scopes": list(scopes) or ["admin"], "project_id": project_id, **fields}
    answer = client.post("/v1/api-keys", json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document
