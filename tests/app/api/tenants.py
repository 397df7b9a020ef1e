"""Two projects with keys, and one thing of each kind, for tests of who may do what."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from app.platform.actor import DEFAULT_PROJECT
from app.services.resources import Resources
from tests.fixtures.service import rows as fixture_rows
from tests.fixtures.service.hooks import SPEC, Registry, evaluate
from tests.fixtures.service.requests import submit

TEXT_UPLOAD = {"kind": "dataset", "files": [{"name": "a.txt", "bytes": 1, "sha256": "0" * 64}]}


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


def one_of_each(client: TestClient, resources: Resources) -> dict[str, str]:
    """Make one thing of each kind that the default project has; its id by the first part of its path."""
    job = submit(client)
    done = submit(client)
    fixture_rows.start(resources.database, done)
    artifact = fixture_rows.publish(resources.database, resources.store, done, {"config.json": b"{}"})["config.json"]
    registry = Registry.new(client)
    rule = registry.rule("propose")
    delivery = registry.deliver()
    evaluate(resources)
    source = {"kind": "huggingface", "repo": "org/model"}
    axes = {"/spec/prune/sparsity": [0.3, 0.5]}
    assert client.put("/v1/presets/house", json={"description": "ours", "spec": SPEC}).is_success
    assert client.put("/v1/credentials/huggingface", json={"token": "hf_abcdefghijkl"}).is_success
    return {
        "hook-sources": registry.id,
        "hook-deliveries": delivery,
        "hook-proposals": registry.verdicts(delivery)[0]["proposal_id"],
        "rules": rule,
        "jobs": job,
        "artifacts": artifact,
        "api-keys": new_key(client, DEFAULT_PROJECT)["id"],
        "projects": DEFAULT_PROJECT,
        "uploads": _made(client, "/v1/uploads", TEXT_UPLOAD),
        "webhook-endpoints": _made(client, "/v1/webhook-endpoints", {"url": "https://example.com"}),
        "plans": _made(client, "/v1/plans", {"source": source, "spec": SPEC}),
        "sweeps": _made(client, "/v1/sweeps", {"base": {"source": source, "spec": SPEC}, "axes": axes}),
        "presets": "house",
        "credentials": "huggingface",
    }


def _made(client: TestClient, path: str, body: dict[str, Any]) -> str:
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])
