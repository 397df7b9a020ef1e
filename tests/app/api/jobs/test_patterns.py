"""Patterns of a request: RE2 takes them or POST refuses them, and what was stored before stays readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db.hook import Rule
from app.db.job import Job
from app.db.planning import Plan, Preset, Sweep
from app.db.session import Database
from app.services.resources import Resources
from tests.fixtures.service import rows as make
from tests.fixtures.service.hooks import Registry
from tests.fixtures.service.requests import REMOTE, submit

OLD = r"(?=q)q_proj"
AT = "/spec/prune/targets/include/0"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Patterns are not the database's."""
    return sqlite_url


def _spec(*include: str) -> dict[str, Any]:
    return {"prune": {"method": "magnitude", "sparsity": 0.5, "targets": {"include": list(include)}}}


def _places(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(item["pointer"], item["code"]) for item in answer.json()["errors"]]


@pytest.mark.parametrize("remote", [True, False])
def test_what_re2_does_not_take_is_refused_at_every_door(client: TestClient, model: Path, *, remote: bool) -> None:
    source = REMOTE["source"] if remote else {"kind": "local", "path": str(model)}
    body = {"source": source, "spec": _spec(OLD)}
    assert _places(client.post("/v1/jobs", json=body)) == [(AT, "bad-regex")]
    assert _places(client.post("/v1/plans", json=body)) == [(AT, "bad-regex")]
    axes = {"/spec/calibration/seed": [1, 2]}
    assert [code for _, code in _places(client.post("/v1/sweeps", json={"base": body, "axes": axes}))] == ["bad-regex"]
    assert _places(client.put("/v1/presets/mine", json={"spec": _spec(OLD)})) == [(AT, "bad-regex")]
    rule = {"name": "r", "source_id": Registry.new(client).id, "template": {"spec": _spec(OLD)}}
    assert _places(client.post("/v1/rules", json=rule)) == [(f"/template{AT}", "bad-regex")]
    clone = client.post(f"/v1/jobs/{submit(client)}/clone", json={"spec": _spec(OLD)})
    assert _places(clone) == [(AT, "bad-regex")]


def test_more_patterns_than_a_step_takes_are_refused(client: TestClient) -> None:
    names = [f"{number}_proj" for number in range(9)]
    answer = client.post("/v1/jobs", json={**REMOTE, "spec": _spec(*names)})
    assert _places(answer) == [("/spec/prune/targets/include", "too-many-patterns")]
    schema = client.get("/v1/spec-schema").json()["$defs"]["Targets"]["properties"]
    assert schema["include"]["maxItems"] == schema["exclude"]["maxItems"] == 8


def _old_job(client: TestClient, resources: Resources, *include: str) -> str:
    """A job of a version that took other patterns, and failed."""
    job_id, spec = submit(client), _spec(*include)
    make.start(resources.database, job_id)
    make.end(resources.database, job_id, "failed")
    with resources.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == job_id).values(request={**REMOTE, "spec": spec}, sent_spec=None))
    return job_id


def test_a_stored_job_stays_readable_and_cannot_run_again(client: TestClient, resources: Resources) -> None:
    job_id = _old_job(client, resources, OLD)
    assert client.get(f"/v1/jobs/{job_id}").json()["spec"] == _spec(OLD)
    assert job_id in [item["id"] for item in client.get("/v1/jobs").json()["items"]]
    assert client.get(f"/portal/jobs/{job_id}/spec").status_code == 200
    retried = client.post(f"/v1/jobs/{job_id}/retry", json={})
    assert retried.json()["code"] == "invalid-spec"
    assert _places(retried) == [("/spec/prune/0/targets/include/0", "bad-regex")]
    assert _places(client.post(f"/v1/jobs/{job_id}/clone", json={})) == [(AT, "bad-regex")]
    mended = client.post(f"/v1/jobs/{job_id}/clone", json={"spec": {"prune": {"targets": {"include": ["q_proj"]}}}})
    assert mended.status_code == 202


def test_a_stored_job_with_many_patterns_runs_again(client: TestClient, resources: Resources) -> None:
    job_id = _old_job(client, resources, *(f"{number}_proj" for number in range(64)))
    assert client.post(f"/v1/jobs/{job_id}/retry", json={}).status_code == 200


def test_stored_presets_and_rules_stay_readable_and_make_no_job(client: TestClient, rows: Database) -> None:
    registry = Registry.new(client)
    rule = registry.rule("run")
    assert client.put("/v1/presets/mine", json={"spec": _spec("q_proj")}).is_success
    with rows.unit_of_work() as session:
        session.execute(update(Preset).values(spec=_spec(OLD)))
        session.execute(update(Rule).values(template={"spec": _spec(OLD), "preset": None, "publish": []}))
    assert client.get("/v1/presets/mine").json()["spec"] == _spec(OLD)
    assert client.get(f"/v1/rules/{rule}").json()["template"]["spec"] == _spec(OLD)
    assert len(client.get("/v1/rules").json()["items"]) == 1
    assert client.get("/portal/new-job?preset=mine").status_code == 200
    used = client.post("/v1/jobs", json={**REMOTE, "spec": {"preset": "mine"}})
    assert [code for _, code in _places(used)] == ["bad-regex"]
    verdict = client.post(f"/v1/rules/{rule}/test", json={"delivery_id": registry.deliver()}).json()
    assert verdict["outcome"] == "refused"
    assert "RE2" in verdict["detail"]


def test_stored_sweeps_and_plans_stay_readable(client: TestClient, rows: Database) -> None:
    body = {**REMOTE, "spec": _spec("q_proj")}
    made = client.post("/v1/sweeps", json={"base": body, "axes": {"/spec/calibration/seed": [1, 2]}}).json()["id"]
    plan = client.post("/v1/plans", json=body).json()["id"]
    with rows.unit_of_work() as session:
        session.execute(update(Sweep).values(base={**REMOTE, "spec": _spec(OLD)}))
        session.execute(update(Job).values(request={**REMOTE, "spec": _spec(OLD)}, sent_spec=None))
        stored = session.get(Plan, plan)
        assert stored
        stored.document = {**stored.document, "resolved_spec": _spec(OLD)}
    assert client.get(f"/v1/sweeps/{made}").json()["base"]["spec"] == _spec(OLD)
    assert client.get(f"/v1/sweeps/{made}/pareto").status_code == 200
    assert client.get("/v1/sweeps").json()["items"][0]["base"]["spec"] == _spec(OLD)
    assert client.get(f"/v1/plans/{plan}").json()["resolved_spec"] == _spec(OLD)
    assert [item["spec"] for item in client.get("/v1/jobs").json()["items"]] == [_spec(OLD)] * 2
    assert client.get(f"/portal/sweeps/{made}").status_code == 200
