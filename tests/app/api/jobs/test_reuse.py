"""A POST whose work is done answers 201 with the files; whose work is in hand, waits; the rest is as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.job import Job
from app.db.session import Database
from app.services.resources import Resources
from tests.fixtures.service import rows as fixture

SPEC: dict[str, Any] = {"prune": {"method": "magnitude", "sparsity": 0.5}}


@pytest.fixture
def body(model: Path) -> dict[str, Any]:
    return {"source": {"kind": "local", "path": str(model)}, "spec": SPEC}


@pytest.fixture
def seen(rows: Database, body: dict[str, Any], model: Path) -> None:
    """A worker has met the model and the texts before."""
    fixture.meet(rows, body["source"], SPEC, at=model)


@pytest.mark.usefixtures("seen")
def test_equal_work_is_answered_at_once_with_its_files(
    client: TestClient, resources: Resources, rows: Database, body: dict[str, Any]
) -> None:
    first = client.post("/v1/jobs", json=body).json()
    assert first["work_hash"]
    assert first["source"]["resolved_revision"] == "r1"
    fixture.start(rows, first["id"])
    fixture.publish(rows, resources.store, first["id"], {"model.safetensors": b"weights", "manifest.json": b"{}"})

    answer = client.post("/v1/jobs", json={**body, "name": "again", "labels": {"a": "b"}, "reuse": "require"})
    assert answer.status_code == 201, answer.text
    second = answer.json()
    assert (second["state"], second["progress"], second["reused_from"]) == ("succeeded", 1.0, first["id"])
    assert second["name"] == "again"
    assert second["result"] == client.get(f"/v1/jobs/{first['id']}").json()["result"]
    files = client.get(f"/v1/jobs/{second['id']}/artifacts").json()["items"]
    assert [file["name"] for file in files] == ["model.safetensors", "manifest.json"]
    assert client.get(f"/v1/artifacts/{files[0]['id']}/download").content == b"weights"
    kinds = [event["type"] for event in client.get(f"/v1/jobs/{second['id']}/events").json()["items"]]
    assert kinds == ["job.created", "job.artifact_ready", "job.artifact_ready", "job.succeeded"]
    assert client.get(f"/v1/jobs/{second['id']}/report").status_code == 200

    assert client.post("/v1/jobs", json={**body, "reuse": "never"}).status_code == 202
    other = {**body, "spec": {"prune": {"method": "magnitude", "sparsity": 0.25}}}
    assert client.post("/v1/jobs", json=other).status_code == 202


@pytest.mark.usefixtures("seen")
def test_work_in_hand_is_waited_for(client: TestClient, body: dict[str, Any], rows: Database) -> None:
    first = client.post("/v1/jobs", json=body).json()
    second = client.post("/v1/jobs", json=body).json()
    assert (second["state"], second["wait_reason"]) == ("queued", "dependency")
    with rows.reading() as session:
        job = session.get(Job, second["id"])
        assert job is not None
        assert job.waits_for == first["id"]


def test_nothing_to_reuse_is_a_conflict_where_that_is_known(
    client: TestClient, body: dict[str, Any], seen: None
) -> None:
    answer = client.post("/v1/jobs", json={**body, "reuse": "require"})
    assert answer.status_code == 409
    assert answer.json()["code"] == "no-equal-result"
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.usefixtures("seen")
def test_a_model_that_changed_is_other_work(client: TestClient, body: dict[str, Any], model: Path) -> None:
    assert client.post("/v1/jobs", json=body).json()["work_hash"]
    (model / "generation_config.json").write_text("{}")
    assert client.post("/v1/jobs", json=body).json()["work_hash"] is None
