"""A project that is deleted ends with all that it owns, rows and files; what still runs is in its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Table, func, select, update

from app.bodies.job import JobRequest
from app.db.base import Base
from app.db.job import Job
from app.db.session import Database, clock
from app.errors import NotFound
from app.platform.actor import DEFAULT_PROJECT, Actor, acting
from app.queue import WorkNotifier
from app.services import presets
from app.services.admission import source_cache
from app.services.jobs import submit as jobs
from app.services.resources import Resources
from app.services.tenancy.sessions import Sessions
from app.storage.base import ObjectStore
from tests.app.api.tenants import bearer, new_key, new_project, one_of_each
from tests.fixtures.service import rows as fixture
from tests.fixtures.service.hooks import SPEC
from tests.fixtures.service.requests import REMOTE, submit
from tests.fixtures.workers.reconcilers import RecordedNotifier
from workers.background.reconcile import Reconciler

KEPT = {"audit_events"}
"""What was done in it stays known."""
RARE = {
    "attempts",
    "phases",
    "metric_points",
    "layers",
    "log_lines",
    "phase_results",
    "usage_days",
    "recent_usage",
    "outbox",
}
"""What a worker writes; the rest is made below."""


def owned() -> Iterator[Table]:
    for table in Base.metadata.sorted_tables:
        if "project_id" in table.c and table.name not in KEPT:
            yield table


def count(rows: Database, project_id: str) -> dict[str, int]:
    with rows.reading() as session:
        return {
            table.name: session.scalar(select(func.count()).where(table.c.project_id == project_id)) or 0
            for table in owned()
        }


@pytest.fixture
def project(client: TestClient, resources: Resources, rows: Database) -> str:
    """One that owns one of everything: what the default project had made, moved into it."""
    own = one_of_each(client, resources)
    client.post(f"/v1/jobs/{own['artifacts'].replace('art_', 'job_')}/publications", json={})
    with rows.reading() as session:
        done = session.scalars(select(Job.id).where(Job.state == "succeeded")).one()
    target = {"kind": "huggingface", "repo": "a/b"}
    assert client.post(f"/v1/jobs/{done}/publications", json=target, headers={"Idempotency-Key": "1"}).is_success
    assert client.post(f"/v1/webhook-endpoints/{own['webhook-endpoints']}/test").is_success
    with rows.unit_of_work() as session:
        source_cache.remember(session, DEFAULT_PROJECT, {"key": {"sha256": "0"}}, now=clock(session))
    Sessions(rows, resources.settings).open(Actor("user", "somebody", DEFAULT_PROJECT, frozenset({"admin"})))
    made = new_project(client)
    with rows.unit_of_work() as session:
        for table in owned():
            session.execute(update(table).where(table.c.project_id == DEFAULT_PROJECT).values(project_id=made))
    resources.store.put_bytes(f"projects/{made}/uploads/upl_1/a.txt/00001", b"x")
    resources.store.put_bytes(f"projects/{made}/jobs/job_1/a1/config.json", b"{}")
    return made


def _end_jobs(rows: Database, project_id: str) -> None:
    with rows.unit_of_work() as session:
        session.execute(update(Job).where(Job.project_id == project_id).values(state="cancelled"))


def test_all_that_it_owns_goes_with_it(client: TestClient, resources: Resources, rows: Database, project: str) -> None:
    before = count(rows, project)
    assert {name for name, number in before.items() if not number} <= RARE
    refused = client.delete(f"/v1/projects/{project}")
    assert (refused.status_code, refused.json()["code"]) == (409, "project-in-use")
    assert count(rows, project) == before
    _end_jobs(rows, project)
    assert client.delete(f"/v1/projects/{project}").status_code == 204
    assert set(count(rows, project).values()) == {0}
    assert list(resources.store.list(f"projects/{project}/")) == []
    assert client.get(f"/v1/projects/{project}").status_code == 404
    action = client.get("/v1/audit-events").json()["items"][0]
    assert (action["action"], action["resource_id"]) == ("project.delete", project)


def test_its_keys_hooks_and_streams_are_over(client: TestClient, rows: Database) -> None:
    project = new_project(client)
    own = bearer(new_key(client, project)["key"])
    source = client.post("/v1/hook-sources", json={"kind": "generic", "name": "s"}, headers=own).json()["id"]
    assert client.get("/v1/jobs", headers=own).is_success
    assert client.delete(f"/v1/projects/{project}").status_code == 204
    assert client.post(f"/v1/hooks/{source}", content=b"{}").status_code == 404
    # A process may believe the key for some seconds more: nothing comes of it.
    for verb, path, body in (
        ("POST", "/v1/jobs", REMOTE),
        ("PUT", "/v1/presets/house", {"description": "", "spec": SPEC}),
        ("POST", "/v1/hook-sources", {"kind": "generic", "name": "s"}),
        ("POST", "/v1/api-keys", {"name": "k", "scopes": ["jobs:read"]}),
        ("PUT", "/v1/credentials/huggingface", {"token": "hf_abcdefghijkl"}),
        ("POST", "/v1/plans", {"source": REMOTE["source"], "spec": REMOTE["spec"]}),
        ("POST", "/v1/webhook-endpoints", {"url": "https://example.com"}),
        ("POST", "/v1/sweeps", {"base": REMOTE, "axes": {"/spec/prune/sparsity": [0.3, 0.5]}}),
        ("POST", "/v1/uploads", {"kind": "dataset", "files": [{"name": "a.txt", "bytes": 1, "sha256": "0" * 64}]}),
    ):
        answer = client.request(verb, path, json=body, headers=own)
        assert answer.status_code in {401, 404}, (path, answer.text)
    assert set(count(rows, project).values()) == {0}


def test_a_job_on_its_way_in_and_the_delete_take_turns(resources: Resources, rows: Database) -> None:
    """Whoever comes second finds no project, or a project in use."""
    actor = Actor("user", "somebody", "prj_gone", frozenset({"admin"}))
    with acting(actor):
        with pytest.raises(NotFound):
            jobs.submit(resources, "prj_gone", JobRequest.model_validate(REMOTE), REMOTE, None).result(60)
        with pytest.raises(NotFound):
            presets.put(rows, "prj_gone", "house", description="", spec=SPEC)
    assert set(count(rows, "prj_gone").values()) == {0}


def test_what_an_earlier_version_left_of_deleted_projects_is_collected(
    client: TestClient, resources: Resources, rows: Database
) -> None:
    job = submit(client)
    fixture.start(rows, job)
    fixture.publish(rows, resources.store, job, {"config.json": b"{}"})
    store: ObjectStore = resources.store
    store.put_bytes("projects/prj_gone/jobs/job_1/a1/config.json", b"{}")
    other = submit(client)
    with rows.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == other).values(project_id="prj_gone"))
    Reconciler(rows, store, cast(WorkNotifier, RecordedNotifier())).collect_garbage()
    assert set(count(rows, "prj_gone").values()) == {0}
    assert list(store.list("projects/prj_gone/")) == []
    assert client.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    assert list(store.list(f"projects/{DEFAULT_PROJECT}/jobs/{job}/"))
