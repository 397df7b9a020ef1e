"""Plans tell what a job would take, are calibrated by what jobs took, and bind the job that names them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.job import Job
from app.db.planning import Plan
from app.db.result import PhaseRecord
from app.db.session import Database, clock
from app.services.admission import source_cache
from app.services.resources import Resources
from espalier.memory.accelerators import H200, phase_seconds
from espalier.memory.constants import LIBRARIES_BYTES
from espalier.memory.text import tokenising_bytes
from espalier.probe import probe
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.service import rows as fixture
from tests.fixtures.service.requests import REMOTE


@pytest.fixture
def body(model: Path) -> dict[str, Any]:
    spec = {
        "calibration": {"samples": 16, "sequence_length": 64},
        "prune": {"method": "wanda", "sparsity": 0.5},
        "retrain": {"steps": 10},
        "evaluate": {"perplexity": [{"sequence_length": 64, "max_windows": 8}]},
    }
    return {"source": {"kind": "local", "path": str(model)}, "spec": spec}


def plan(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/plans", json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def seconds(document: dict[str, Any]) -> dict[str, float]:
    return {phase["name"]: phase["seconds"] for phase in document["phases"]}


def test_a_plan_tells_every_phase_and_makes_no_job(client: TestClient, body: dict[str, Any]) -> None:
    planned = plan(client, body)
    assert {"baseline", "pruning", "retraining", "evaluating", "uploading"} <= set(seconds(planned))
    assert "reconstructing" not in seconds(planned)
    assert planned["seconds"] >= sum(seconds(planned).values())
    assert all(phase["memory_bytes"] > 0 for phase in planned["phases"] if phase["name"] == "pruning")
    assert planned["resolved_spec"]["prune"][0]["sparsity"] == 0.5
    assert {"no_speed_up", "not_calibrated"} <= {warning["code"] for warning in planned["warnings"]}
    assert client.get(f"/v1/plans/{planned['id']}").json() == planned
    assert client.get("/v1/plans/pln_unknown").status_code == 404
    assert client.get("/v1/jobs").json()["items"] == []
    more = {**body, "spec": {**body["spec"], "retrain": {"steps": 20}}}
    assert seconds(plan(client, more))["retraining"] > 1.9 * seconds(planned)["retraining"]


def test_a_plan_of_a_search_counts_its_jobs_and_a_smaller_model_is_not_called_as_large(
    client: TestClient, body: dict[str, Any]
) -> None:
    prune = [{"method": "angular", "sparsity": 0.5}, {"method": "structured_obs", "sparsity": 0.5}]
    spec = {**body["spec"], "prune": prune, "retrain": None}
    assert not {"no_speed_up", "searches"} & {item["code"] for item in plan(client, {**body, "spec": spec})["warnings"]}
    searching = {**spec, "objective": {"seconds_per_token": 0.001, "max_trials": 5}}
    warnings = plan(client, {**body, "spec": searching})["warnings"]
    assert any(item["code"] == "searches" and "5 jobs" in item["text"] for item in warnings)


def test_a_teacher_is_told_and_one_that_does_not_fit_too(
    client: TestClient, body: dict[str, Any], rows: Database, model: Path
) -> None:
    def said(trainer: dict[str, Any], **fields: Any) -> dict[str, str]:
        spec = {**body["spec"], "retrain": {"steps": 10, "trainable": ["norms"], **trainer}}
        warnings = {item["code"]: item["text"] for item in plan(client, {**body, "spec": spec, **fields})["warnings"]}
        return {code: text for code, text in warnings.items() if code.startswith(("teacher", "retraining"))}

    parameters = probe(model).parameters
    each, twice = (-(-count * parameters // 2**20) for count in (4, 8))
    assert said({}) == {}
    assert said({"loss": "kl"}) == {
        "teacher_in_memory": f"Retraining beside a dense teacher takes about {twice} MiB of memory."
    }
    fixture.see(rows, device="cuda", memory_bytes=3 * parameters)
    (text,) = said({"loss": "kl"}).values()
    assert f"and a job here has {int(0.9 * 3 * parameters) // 2**20} MiB. Train fewer windows at a time" in text
    fixture.see(rows, device="cuda", memory_bytes=10**12)
    # On a GPU the forward pass is in bfloat16: the model and its teacher are four bytes a parameter.
    assert said({"loss": "kl"}) == {
        "teacher_in_memory": f"Retraining beside a dense teacher takes about {each} MiB of memory."
    }
    assert set(said({}, limits={"max_device_memory_bytes": 2**20})) == {"retraining_does_not_fit"}
    assert said({"method": "full", "trainable": []}) == {}


def test_a_plan_of_a_model_beyond_its_workers_says_by_blocks_and_counts_so(
    client: TestClient, body: dict[str, Any], rows: Database, model: Path
) -> None:
    spec = {**body["spec"], "retrain": None, "evaluate": {"perplexity": [{"sequence_length": 16, "max_windows": 1}]}}
    fixture.see(rows, device="cuda", memory_bytes=2 * probe(model).parameters)
    limited = plan(client, {**body, "spec": spec})
    fixture.see(rows, device="cuda")
    whole = plan(client, {**body, "spec": spec})
    assert "by_blocks" not in {item["code"] for item in whole["warnings"]}
    (text,) = [item["text"] for item in limited["warnings"] if item["code"] == "by_blocks"]
    assert "block by block" in text
    assert "Latency is not measured" in text
    peaks = [{row["name"]: row["memory_bytes"] for row in each["phases"]} for each in (whole, limited)]
    assert peaks[0]["evaluating"] > peaks[0]["baseline"], "the dense model is timed beside the result"
    assert peaks[1]["evaluating"] == peaks[1]["baseline"]


def test_finished_jobs_calibrate_the_seconds(
    client: TestClient, body: dict[str, Any], rows: Database, resources: Resources, model: Path
) -> None:
    job = client.post("/v1/jobs", json=body).json()["id"]
    _finish(rows, resources, body, model, job, pruning_seconds=7.0)
    with rows.unit_of_work() as session:
        session.get_one(Job, job).running_seconds = 20.0
    planned = plan(client, body)
    assert planned["calibrated_by"] == 1
    assert seconds(planned)["pruning"] == pytest.approx(7.0)
    assert planned["seconds"] == pytest.approx(20.0 - 7.0 + sum(seconds(planned).values())), "starting it took 13 s"
    twice = {**body, "spec": {**body["spec"], "retrain": None, "calibration": {"samples": 32, "sequence_length": 64}}}
    assert 7.0 < seconds(plan(client, twice))["pruning"] < 14.1


def test_a_class_of_gpus_is_reckoned_by_its_kind_until_a_job_has_finished(
    client: TestClient, body: dict[str, Any], rows: Database, resources: Resources, model: Path
) -> None:
    slow = plan(client, body)
    fixture.see(rows, device="cuda", memory_bytes=141 * 10**9)
    planned = plan(client, body)
    (text,) = [item["text"] for item in planned["warnings"] if item["code"] == "not_calibrated"]
    assert "one H200" in text
    facts, spec = probe(model), CompressionSpec.model_validate(planned["resolved_spec"])
    for name, expected in phase_seconds(spec, facts.shape, H200, file_bytes=facts.bytes).items():
        assert seconds(planned)[name] == pytest.approx(expected, abs=1e-3)
    assert seconds(planned)["retraining"] < seconds(slow)["retraining"] / 1000
    assert seconds(planned)["uploading"] == seconds(slow)["uploading"], "the network is another matter"
    job = client.post("/v1/jobs", json=body).json()["id"]
    _finish(rows, resources, body, model, job, pruning_seconds=7.0)
    assert seconds(plan(client, body))["pruning"] == pytest.approx(7.0), "what was measured counts"


def test_what_takes_a_cpu_years_is_no_mistake_on_a_gpu(
    client: TestClient, body: dict[str, Any], rows: Database
) -> None:
    body["spec"]["retrain"] = {"steps": 100_000, "batch_size": 4096}
    codes = []
    for device in ("cpu", "cuda"):
        fixture.see(rows, device=device, memory_bytes=(16 if device == "cpu" else 141) * 10**9)
        planned, job = plan(client, body), client.post("/v1/jobs", json={**body, "name": device}).json()
        codes.append(["runs_long" in {item["code"] for item in each["warnings"]} for each in (planned, job)])
    assert codes == [[True, True], [False, False]]


def _finish(
    rows: Database, resources: Resources, body: dict[str, Any], model: Path, job: str, *, pruning_seconds: float
) -> None:
    """Let a job succeed, and its model and the seconds of one phase be known."""
    fixture.start(rows, job)
    fixture.end(rows, job, "succeeded", report=fixture.REPORT)
    source = source_cache.source_key(body["source"])
    assert source is not None
    facts = probe(model.resolve(), resources.settings.roots).model_dump(mode="json")
    with rows.unit_of_work() as session:
        now = clock(session)
        source_cache.remember(session, "prj_default", {source: {"revision": "r1", "facts": facts}}, now=now)
        session.add(
            PhaseRecord(
                job_id=job,
                project_id="prj_default",
                name="pruning",
                attempt=1,
                started_at=now,
                finished_at=now,
                seconds=pruning_seconds,
                peak_memory_bytes=1,
                perplexity=None,
            )
        )


@pytest.mark.parametrize(
    ("fields", "counted", "expected"),
    [
        ({"cycles": {"count": 3}}, 1, 7.0),  # 21 seconds are those of three cycles
        ({"soup": {"members": 2}}, 0, None),  # its retraining is another job's
    ],
)
def test_seconds_of_cycles_are_shared_and_a_soup_teaches_nothing(
    client: TestClient,
    body: dict[str, Any],
    rows: Database,
    resources: Resources,
    model: Path,
    fields: dict[str, Any],
    counted: int,
    expected: float | None,
) -> None:
    job = client.post("/v1/jobs", json={**body, "spec": {**body["spec"], **fields}}).json()["id"]
    _finish(rows, resources, body, model, job, pruning_seconds=21.0)
    planned = plan(client, body)
    assert planned["calibrated_by"] == counted
    assert expected is None or seconds(planned)["pruning"] == pytest.approx(expected)


def test_a_plan_of_a_soup_counts_its_members(client: TestClient, body: dict[str, Any]) -> None:
    alone = plan(client, body)
    soup = plan(client, {**body, "spec": {**body["spec"], "soup": {"members": 2}}})
    assert "members" in {item["code"] for item in soup["warnings"]} - {item["code"] for item in alone["warnings"]}
    assert seconds(soup)["exporting"] == pytest.approx(3 * seconds(alone)["exporting"], abs=0.01)
    overhead = [document["seconds"] - sum(seconds(document).values()) for document in (alone, soup)]
    assert overhead[1] == pytest.approx(3 * overhead[0], abs=0.01)


def test_a_job_follows_its_plan_or_is_refused(client: TestClient, body: dict[str, Any], rows: Database) -> None:
    planned = plan(client, body)
    assert client.post("/v1/jobs", json={**body, "plan_id": planned["id"], "name": "planned"}).status_code == 202
    other = {**body, "spec": {**body["spec"], "retrain": None}, "plan_id": planned["id"]}
    for wrong, code in ((other, "unequal-plan"), ({**body, "plan_id": "pln_" + "0" * 26}, "no-such-plan")):
        answer = client.post("/v1/jobs", json=wrong)
        assert answer.status_code == 422
        assert [(e["pointer"], e["code"]) for e in answer.json()["errors"]] == [("/plan_id", code)]
    with rows.unit_of_work() as session:
        row = session.get(Plan, planned["id"])
        assert row is not None
        row.expires_at -= timedelta(days=2)
    assert client.post("/v1/jobs", json={**body, "plan_id": planned["id"]}).json()["errors"][0]["code"] == "stale-plan"


def test_what_nobody_has_seen_is_said_so(client: TestClient) -> None:
    planned = plan(client, REMOTE)
    assert (planned["phases"], planned["seconds"]) == ([], None)
    assert planned["warnings"][0]["code"] == "hub_unreachable"
    resolved = client.post("/v1/models/resolve", json={"source": REMOTE["source"]}).json()
    assert (resolved["resolved"], resolved["supported"]) == (False, None)


def test_a_model_is_described_or_refused_with_a_reason(client: TestClient, model: Path) -> None:
    source = {"kind": "local", "path": str(model)}
    described = client.post("/v1/models/resolve", json={"source": source}).json()
    assert (described["supported"], described["model_type"], described["why_not"]) == (True, "llama", None)
    assert described["parameters"] > 1_000_000
    (model / "config.json").write_text('{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}')
    refused = client.post("/v1/models/resolve", json={"source": source}).json()
    assert refused["supported"] is False
    assert refused["why_not"]
    outside = client.post("/v1/models/resolve", json={"source": {"kind": "local", "path": "/etc"}})
    assert outside.status_code == 422


ABSURD: list[tuple[str, dict[str, Any]]] = [
    ("no_credential", {"output": {"publish": [{"kind": "huggingface", "repo": "org/out"}]}}),
    ("no_credential", {"output": {"publish": [{"kind": "s3", "uri": "s3://bucket/out"}]}}),
    ("wide_gate", {"gate": {"max_relative_perplexity_increase": 10}}),
    ("little_is_left", {"prune": {"method": "wanda", "sparsity": 0.99}}),
    ("runs_long", {"retrain": {"steps": 100_000, "batch_size": 4096}}),
    ("dataset_without_owner", {"calibration": {"dataset": {"kind": "huggingface", "name": "wikitext"}, "samples": 4}}),
]


@pytest.mark.parametrize(("code", "spec"), ABSURD, ids=[code for code, _ in ABSURD])
def test_what_is_most_likely_a_mistake_is_said_in_plan_and_answer(
    client: TestClient, body: dict[str, Any], code: str, spec: dict[str, Any]
) -> None:
    asked = {**body, "spec": {**body["spec"], **spec}}
    answer = client.post("/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    for document in (plan(client, asked), answer.json(), client.get(answer.headers["location"]).json()):
        assert code in [warning["code"] for warning in document["warnings"]]
    assert client.post("/v1/jobs", json=body).json()["warnings"] == []


def test_a_stored_credential_is_not_missed(client: TestClient, body: dict[str, Any]) -> None:
    assert client.put("/v1/credentials/huggingface", json={"token": "hf_x"}).status_code < 300
    output = {"publish": [{"kind": "huggingface", "repo": "org/out"}]}
    asked = {**body, "spec": {**body["spec"], "output": output}}
    assert client.post("/v1/jobs", json=asked).json()["warnings"] == []


def test_a_limit_that_cannot_hold_the_job_is_refused_with_the_least_that_would(
    client: TestClient, body: dict[str, Any], rows: Database
) -> None:
    fixture.see(rows)
    # What the plan says is enough: nobody who takes his limit from it is refused.
    largest = max(phase["memory_bytes"] for phase in plan(client, body)["phases"])
    for path in ("/v1/plans", "/v1/jobs"):
        answer = client.post(path, json={**body, "limits": {"max_host_memory_bytes": 300_000_000}})
        assert answer.status_code == 422
        (problem,) = answer.json()["errors"]
        assert problem["pointer"] == "/limits/max_host_memory_bytes"
        smallest = int(problem["detail"].rsplit(" ", 1)[-1])
        assert client.post(path, json={**body, "limits": {"max_host_memory_bytes": smallest - 1}}).status_code == 422
        assert client.post(path, json={**body, "limits": {"max_host_memory_bytes": smallest}}).status_code in {201, 202}
        assert smallest <= largest


@pytest.mark.parametrize("phase", ["baseline", "pruning", "retraining", "evaluating"])
def test_memory_of_a_phase_contains_the_libraries_and_the_text(
    client: TestClient, body: dict[str, Any], phase: str, model: Path
) -> None:
    def told(spec: dict[str, Any]) -> int:
        rows = plan(client, {**body, "spec": spec})["phases"]
        return int(next(row["memory_bytes"] for row in rows if row["name"] == phase))

    assert told(body["spec"]) > LIBRARIES_BYTES
    long = model.parent / "long.txt"
    with long.open("wb") as file:
        file.truncate(64 * 2**20)
    dataset = {"kind": "local", "path": str(long)}
    read = {**body["spec"], "calibration": {**body["spec"]["calibration"], "dataset": dataset}}
    assert told(read) >= LIBRARIES_BYTES + tokenising_bytes(64 * 2**20)


def test_memory_of_a_class_with_a_gpu_is_what_lies_there(
    client: TestClient, body: dict[str, Any], rows: Database, model: Path
) -> None:
    def told() -> dict[str, int]:
        phases = plan(client, {**body, "spec": {**body["spec"], "evaluate": {"perplexity": []}}})["phases"]
        return {phase["name"]: phase["memory_bytes"] for phase in phases}

    on_cpu = told()
    fixture.see(rows, device="cuda")
    assert on_cpu["baseline"] > LIBRARIES_BYTES
    assert told()["baseline"] == 2 * probe(model).parameters
