"""Results as new versions at MLflow: once however often they are sent, marked with where they came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db.publication import Publication
from app.integrations.mlflow.target import MlflowTarget
from app.integrations.shared.targets import PublishRequest, TargetRefused
from app.services.resources import Resources
from app.settings import Settings
from tests.fixtures.servers.mlflow import MlflowServer, basic, mlflow
from tests.fixtures.service import rows
from tests.fixtures.service.api import app, client, resources
from tests.fixtures.service.requests import submit
from workers.supervisor.publishing import Publisher

__all__ = ["app", "client", "mlflow", "resources"]

REPORT = {
    "dense": {"perplexity": {"wiki/text2": 20.0}, "bytes": 200, "parameters": 100},
    "compressed": {"perplexity": {"wiki/text2": 22.5}, "bytes": 200, "packed_bytes": 90, "nonzero_parameters": 50},
    "sparsity": {"achieved": 0.5},
}
FILES = {
    "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 5000,
    "masks.safetensors": b"m",
    "report.json": json.dumps(REPORT).encode(),
    "manifest.json": b'{"files": []}',
}
LINEAGE = {"source": "mlflow:demo", "source_version": "1", "spec_hash": "abc"}


def _request(server: MlflowServer, folder: Path, job: str = "job_1", **fields: Any) -> PublishRequest:
    return PublishRequest.model_validate(
        {
            "job_id": job,
            "target": {"kind": "mlflow", "name": "demo"},
            "files": [],
            "workspace": str(folder),
            "credentials": {"tracking_uri": server.url},
            "lineage": LINEAGE,
            **fields,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "files"
    place.mkdir()
    for name, data in FILES.items():
        (place / name).write_bytes(data)
    return place


def _tags(document: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in document["tags"]}


def test_a_version_comes_with_files_numbers_and_lineage(mlflow: MlflowServer, folder: Path) -> None:
    target = MlflowTarget(name="demo", alias="small")
    assert target.publish(_request(mlflow, folder), folder) == "models:/demo/1"
    (version,) = mlflow.registered["demo"]
    tags = _tags(version)
    manifest = hashlib.sha256(FILES["manifest.json"]).hexdigest()
    assert tags == {
        "espalier.job": "job_1",
        "espalier.source": "mlflow:demo",
        "espalier.source_version": "1",
        "espalier.spec_hash": "abc",
        "espalier.manifest": manifest,
    }
    assert "50.0%" in version["description"]
    assert mlflow.aliases == {("demo", "small"): "1"}
    root = mlflow.root("demo", "1")
    assert {name: mlflow.files[f"{root}/model/{name}"] for name in FILES} == FILES
    assert mlflow.files[f"{root}/components/tokenizer/tokenizer.json"] == b"{}"
    flavour = yaml.safe_load(mlflow.files[f"{root}/MLmodel"])["flavors"]["transformers"]
    assert (flavour["pipeline_model_type"], flavour["torch_dtype"]) == ("LlamaForCausalLM", "torch.bfloat16")
    (run,) = mlflow.runs.values()
    assert run["info"]["status"] == "FINISHED"
    assert {metric["key"]: metric["value"] for metric in run["data"]["metrics"]} == {
        "dense/perplexity/wiki_text2": 20.0,
        "compressed/perplexity/wiki_text2": 22.5,
        "sparsity": 0.5,
        "dense/bytes": 200,
        "compressed/bytes": 200,
        "compressed/packed_bytes": 90,
        "dense/parameters": 100,
        "compressed/nonzero_parameters": 50,
    }
    (model,) = mlflow.logged_models.values()
    assert model["info"]["status"] == "LOGGED_MODEL_READY"
    run_root = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert mlflow.files[f"{run_root}/report.json"] == FILES["report.json"]


CALLS = ("runs/create", "logged-models", "MLmodel", "runs/log-batch", "runs/update", "model-versions/create", "alias")


@pytest.mark.parametrize("call", CALLS)
def test_wherever_a_publisher_died_the_next_one_makes_one_version(
    mlflow: MlflowServer, folder: Path, call: str
) -> None:
    target = MlflowTarget(name="demo", alias="small")
    mlflow.dies_at = call
    with pytest.raises(TargetRefused) as caught:
        target.publish(_request(mlflow, folder), folder)
    assert caught.value.retryable
    for _ in range(2):
        assert target.publish(_request(mlflow, folder), folder) == "models:/demo/1"
    assert len(mlflow.registered["demo"]) == len(mlflow.runs) == len(mlflow.logged_models) == 1
    assert mlflow.aliases == {("demo", "small"): "1"}
    assert [path for _, path in mlflow.asked].count("/api/2.0/mlflow/registered-models/alias") <= 5  # asked, not set


def test_a_version_whose_answer_was_lost_is_found_again(mlflow: MlflowServer, folder: Path) -> None:
    target = MlflowTarget(name="demo")
    first = target.publish(_request(mlflow, folder), folder)
    # The same job computed again: equal weights, other seconds in its report and so another manifest.
    (folder / "manifest.json").write_bytes(b'{"files": [1]}')
    assert target.publish(_request(mlflow, folder), folder) == first
    # Another job that took the result over publishes the same files.
    (folder / "manifest.json").write_bytes(FILES["manifest.json"])
    assert target.publish(_request(mlflow, folder, "job_2"), folder) == first
    (folder / "manifest.json").write_bytes(b'{"files": [2]}')
    assert target.publish(_request(mlflow, folder, "job_3"), folder) == "models:/demo/2"


@pytest.mark.parametrize(
    ("fields", "broken", "retryable", "word"),
    [
        ({"credentials": {}}, 0, False, "ESPALIER_MLFLOW_TRACKING_URI"),
        ({}, 9, True, "again"),
    ],
)
def test_what_cannot_be_sent_says_why(
    mlflow: MlflowServer, folder: Path, fields: dict[str, Any], broken: int, word: str, *, retryable: bool
) -> None:
    mlflow.broken = broken
    with pytest.raises(TargetRefused) as caught:
        MlflowTarget(name="demo").publish(_request(mlflow, folder, **fields), folder)
    assert caught.value.retryable == retryable
    assert word in caught.value.hint


def test_a_packed_result_is_files_only(mlflow: MlflowServer, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.packed.safetensors")
    MlflowTarget(name="demo").publish(_request(mlflow, folder), folder)
    root = mlflow.root("demo", "1")
    assert f"{root}/model/model.packed.safetensors" in mlflow.files
    assert f"{root}/MLmodel" not in mlflow.files


# Through the API and the publisher's own process.


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path, mlflow: MlflowServer) -> Settings:
    return Settings(home=tmp_path, database_url=sqlite_url, mlflow_tracking_uri=mlflow.url)


def _done(client: TestClient, resources: Resources, **fields: Any) -> str:
    job = submit(client, source={"kind": "mlflow", "name": "demo", "version": "1"})
    return rows.succeed(resources, job, FILES, **fields)


def test_the_source_s_own_model_takes_the_version_with_the_project_s_login(
    client: TestClient, resources: Resources, mlflow: MlflowServer
) -> None:
    mlflow.registered["demo"] = [{"name": "demo", "version": "1", "tags": [], "creation_timestamp": 0}]
    mlflow.login = basic("anna", "PasswordCanary")
    job = _done(client, resources, resolved_revision="1-abc", resolved_spec={"x": 1}, work_hash="w")
    made = client.post(f"/v1/jobs/{job}/publications", json={"kind": "mlflow"})
    assert made.status_code == 202, made.text
    assert made.json()["target"]["name"] == "demo"
    publisher = Publisher(resources.database, resources.store, resources.settings)
    assert publisher.work_once()
    refused = client.get(f"/v1/jobs/{job}/publications").json()["items"][0]
    assert "PUT /v1/credentials/mlflow" in refused["error"]["hint"]
    stored = client.put("/v1/credentials/mlflow", json={"username": "anna", "password": "PasswordCanary"})
    assert stored.json()["hint"] == "anna"
    client.post(f"/v1/jobs/{job}/publications", json={"kind": "mlflow", "alias": "small"})
    assert publisher.work_once()
    publication = client.get(f"/v1/jobs/{job}/publications").json()["items"][0]
    assert (publication["state"], publication["reference"]) == ("succeeded", "models:/demo/2"), publication["error"]
    tags = _tags(mlflow.registered["demo"][1])
    assert tags["espalier.job"] == job
    assert (tags["espalier.source"], tags["espalier.source_version"]) == ("mlflow:demo", "1")
    assert (tags["espalier.source_revision"], tags["espalier.work_hash"]) == ("1-abc", "w")
    with resources.database.unit_of_work() as session:  # as if we had died before it was written down
        row = session.scalars(select(Publication).where(Publication.state == "succeeded")).one()
        row.state, row.locked_until = "pending", None
    assert publisher.work_once()
    assert len(mlflow.registered["demo"]) == 2
    answers = client.get(f"/v1/jobs/{job}/events").text + client.get(f"/v1/jobs/{job}/publications").text
    assert "PasswordCanary" not in answers


def test_a_rejected_result_goes_nowhere_and_a_model_from_elsewhere_needs_a_name(
    client: TestClient, resources: Resources, mlflow: MlflowServer
) -> None:
    rejected = _done(client, resources, gate={"verdict": "rejected", "checks": []})
    answer = client.post(f"/v1/jobs/{rejected}/publications", json={"kind": "mlflow", "name": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "gate-rejected")
    other = submit(client)
    rows.start(resources.database, other)
    rows.publish(resources.database, resources.store, other, FILES)
    answer = client.post(f"/v1/jobs/{other}/publications", json={"kind": "mlflow"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/name")
    assert mlflow.asked == []


@pytest.mark.parametrize(
    "login", [{}, {"token": "t", "username": "u", "password": "p"}, {"username": "u"}, {"token": "a b"}]
)
def test_a_login_is_a_token_or_a_user_with_a_password(client: TestClient, login: dict[str, str]) -> None:
    assert client.put("/v1/credentials/mlflow", json=login).status_code == 422
