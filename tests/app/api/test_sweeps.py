"""Sweeps: one job per point, refused as a whole with a pointer to the axis at fault, ended together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import Database
from app.services.resources import Resources
from tests.fixtures import rows as fixture

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
            **fixture.REPORT, "sparsity": {"requested": sparsity, "achieved": sparsity, "scope": "pruned matrices"},
            "compressed": {**fixture.REPORT["compressed"], "perplexity": {"python-docs": perplexity}},
        }  # fmt: skip
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
