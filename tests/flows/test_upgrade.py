"""A database of the previous version, with jobs in every state, is migrated, and its jobs are brought to their ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import inspect, select

from app.bodies.control import Retry
from app.db.commits import GroupCommit
from app.db.job import Attempt, Job
from app.db.lifecycle import STATES, TERMINAL
from app.db.migrate import is_current, run_migrations
from app.db.result import Artifact
from app.db.session import Database
from app.errors import ModelRefused
from app.platform.ids import new_id
from app.queue import WorkNotifier
from app.services.jobs import control, reads
from app.services.resources import Resources
from tests.fixtures.servers.services import new_postgres_database
from tests.fixtures.workers.reconcilers import RecordedNotifier
from tests.fixtures.workers.runs import Bench, job_fields
from workers.background.reconcile import Reconciler
from workers.supervisor.worker_loop import WorkerLoop

REVISIONS = ("0008_publications", "head-1")
"""The oldest one that is upgraded, and the one before the newest."""
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
GONE: dict[str, Any] = {"worker_id": "wrk_gone", "fence": 1, "attempt": 1, "lease_until": LONG_AGO}
"""A worker of the old version held it when everything was stopped."""
OVER: dict[str, Any] = {"started_at": LONG_AGO, "finished_at": LONG_AGO, "attempt": 1}
BEFORE_RE2: dict[str, Any] = {
    "source": {"kind": "local", "path": "/scripts/steady"},
    "reuse": "never",
    "spec": {"prune": {"method": "magnitude", "sparsity": 0.5, "targets": {"include": [r"(?=q)q_proj"]}}},
}
"""A request of a version whose patterns were of another syntax: it is shown, and cannot run."""
WERE: dict[str, tuple[dict[str, Any], str]] = {
    "queued": ({"state": "queued"}, "succeeded"),
    "running": ({"state": "running", "phase": "pruning", **GONE}, "succeeded"),
    "running without a lease": ({"state": "running", **GONE, "lease_until": None}, "succeeded"),
    "pausing": ({"state": "pausing", **GONE}, "succeeded"),
    "paused": ({"state": "paused"}, "succeeded"),
    "cancelling": ({"state": "cancelling", **GONE, "cancel_requested_at": LONG_AGO}, "cancelled"),
    "succeeded": ({"state": "succeeded", **OVER}, "succeeded"),
    "failed": ({"state": "failed", **OVER}, "succeeded"),
    "failed with a pattern of before": ({"state": "failed", "request": BEFORE_RE2, **OVER}, "failed"),
    "cancelled": ({"state": "cancelled", **OVER}, "cancelled"),
    "expired": ({"state": "expired", **OVER}, "expired"),
}
"""How a job stood, and how it stands when it was resumed if it was paused, and retried if it had failed."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'old.db'}"
        return
    with new_postgres_database(request.getfixturevalue("postgres_server")) as made:
        yield made


def _fill(url: str) -> dict[str, str]:
    """Write one job of every kind, with the columns that there are; return their ids."""
    database, made = Database(url), {}
    columns = {column["name"] for column in inspect(database.engine).get_columns("jobs")}
    with database.engine.begin() as connection:
        for name, (fields, _) in WERE.items():
            row = {**job_fields("steady", LONG_AGO), "name": name, "wait_reason": None, **fields}
            known = Job(**row)
            values = {key: value for key, value in vars(known).items() if key in columns}
            connection.execute(Job.__table__.insert().values(values))  # type: ignore[attr-defined]
            made[name] = known.id
            if known.attempt:
                attempt = {
                    "id": new_id("att"),
                    "project_id": known.project_id,
                    "job_id": known.id,
                    "number": known.attempt,
                    "fence": known.fence or 0,
                    "worker_id": "wrk_gone",
                    "outcome": None,
                    "error": None,
                    "resumed_from": None,
                    "started_at": LONG_AGO,
                    "finished_at": known.finished_at,
                }
                connection.execute(Attempt.__table__.insert().values(attempt))  # type: ignore[attr-defined]
    database.dispose()
    return made


@pytest.mark.parametrize("revision", REVISIONS)
def test_jobs_of_the_version_before_come_to_their_ends(url: str, revision: str, tmp_path: Path) -> None:
    run_migrations(url, revision)
    made = _fill(url)
    run_migrations(url)
    bench = Bench(url, tmp_path / "state")
    assert is_current(bench.database)
    assert {bench.job(id_).state for id_ in made.values()} == set(STATES)
    commits = GroupCommit(bench.database)
    resources = Resources(bench.settings, bench.database, bench.store, cast(WorkNotifier, RecordedNotifier()), commits)
    reconciler = Reconciler(bench.database, bench.store, cast(WorkNotifier, RecordedNotifier()))
    assert reconciler.recover() == 4, "running twice, pausing and cancelling: their workers are gone"
    project = bench.job(made["paused"]).project_id
    for name, id_ in made.items():
        if bench.job(id_).state == "paused":
            control.resume(resources, project, id_)
        elif name == "failed":
            control.retry(resources, project, id_, Retry.model_validate({"from": "start"}))
        elif name == "failed with a pattern of before":
            assert reads.job(bench.database, project, id_).job.request == BEFORE_RE2
            with pytest.raises(ModelRefused) as refusal:
                control.retry(resources, project, id_, Retry.model_validate({}))
            assert [item.pointer for item in refusal.value.items] == ["/spec/prune/0/targets/include/0"]
        if bench.job(id_).state == "queued":
            bench.hurry(id_)
    loop = WorkerLoop(bench.services)
    while loop.work_once():
        pass
    assert {name: bench.job(id_).state for name, id_ in made.items()} == {name: end for name, (_, end) in WERE.items()}
    with bench.database.reading() as session:
        files = set(session.scalars(select(Artifact.job_id)))
    assert files == {made[name] for name, (_, end) in WERE.items() if end == "succeeded" and name != "succeeded"}
    assert all(bench.job(id_).state in TERMINAL for id_ in made.values())
    resumed = bench.job(made["running"])
    assert (resumed.fence, resumed.attempt) == (3, 2), "a new fence when it was lost, another when it was claimed"
