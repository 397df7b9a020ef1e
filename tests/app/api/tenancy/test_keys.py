"""API keys: made, shown once, checked, bounded by scopes, revoked; and what needs none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.api.access import required_scope
from app.db.session import Database
from app.db.tenancy import ApiKey
from app.main import create_app
from app.services.tenancy import actor_cache
from app.settings import Settings
from tests.app.api.tenants import bearer, new_key, new_project
from tests.fixtures.service.requests import REMOTE, submit


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The statements of keys are plain: one kind of database is enough."""
    return sqlite_url


@pytest.fixture
def strict(sqlite_url: str, tmp_path: Path) -> FastAPI:
    """An installation that is reached from elsewhere: every call takes a key."""
    return create_app(Settings(home=tmp_path, database_url=sqlite_url, host="0.0.0.0"))


def test_a_key_is_shown_once_and_kept_as_an_hmac(client: TestClient, rows: Database) -> None:
    made = new_key(client)
    assert made["key"].startswith("esp_" + made["id"].removeprefix("key_") + "_")
    assert "key" not in client.get(f"/v1/api-keys/{made['id']}").json()
    assert made["key"] not in client.get("/v1/api-keys").text
    with rows.reading() as session:
        row = session.scalars(select(ApiKey)).one()
    assert made["key"].rsplit("_", 1)[1] not in json.dumps([row.digest, row.name, row.scopes])
    assert len(row.digest) == 64


def test_a_key_opens_its_project_and_is_noted_as_used(client: TestClient) -> None:
    made = new_key(client, new_project(client), "jobs:write", "jobs:read")
    answer = client.post("/v1/jobs", json=REMOTE, headers=bearer(made["key"]))
    assert answer.status_code == 202
    assert answer.json()["project_id"] == made["project_id"]
    assert answer.json()["initiator"] == {"type": "api_key", "id": made["id"]}
    assert client.get("/v1/jobs").json()["items"] == []
    assert client.get(f"/v1/api-keys/{made['id']}").json()["last_used_at"]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        "Bearer esp_x_y",
        "Bearer esp_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "0" * 48,
        "bearer  esp_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "0" * 48,
    ],
)
def test_a_key_that_is_none_is_refused_even_where_none_is_needed(client: TestClient, header: str) -> None:
    answer = client.get("/v1/jobs", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_wrong_secret_of_a_known_key_is_refused(client: TestClient) -> None:
    key = new_key(client)["key"]
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert client.get("/v1/jobs", headers=bearer(wrong)).status_code == 401


def test_a_revoked_key_opens_nothing_once_the_cache_has_forgotten_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert actor_cache.CACHE_SECONDS < 5
    made = new_key(client)
    assert client.get("/v1/jobs", headers=bearer(made["key"])).status_code == 200
    assert client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    monkeypatch.setattr(actor_cache, "CACHE_SECONDS", 0.0)
    assert client.get("/v1/jobs", headers=bearer(made["key"])).status_code == 401


def test_a_key_ends_when_it_expires(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_cache, "CACHE_SECONDS", 0.0)
    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    made = new_key(client, expires_at=soon)
    assert client.get("/v1/jobs", headers=bearer(made["key"])).status_code == 200
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    refused = client.patch(f"/v1/api-keys/{made['id']}", json={"expires_at": past})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/expires_at")
    assert client.patch(f"/v1/api-keys/{made['id']}", json={"expires_at": None, "name": "b"}).json()["name"] == "b"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/jobs", "jobs:read"),
        ("GET", "/v1/jobs/x/events", "jobs:read"),
        ("POST", "/v1/jobs", "jobs:write"),
        ("POST", "/v1/plans", "jobs:write"),
        ("DELETE", "/v1/jobs/x", "jobs:write"),
        ("POST", "/v1/jobs/x/cancel", "jobs:cancel"),
        ("POST", "/v1/jobs/x/pause", "jobs:cancel"),
        ("POST", "/v1/jobs/x/publications", "models:write"),
        ("GET", "/v1/jobs/x/artifacts", "artifacts:read"),
        ("GET", "/v1/artifacts/x/download", "artifacts:read"),
        ("POST", "/v1/uploads/x/parts", "models:write"),
        ("GET", "/v1/webhook-endpoints/x/deliveries", "webhooks:manage"),
        ("POST", "/v1/rules", "hooks:manage"),
        ("GET", "/v1/api-keys", "admin"),
        ("PUT", "/v1/credentials/s3", "admin"),
        ("GET", "/v1/audit-events", "admin"),
        ("POST", "/v1/workers/x/drain", "admin"),
        ("GET", "/v1/methods", None),
        ("GET", "/v1/usage", None),
        ("GET", "/v1/artifacts/x\ny/download", "artifacts:read"),
        ("GET", "/v1/credentials\n", "admin"),
        ("GET", "/v1/x\n", "admin"),
    ],
)
def test_every_call_takes_its_scope(method: str, path: str, scope: str | None) -> None:
    assert required_scope(method, path) == scope


