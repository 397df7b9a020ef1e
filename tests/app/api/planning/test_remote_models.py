"""A model of the Hub is known before a job: by a few bytes of its files, or not, and then it is said why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.integrations.huggingface import client as app_hub
from app.integrations.huggingface import inspection
from app.services.resources import Resources
from app.settings_rules import networks
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.fixtures.servers.hub import Hub, HubRepo, hub

__all__ = ["hub"]  # a fixture

SPEC: dict[str, Any] = {
    "calibration": {"samples": 16, "sequence_length": 64},
    "prune": {"method": "wanda", "sparsity": 0.5},
    "evaluate": {"perplexity": [{"sequence_length": 64, "max_windows": 8}]},
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: what is asked here is another server."""
    return sqlite_url


@pytest.fixture
def at_hub(resources: Resources, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The stand-in, as the application's Hub."""
    monkeypatch.setattr(resources.settings, "hf_endpoint", hub.url)
    return hub


def resolve(client: TestClient, repo: str = "org/model", revision: str = "main") -> dict[str, Any]:
    source = {"kind": "huggingface", "repo": repo, "revision": revision}
    answer = client.post("/v1/models/resolve", json={"source": source})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def plan(client: TestClient, **spec: Any) -> Any:
    body = {"source": {"kind": "huggingface", "repo": "org/model"}, "spec": SPEC | spec}
    return client.post("/v1/plans", json=body)


def codes(document: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in document["warnings"]]


def test_a_model_nobody_has_met_is_described_from_its_headers(client: TestClient, at_hub: Hub) -> None:
    repo = at_hub.add_model("org/model", DEMO_MODEL, card={"cardData": {"license": "apache-2.0"}})
    model = resolve(client)
    assert (model["resolved"], model["supported"], model["why_not"]) == (True, True, None)
    assert (model["revision"], model["licence"], model["model_type"]) == (repo.commit, "apache-2.0", "llama")
    assert model["bytes"] > 5_000_000
    assert at_hub.sent_large < 600_000, "of the weights only their headers"
    asked = len(at_hub.asked)
    assert resolve(client, revision=repo.commit) == model
    assert len(at_hub.asked) == asked, "a commit that was met is not asked for again"
    assert {token for _, _, token in at_hub.asked} == {None}, "no credential leaves the API"


def test_a_plan_of_a_model_nobody_has_met_has_figures(client: TestClient, at_hub: Hub) -> None:
    repo = at_hub.add_model("org/model", DEMO_MODEL)
    planned = plan(client).json()
    assert planned["resolved_revision"] == repo.commit
    assert planned["seconds"] > 0
    assert {"baseline", "pruning"} <= {phase["name"] for phase in planned["phases"]}
    job = client.post(
        "/v1/jobs",
        json={"source": {"kind": "huggingface", "repo": "org/model"}, "spec": SPEC, "plan_id": planned["id"]},
    )
    assert job.status_code == 202, job.text


def test_a_spec_that_does_not_fit_a_remote_model_is_refused_with_its_place(client: TestClient, at_hub: Hub) -> None:
    at_hub.add_model("org/model", DEMO_MODEL)
    answer = plan(client, prune={"method": "wanda", "pattern": {"kind": "nm", "n": 5, "m": 7}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/spec/prune")


def test_shards_are_read_by_their_index(client: TestClient, at_hub: Hub, tmp_path: Any) -> None:
    at_hub.add_model("org/model", write_tiny_model(tmp_path / "sharded", max_shard_size="40KB"))
    assert resolve(client)["supported"] is True
    last = max(name for name in at_hub.models["org/model"].files if name.endswith(".safetensors"))
    del at_hub.models["org/model"].files[last]
    missing = resolve(client)
    assert missing["supported"] is False
    assert last in missing["why_not"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config.json": b'{"model_type": "mamba"}'}, "not supported"),
        ({"config.json": b'{"auto_map": {"AutoModel": "x.Y"}}'}, "auto_map"),
        ({"model.safetensors": b"PK\x03\x04" + bytes(2000)}, "zip archive"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, "can run code"),
        ({"model.safetensors": None}, "neither"),
        ({"config.json": None}, "config.json"),
    ],
)
def test_what_no_job_could_work_on_is_refused_by_both(
    files: dict[str, bytes | None], expected: str, client: TestClient, at_hub: Hub
) -> None:
    repo = at_hub.add_model("org/model", DEMO_MODEL)
    for name, data in files.items():
        repo.files.pop(name, None)
        if data is not None:
            repo.files[name] = data
    model = resolve(client)
    assert model["supported"] is False
    assert expected in model["why_not"]
    answer = plan(client)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/source"


def test_a_gated_model_tells_what_its_page_tells(client: TestClient, at_hub: Hub) -> None:
    page = {
        "cardData": {"license": "llama3"},
        "config": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        "safetensors": {"parameters": {"BF16": 8030261248}, "total": 8030261248},
    }
    at_hub.add_model("org/model", DEMO_MODEL, gated=True, token="hf_x", open_page=True, card=page)
    model = resolve(client)
    assert (model["resolved"], model["supported"], codes(model)) == (False, None, ["source_gated"])
    assert (model["parameters"], model["licence"]) == (8030261248, "llama3")
    assert "credential" in model["why_not"]
    assert codes(plan(client).json()) == ["source_gated"]
    at_hub.models["org/model"].card["config"] = {"model_type": "mamba"}
    assert resolve(client)["supported"] is False


@pytest.mark.parametrize(
    ("repo", "revision", "code"),
    [
        ("org/none", "main", "source_not_found"),
        ("org/private", "main", "source_not_found"),  # the Hub does not tell the two apart
        ("org/closed", "main", "source_gated"),
        ("org/open", "no-such-branch", "source_not_found"),
    ],
)
def test_what_the_public_does_not_see_is_a_warning(
    repo: str, revision: str, code: str, client: TestClient, at_hub: Hub
) -> None:
    at_hub.add_model("org/open", DEMO_MODEL)
    at_hub.add_model("org/private", DEMO_MODEL, token="hf_x")
    at_hub.models["org/closed"] = HubRepo({}, token="hf_x", gated=True)
    model = resolve(client, repo, revision)
    assert (model["resolved"], model["supported"], codes(model)) == (False, None, [code])
    assert model["parameters"] is None
    assert repo in model["why_not"]


def test_a_hub_in_trouble_is_a_warning_with_unknown_figures(
    client: TestClient, at_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hub.add_model("org/model", DEMO_MODEL)
    at_hub.broken = 1
    answer = plan(client)
    assert answer.status_code == 201
    problem = answer.json()
    assert (codes(problem), problem["seconds"], problem["phases"]) == (["hub_unreachable"], None, [])
    assert "503" in problem["warnings"][0]["text"]
    monkeypatch.setattr(app_hub, "SECONDS", 0.0)
    monkeypatch.setattr(inspection, "Hub", lambda endpoint: app_hub.Hub(endpoint, seconds=0.0))
    assert codes(resolve(client)) == ["hub_unreachable"]


def test_a_redirect_into_a_private_network_is_not_followed(
    client: TestClient, at_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = at_hub.add_model("org/model", DEMO_MODEL)
    monkeypatch.setattr(app_hub, "networks_of", lambda endpoint: networks("127.0.0.1/32"))
    at_hub.elsewhere = "10.0.0.1"
    model = resolve(client)
    assert codes(model) == ["hub_unreachable"]
    assert "not public" in model["why_not"]
    assert repo.commit == model["revision"]


def test_metadata_that_is_no_hub_s_is_said_so(client: TestClient, at_hub: Hub) -> None:
    repo = at_hub.add_model("org/model", DEMO_MODEL)
    repo.card["siblings"] = "none"
    model = resolve(client)
    assert codes(model) == ["hub_unreachable"]
    assert json.dumps(model)  # strangers' values stay out of it
