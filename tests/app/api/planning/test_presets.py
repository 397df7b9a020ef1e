"""Presets: what ships validates, explicit fields win, versions are pinned, projects have their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.bodies.job import JobRequest
from app.db.job import Job
from app.db.session import Database
from espalier.recipe.presets import BUILT_IN, expanded
from espalier.recipe.spec import CompressionSpec


@pytest.fixture
def source(model: Path) -> dict[str, Any]:
    return {"kind": "local", "path": str(model)}


def spec_of(client: TestClient, source: dict[str, Any], **spec: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"source": source, "spec": spec})
    assert answer.status_code == 202, answer.text
    resolved: dict[str, Any] = answer.json()["resolved_spec"]
    return resolved


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_what_ships_is_a_whole_spec(name: str) -> None:
    spec = CompressionSpec.model_validate({"preset": name})
    assert spec.preset == BUILT_IN[name].pinned
    assert spec.prune
    again = CompressionSpec.model_validate_json(spec.model_dump_json())
    assert again == spec, "expanded once is expanded for good"


@pytest.mark.parametrize(
    ("explicit", "prune"),
    [
        ({}, {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}),
        ({"targets": {"exclude": ["mlp"]}}, {"method": "wanda", "targets": {"exclude": ["mlp"]}}),  # fields are added
        ({"method": "ria"}, {"method": "ria", "pattern": {"kind": "nm", "n": 2, "m": 4}}),  # the pattern stays
        ({"pattern": {"kind": "unstructured"}, "sparsity": 0.3}, {"pattern": {"kind": "unstructured"}}),  # another kind
    ],
)
def test_explicit_fields_win(explicit: dict[str, Any], prune: dict[str, Any]) -> None:
    for given in (explicit, [explicit]):
        spec: Any = expanded({"preset": "2of4", "prune": given, "reconstruct": None})
        assert prune.items() <= spec["prune"].items()
        assert spec["reconstruct"] is None


@pytest.mark.parametrize(
    ("retrain", "kept"),
    [
        ({"method": "perp", "rank": 8}, (["norms", "mask_lora"], 500, 8)),
        ({"method": "full"}, ([], 500, 16)),
        ({"trainable": ["norms"]}, (["norms"], 500, 16)),
    ],
)
def test_a_retraining_keeps_the_rest_of_the_preset(retrain: dict[str, Any], kept: tuple[Any, ...]) -> None:
    resolved = CompressionSpec.model_validate({"preset": "quality", "retrain": retrain}).retrain
    assert resolved is not None
    assert (resolved.trainable, resolved.steps, resolved.rank) == kept


def test_what_shipped_before_is_still_there(client: TestClient, source: dict[str, Any]) -> None:
    old, new = (spec_of(client, source, preset=name)["prune"][0]["update"] for name in ("quality@1", "quality"))
    assert (old["kind"], new["kind"]) == ("none", "auto")
    assert [client.get(f"/v1/presets/{name}").json()["version"] for name in ("quality@1", "quality")] == [1, 2]
    assert client.get("/v1/presets/quality@1").json()["built_in"]


def test_a_job_names_a_preset_and_keeps_its_version(client: TestClient, source: dict[str, Any]) -> None:
    assert spec_of(client, source, preset="2of4")["preset"] == "2of4@1"
    resolved = spec_of(client, source, preset="fast", prune={"sparsity": 0.3})
    assert (resolved["prune"][0]["sparsity"], resolved["calibration"]["samples"]) == (0.3, 32)


def test_the_job_shows_the_spec_as_it_was_sent(client: TestClient, source: dict[str, Any]) -> None:
    sent = {"preset": "fast", "prune": {"sparsity": 0.3}}
    made = client.post("/v1/jobs", json={"source": source, "spec": sent}).json()
    assert made["spec"] == sent
    assert client.get(f"/v1/jobs/{made['id']}").json()["spec"] == sent
    assert client.get("/v1/jobs").json()["items"][0]["spec"] == sent
    cloned = client.post(f"/v1/jobs/{made['id']}/clone", json={"name": "again"}).json()
    assert cloned["resolved_spec"] == made["resolved_spec"]


def test_a_project_writes_versions_of_its_own(client: TestClient, source: dict[str, Any]) -> None:
    mine = {"description": "ours", "spec": {"prune": {"method": "magnitude", "sparsity": 0.2}}}
    first = client.put("/v1/presets/house", json=mine).json()
    assert (first["version"], first["built_in"]) == (1, False)
    mine["spec"] = {"prune": {"method": "magnitude", "sparsity": 0.4}}
    assert client.put("/v1/presets/house", json=mine).json()["version"] == 2
    assert spec_of(client, source, preset="house")["prune"][0]["sparsity"] == 0.4
    old = spec_of(client, source, preset="house@1")
    assert (old["preset"], old["prune"][0]["sparsity"]) == ("house@1", 0.2)
    # A worker has no presets at hand: what the job holds is complete.
    job_id = client.get("/v1/jobs").json()["items"][0]["id"]
    database: Database = client.app.state.resources.database  # type: ignore[attr-defined]
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        held = JobRequest.model_validate(job.request)
    assert held.spec.model_dump()["prune"][0]["sparsity"] == 0.2

    assert client.put("/v1/presets/fast", json=mine).json()["version"] == 2
    assert spec_of(client, source, preset="fast")["prune"][0]["method"] == "magnitude"
    assert spec_of(client, source, preset="fast@1")["prune"][0]["method"] == "wanda"
    assert client.delete("/v1/presets/fast").status_code == 204
    assert client.get("/v1/presets/fast").json()["version"] == 1
    assert client.delete("/v1/presets/fast").status_code == 404
    assert {item["name"] for item in client.get("/v1/presets").json()["items"]} == {*BUILT_IN, "house"}


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"prune": {"method": "magnitude", "sparsity": 2.0}}, "/spec/prune/sparsity"),
        ({"colour": "red"}, "/spec/colour"),
        ({"preset": "fast"}, "/spec/preset"),
    ],
)
def test_a_preset_that_could_never_be_used_is_refused(client: TestClient, spec: dict[str, Any], pointer: str) -> None:
    answer = client.put("/v1/presets/house", json={"spec": spec})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("name", ["unknown", "fast@7"])
def test_an_unknown_preset_is_refused(client: TestClient, source: dict[str, Any], name: str) -> None:
    answer = client.post("/v1/jobs", json={"source": source, "spec": {"preset": name}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/spec/preset"
    assert client.get(f"/v1/presets/{name}").status_code == 404


def test_the_preset_that_promised_a_speed_up_is_an_alias_that_takes_it_back(client: TestClient) -> None:
    old, new = (client.get(f"/v1/presets/{name}").json() for name in ("vllm-2of4", "2of4-retrained"))
    assert old["spec"] == new["spec"]
    assert "no speed-up in vLLM" in old["description"]
    assert old["description"].startswith("Deprecated")