def test_a_key_without_the_scope_is_refused_by_the_name_of_the_scope(client: TestClient) -> None:
    key = new_key(client, "prj_default", "jobs:read")["key"]
    assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    assert client.get("/v1/methods", headers=bearer(key)).status_code == 200
    answer = client.post("/v1/jobs", json=REMOTE, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "jobs:write" in answer.json()["detail"]


def test_only_operators_reach_beyond_their_project(client: TestClient) -> None:
    mine, other = new_project(client), new_project(client)
    key = new_key(client, mine)["key"]
    body = {"name": "x", "scopes": ["admin"], "project_id": other}
    assert client.post("/v1/api-keys", json=body, headers=bearer(key)).status_code == 403
    assert client.post("/v1/projects", json={"name": "x"}, headers=bearer(key)).status_code == 403
    assert [item["id"] for item in client.get("/v1/projects", headers=bearer(key)).json()["items"]] == [mine]
    assert client.patch(f"/v1/projects/{mine}", json={"quotas": {}}, headers=bearer(key)).status_code == 403
    assert client.get(f"/v1/projects/{other}", headers=bearer(key)).status_code == 404
    own = client.post("/v1/api-keys", json={"name": "x", "scopes": ["jobs:read"]}, headers=bearer(key)).json()
    assert own["project_id"] == mine


def test_a_project_is_removed_with_its_keys_unless_it_has_jobs(client: TestClient) -> None:
    project = new_project(client)
    key = new_key(client, project)
    assert client.delete(f"/v1/projects/{project}").status_code == 204
    assert client.get(f"/v1/projects/{project}").status_code == 404
    assert client.get(f"/v1/api-keys/{key['id']}").status_code == 404
    assert client.delete("/v1/projects/prj_default").status_code == 409


def test_without_loopback_every_call_takes_a_key(strict: FastAPI) -> None:
    with TestClient(strict) as client:
        assert client.get("/v1/jobs").status_code == 401
        assert client.get("/v1/methods").status_code == 401
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.com"},  # a name that now resolves to 127.0.0.1
        {"Host": "192.168.1.9:8000"},
        {"Host": "127.0.0.1:8000", "Origin": "https://example.com"},
        {"Host": "127.0.0.1:8000", "Origin": "null"},
    ],
)
def test_web_pages_of_others_cannot_use_the_loopback(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/jobs", headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_loopback_takes_no_key(client: TestClient, host: str) -> None:
    assert client.get("/v1/jobs", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_the_first_key_comes_from_the_command_line(sqlite_url: str, tmp_path: Path) -> None:
    env = {**os.environ, "ESPALIER_DATABASE_URL": sqlite_url, "ESPALIER_HOME": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("espalier")), "keys", "create", "--scope", "jobs:read"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    with TestClient(create_app(Settings(home=tmp_path, database_url=sqlite_url, host="0.0.0.0"))) as client:
        assert client.get("/v1/jobs", headers=bearer(done.stdout.strip())).status_code == 200
    wrong = subprocess.run([*command, "--scope", "nope"], env=env, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_production_refuses_default_secrets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"PEPPER.*CREDENTIALS_KEY"):
        create_app(Settings(mode="production", home=tmp_path))


def test_everything_done_is_in_the_audit_log_of_its_project(client: TestClient) -> None:
    project = new_project(client)
    key = new_key(client, project, "jobs:write", "jobs:cancel", "jobs:read")
    headers = bearer(key["key"])
    job = client.post("/v1/jobs", json=REMOTE, headers={**headers, "X-Request-ID": "mine"}).json()["id"]
    client.post(f"/v1/jobs/{job}/cancel", headers=headers)
    admin = bearer(new_key(client, project)["key"])
    events = client.get("/v1/audit-events", headers=admin).json()["items"]
    assert [item["action"] for item in reversed(events)] == [
        "project.create",
        "api_key.create",
        "job.create",
        "job.cancel",
        "api_key.create",
    ]
    assert events[2] | {"id": "", "time": ""} == {
        "id": "",
        "time": "",
        "project_id": project,
        "actor": {"type": "api_key", "id": key["id"]},
        "action": "job.create",
        "resource_id": job,
        "request_id": "mine",
        "data": {},
    }
    submit(client)
    assert len(client.get("/v1/audit-events", headers=admin).json()["items"]) == 5
