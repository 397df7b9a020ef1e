"""Results at their targets: the Hub (a stand-in that records what it is sent) and a prefix of a bucket."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db.publication import Publication
from app.db.session import Database
from app.services.resources import Resources
from app.settings import Settings
from app.storage.s3 import S3Store
from tests.fixtures.library.carried import CARRIED
from tests.fixtures.servers.hub import Hub, hub
from tests.fixtures.service import rows
from tests.fixtures.service.api import app, client, resources
from tests.fixtures.service.requests import submit
from workers.supervisor.publishing import Publisher

__all__ = ["app", "client", "hub", "resources"]

TOKEN = "hf_WriterCanary"
FILES = {
    "config.json": b"{}",
    "README.md": b"---\ntags: [espalier]\n---\n# x\n",
    "model.safetensors": b"w" * 5000,
    "manifest.json": b'{"files": []}',
    **CARRIED,
}


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path, hub: Hub, s3_server: str) -> Settings:
    hub.writer = TOKEN
    return Settings(home=tmp_path, database_url=sqlite_url, hf_endpoint=hub.url, publish_s3_endpoint_url=s3_server)


def _done(client: TestClient, resources: Resources, **fields: Any) -> str:
    return rows.succeed(resources, submit(client), FILES, **fields)


def _publisher(resources: Resources) -> Publisher:
    return Publisher(resources.database, resources.store, resources.settings)


def _due(database: Database) -> None:
    with database.unit_of_work() as session:
        row = session.scalars(select(Publication)).one()
        row.next_at = row.created_at


def _only(client: TestClient, job: str) -> dict[str, Any]:
    items = client.get(f"/v1/jobs/{job}/publications").json()["items"]
    assert len(items) == 1
    publication: dict[str, Any] = items[0]
    return publication


def test_a_result_goes_to_the_hub_once_however_often_it_is_sent(
    client: TestClient, resources: Resources, hub: Hub
) -> None:
    client.put("/v1/credentials/huggingface", json={"token": TOKEN})
    job = _done(client, resources)
    made = client.post(f"/v1/jobs/{job}/publications", json={"kind": "huggingface", "repo": "org/small"})
    assert made.status_code == 202, made.text
    assert _publisher(resources).work_once()
    publication = _only(client, job)
    assert publication["state"] == "succeeded", publication["error"]
    assert hub.models["org/small"].files == FILES
    assert publication["reference"] == f"org/small@{hub.models['org/small'].commit}"
    assert hub.commits == [("org/small", f"[espalier] Publish {job}", hub.commits[0][2])]
    assert set(hub.commits[0][2]) == set(FILES)
    assert hub.objects == {hashlib.sha256(FILES["model.safetensors"]).hexdigest(): FILES["model.safetensors"]}
    event = client.get(f"/v1/jobs/{job}/events").json()["items"][-1]
    assert (event["type"], event["data"]["reference"]) == ("job.published", publication["reference"])
    with resources.database.unit_of_work() as session:  # as if we had died before it was written down
        row = session.scalars(select(Publication)).one()
        row.state, row.locked_until = "pending", None
    assert _publisher(resources).work_once()
    assert len(hub.commits) == 1
    assert _only(client, job)["reference"] == publication["reference"]
    assert not _publisher(resources).work_once()
    shown = json.dumps(publication) + client.get(f"/v1/jobs/{job}/events").text
    assert TOKEN not in shown


def test_a_hub_that_is_away_is_asked_again_and_one_that_refuses_is_not(
    client: TestClient, resources: Resources, hub: Hub
) -> None:
    client.put("/v1/credentials/huggingface", json={"token": "hf_other"})
    job = _done(client, resources)
    client.post(f"/v1/jobs/{job}/publications", json={"kind": "huggingface", "repo": "org/small"})
    hub.broken = 100
    _publisher(resources).work_once()
    publication = _only(client, job)
    state, error = publication["state"], publication["error"]
    assert (state, error["class"], error["retryable"]) == ("pending", "publish_failed", True)
    assert not _publisher(resources).work_once()
    hub.broken = 0
    _due(resources.database)
    assert _publisher(resources).work_once()
    publication = _only(client, job)
    assert (publication["state"], publication["error"]["retryable"]) == ("failed", False)
    assert "token" in publication["error"]["hint"]
    assert hub.commits == []


def test_a_result_goes_to_a_prefix_with_the_manifest_last(
    client: TestClient, resources: Resources, s3_store: S3Store
) -> None:
    client.put("/v1/credentials/s3", json={"access_key_id": "test", "secret_access_key": "test"})
    job = _done(client, resources)
    uri = f"s3://{s3_store.bucket}/{s3_store.prefix}out"
    client.post(f"/v1/jobs/{job}/publications", json={"kind": "s3", "uri": uri})
    assert _publisher(resources).work_once()
    publication = _only(client, job)
    assert publication["state"] == "succeeded", publication["error"]
    assert publication["reference"] == f"{uri}/manifest.json"
    stored = {item.key.removeprefix("out/"): b"".join(s3_store.open(item.key)) for item in s3_store.list("out/")}
    assert stored == FILES


def test_without_credentials_of_the_project_nothing_is_sent(client: TestClient, resources: Resources, hub: Hub) -> None:
    job = _done(client, resources)
    client.post(f"/v1/jobs/{job}/publications", json={"kind": "s3", "uri": "s3://somebody-elses/prefix"})
    _publisher(resources).work_once()
    publication = _only(client, job)
    assert (publication["state"], "S3 keys" in publication["error"]["message"]) == ("failed", True)


def test_what_is_not_finished_or_was_rejected_is_not_published(client: TestClient, resources: Resources) -> None:
    target = {"kind": "huggingface", "repo": "org/small"}
    waiting = submit(client)
    answer = client.post(f"/v1/jobs/{waiting}/publications", json=target)
    assert (answer.status_code, answer.json()["code"]) == (409, "not-finished")
    rejected = _done(client, resources, gate={"verdict": "rejected", "checks": []})
    answer = client.post(f"/v1/jobs/{rejected}/publications", json=target)
    assert (answer.status_code, answer.json()["code"]) == (409, "gate-rejected")


def test_an_equal_call_publishes_once(client: TestClient, resources: Resources) -> None:
    job, target = _done(client, resources), {"kind": "huggingface", "repo": "org/small"}
    headers = {"Idempotency-Key": "k"}
    first = client.post(f"/v1/jobs/{job}/publications", json=target, headers=headers)
    again = client.post(f"/v1/jobs/{job}/publications", json=target, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize(
    "target",
    [
        {"kind": "s3", "uri": "http://x/y"},
        {"kind": "s3", "uri": "s3://b/../x"},
        {"kind": "s3", "uri": "s3://bucket/"},
        {"kind": "huggingface", "repo": "../x"},
        {"kind": "mlflow", "name": "a:b"},
        {"kind": "local", "path": "/"},
        {},
    ],
)
def test_other_targets_are_refused(client: TestClient, target: dict[str, str]) -> None:
    assert client.post("/v1/jobs/job_x/publications", json=target).status_code == 422
