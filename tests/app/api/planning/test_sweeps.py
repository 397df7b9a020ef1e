"""Sweeps: one job per point, refused as a whole with a pointer to the axis at fault, ended together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.db.job import Job
from app.db.session import Database
from app.services.resources import Resources
from tests.app.api.tenants import bearer, new_key, new_project
from tests.fixtures.service import rows as fixture

SPARSITY = "/spec/prune/sparsity"


@pytest.fixture
def body(model: Path) -> dict[str, Any]:
    source = {"kind": "local", "path": str(model)}
    return {
        "name": "two methods",
        "base": {"source": source, "spec": {"prune": {"method": "wanda"}}, "labels": {"team": "nlp"}},
        "axes": {"/spec/prune/method": ["wanda", "magnitude"], SPARSITY: [0.5, 0.7]},
    }


def test_a_sweep_makes_one_job_per_point(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/v1/sweeps", json=body, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 202, answer.text
    sweep = answer.json()
    assert answer.headers["location"] == f"/v1/sweeps/{sweep['id']}"
    assert (sweep["state"], sweep["counts"]) == ("queued", {"queued": 4})
    assert [point["values"][SPARSITY] for point in sweep["points"]] == [0.5, 0.7, 0.5, 0.7]
    job = client.get(f"/v1/jobs/{sweep['points'][3]['job_id']}").json()
    assert (job["parent_id"], job["labels"]) == (sweep["id"], {"team": "nlp"})
    assert job["resolved_spec"]["prune"][0]["method"] == "magnitude"
    assert job["name"] == "two methods: method magnitude, sparsity 0.7"

    again = client.post("/v1/sweeps", json=body, headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.json()["id"]) == (200, sweep["id"])
    assert len(client.get("/v1/jobs").json()["items"]) == 4
    assert [row["id"] for row in client.get("/v1/sweeps").json()["items"]] == [sweep["id"]]
    assert client.get("/v1/sweeps/swp_unknown").status_code == 404

    cancelled = client.post(f"/v1/sweeps/{sweep['id']}/cancel").json()
    assert (cancelled["state"], cancelled["counts"]) == ("cancelled", {"cancelled": 4})


@pytest.mark.parametrize(
    ("axes", "pointer"),
    [
        ({SPARSITY: [0.5, 1.5]}, "/axes/~1spec~1prune~1sparsity"),  # one value is out of bounds
        ({"/spec/prune/pattern/m": [4, 8], SPARSITY: [0.5]}, "/axes/~1spec~1prune~1sparsity"),  # 2:8
        ({"/spec/prune/method/deep": [1]}, "/axes/~1spec~1prune~1method~1deep"),  # leads into a word
        ({SPARSITY: [0.5] * 9, "/spec/calibration/seed": list(range(8))}, "/axes"),  # 72 points of 64
        ({SPARSITY: []}, "/axes/~1spec~1prune~1sparsity"),
    ],
)
def test_a_grid_with_a_bad_point_is_refused_as_a_whole(
    client: TestClient, body: dict[str, Any], axes: dict[str, list[Any]], pointer: str
) -> None:
    if "pattern" in str(axes):
        body["base"]["spec"]["prune"]["pattern"] = {"kind": "nm", "n": 2}
    answer = client.post("/v1/sweeps", json={**body, "axes": axes})
    assert answer.status_code == 422, answer.text
    assert pointer in [item["pointer"] for item in answer.json()["errors"]]
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("spec", "axis", "pointer", "named"),
    [
        ({"prune": {"method": "wanda", "sparsity": 2}}, "/spec/calibration/seed", "/base{}", "/spec/prune/sparsity"),
        ({"prune": {"method": "wanda"}}, SPARSITY, "/axes/~1spec~1prune~1sparsity", SPARSITY),
        (  # parts of the axis stand on the way to a field of the base
            {"evaluate": {"perplexity": [{"dataset": {"kind": "local", "path": ""}}]}},
            "/spec/evaluate/dataset",
            "/base{}",
            "/spec/evaluate/perplexity/0/dataset/path",
        ),
    ],
)
def test_a_problem_of_a_point_names_the_fields_that_were_sent(
    client: TestClient, body: dict[str, Any], spec: dict[str, Any], axis: str, pointer: str, named: str
) -> None:
    body["base"]["spec"] = {"prune": {"method": "wanda", "sparsity": 0.5}, **spec}
    answer = client.post("/v1/sweeps", json={**body, "axes": {axis: [7]}})
    assert answer.status_code == 422, answer.text
    details = {item["pointer"]: item["detail"] for item in answer.json()["errors"]}
    assert details[pointer.format(named)].startswith(f"{named}: ")


def test_a_problem_of_a_point_with_its_model_is_one_of_its_axis(client: TestClient, body: dict[str, Any]) -> None:
    axes = {"/spec/prune/targets/include": [["nothing.here"]], SPARSITY: [0.5]}
    answer = client.post("/v1/sweeps", json={**body, "axes": axes})
    assert answer.status_code == 422, answer.text
    assert [item["pointer"] for item in answer.json()["errors"]] == ["/axes/~1spec~1prune~1targets~1include"]


def test_points_do_not_publish_over_each_other(client: TestClient, body: dict[str, Any]) -> None:
    body["base"]["spec"]["output"] = {"publish": [{"kind": "huggingface", "repo": "org/model"}]}
    answer = client.post("/v1/sweeps", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == "/base/spec/output/publish"


def test_the_front_holds_what_nothing_beats(
    client: TestClient, body: dict[str, Any], rows: Database, resources: Resources
) -> None:
    sweep = client.post("/v1/sweeps", json=body).json()
    results = [(0.5, 22.0), (0.7, 30.0), (0.5, 25.0), (0.7, 29.0)]
    for point, (sparsity, perplexity) in zip(sweep["points"], results, strict=True):
        fixture.start(rows, point["job_id"])
        report = {
            **fixture.REPORT,
            "sparsity": {"requested": sparsity, "achieved": sparsity, "scope": "pruned matrices"},
            "compressed": {**fixture.REPORT["compressed"], "perplexity": {"python-docs": perplexity}},
        }
        fixture.end(rows, point["job_id"], "succeeded", report=report)
    assert client.get(f"/v1/sweeps/{sweep['id']}").json()["state"] == "succeeded"
    front = client.get(f"/v1/sweeps/{sweep['id']}/pareto").json()
    assert front["metric"] == "python-docs"
    assert [(p["x"], p["perplexity"], p["front"], p["dense"]) for p in front["points"]] == [
        (0.0, 20.0, True, True),
        (0.5, 22.0, True, False),
        (0.7, 30.0, False, False),
        (0.5, 25.0, False, False),
        (0.7, 29.0, True, False),
    ]
    by_bytes = client.get(f"/v1/sweeps/{sweep['id']}/pareto?x=packed_bytes").json()
    assert [p["x"] for p in by_bytes["points"]] == [200.0, 130.0, 130.0, 130.0, 130.0]


FEW, MORE = [0.1, 0.2], [0.3, 0.32, 0.34, 0.36, 0.38, 0.4, 0.42, 0.44]
TARGETS = [[{"kind": "huggingface", "repo": f"org/model-{number}"}] for number in range(2)]


def test_a_sweep_asks_the_database_as_often_whatever_its_points(
    client: TestClient, body: dict[str, Any], rows: Database, model: Path
) -> None:
    project = new_project(client, max_queued_jobs=100, max_stored_bytes=10**12, max_gpu_seconds=10**9)
    bounded = bearer(new_key(client, project)["key"])
    asked: list[str] = []
    event.listen(rows.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    def statements(values: list[float], headers: dict[str, str] | None = None, **base: Any) -> int:
        asked.clear()
        whole = {"base": {**body["base"], **base}, "axes": {SPARSITY: values, "/spec/output/publish": TARGETS}}
        answer = client.post("/v1/sweeps", json=whole, headers=headers)
        assert answer.status_code == 202, answer.text
        return len(asked)

    for headers, limits in ((bounded, {}), (None, {"max_host_memory_bytes": 2**36})):  # a new model, and one met before
        statements([0.5], headers)  # what a process asks once
        assert statements(MORE, headers, limits=limits) == statements(FEW, headers, limits=limits)
        fixture.meet(rows, body["base"]["source"], {"prune": {"method": "wanda", "sparsity": 0.5}}, at=model)


def test_a_sweep_of_work_that_is_done_asks_as_often_whatever_its_points(
    client: TestClient, body: dict[str, Any], rows: Database, resources: Resources, model: Path
) -> None:
    fixture.meet(rows, body["base"]["source"], {"prune": {"method": "wanda", "sparsity": 0.5}}, at=model)
    asked: list[str] = []

    def points(values: list[float]) -> list[str]:
        asked.clear()
        answer = client.post("/v1/sweeps", json={**body, "axes": {SPARSITY: values}})
        return [point["job_id"] for point in answer.json()["points"]]

    done = points([*FEW, *MORE])
    for number, job in enumerate(done):
        fixture.start(rows, job)
        fixture.prune(rows, job, "layers.0.q_proj")
        fixture.measure(rows, job, "loss", [float(number), 0.5])
        fixture.publish(rows, resources.store, job, {"model.safetensors": b"weights", "manifest.json": b"{}"})
    event.listen(rows.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    points(FEW)
    num_asked = len(asked)
    again = points(MORE)
    assert len(asked) == num_asked
    for number, job in enumerate(again, len(FEW)):
        events = client.get(f"/v1/jobs/{job}/events").json()["items"]
        kinds = ["job.created", "job.artifact_ready", "job.artifact_ready", "job.succeeded"]
        assert [(event["seq"], event["type"]) for event in events] == list(enumerate(kinds, 1))
        assert client.get(f"/v1/jobs/{job}").json()["reused_from"] == done[number]
        assert len(client.get(f"/v1/jobs/{job}/artifacts").json()["items"]) == 2
        assert [row["name"] for row in client.get(f"/v1/jobs/{job}/layers").json()["items"]] == ["layers.0.q_proj"]
        (series,) = client.get(f"/v1/jobs/{job}/metrics").json()["items"]
        assert series["points"][0]["value"] == number


def test_points_of_equal_work_find_each_other_and_what_was_there(
    client: TestClient, body: dict[str, Any], rows: Database, resources: Resources, model: Path
) -> None:
    fixture.meet(rows, body["base"]["source"], {"prune": {"method": "wanda", "sparsity": 0.5}}, at=model)

    def points(axes: dict[str, list[Any]]) -> list[dict[str, Any]]:
        answer = client.post("/v1/sweeps", json={**body, "axes": axes})
        assert answer.status_code == 202, answer.text
        with rows.reading() as session:
            jobs = [session.get_one(Job, point["job_id"]) for point in answer.json()["points"]]
        return [{"id": job.id, "state": job.state, "for": job.waits_for, "from": job.reused_from} for job in jobs]

    twins = points({SPARSITY: [0.5, 0.7, 0.5, 0.5]})
    first = twins[0]["id"]
    assert [point["for"] for point in twins] == [None, None, first, first]
    assert [point["for"] for point in points({SPARSITY: [0.5, 0.6]})] == [first, None]

    alone, waiting = points({"/reuse": ["never", "auto"], SPARSITY: [0.8]})
    assert (alone["for"], waiting["for"]) == (None, alone["id"])

    fixture.start(rows, first)
    fixture.publish(rows, resources.store, first, {"model.safetensors": b"weights", "manifest.json": b"{}"})
    over = points({SPARSITY: [0.5, 0.5, 0.7], "/reuse": ["auto"]})
    assert [(point["state"], point["from"]) for point in over[:2]] == [("succeeded", first)] * 2
    assert over[2]["for"] == twins[1]["id"]
    actions = [row["action"] for row in client.get("/v1/audit-events?limit=200").json()["items"]]
    assert (actions.count("sweep.create"), actions.count("job.create")) == (4, 11)
