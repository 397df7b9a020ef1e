"""An objective bisects over child jobs and ends with the best one's files; the budget of trials is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import reuse
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.workers.reconcilers import reconciler
from tests.fixtures.workers.results import artifacts
from tests.fixtures.workers.runs import Bench
from workers.child_jobs import search
from workers.lease.retries import JobFailed
from workers.supervisor.worker_loop import WorkerLoop


def run(bench: Bench, **objective: Any) -> Job:
    """The scripted perplexity is 10 + sparsity ** 2: a bound of x is kept up to sqrt(10 x)."""
    spec = {
        "prune": {"method": "magnitude", "sparsity": 0.5},
        "objective": {"max_relative_perplexity_increase": 0.04, **objective},
    }
    source = {"kind": "local", "path": "/scripts/measures"}
    job_id = bench.add("measures", request={"source": source, "spec": spec, "reuse": "auto"}, resolved_spec=None)
    loop = WorkerLoop(bench.services)
    while loop.work_once() or reconciler(bench).wake():
        pass
    return bench.job(job_id)


def test_the_highest_sparsity_that_keeps_the_bound_is_found_within_the_budget(sqlite_bench: Bench) -> None:
    job = run(sqlite_bench, max_trials=8)
    assert job.state == "succeeded", job.error
    assert job.report is not None
    objective = job.report["objective"]
    assert 0.4**0.5 - 0.01 <= objective["sparsity"] <= 0.4**0.5
    with sqlite_bench.database.reading() as session:
        made = [child.id for child in reuse.children(session, job.id)]
    assert [trial["job_id"] for trial in objective["trials"]] == made
    assert len(made) <= 8
    assert [trial["kept"] for trial in objective["trials"]][:2] == [True, False]
    theirs = {name: row.key for name, row in artifacts(sqlite_bench, objective["job_id"]).items()}
    assert {name: row.key for name, row in artifacts(sqlite_bench, job.id).items()} == theirs != {}
    assert job.reused_from == objective["job_id"]


def test_a_bound_that_nothing_keeps_fails_with_what_was_tried(sqlite_bench: Bench) -> None:
    job = run(sqlite_bench, max_relative_perplexity_increase=1e-9, max_trials=2)
    assert job.state == "failed"
    assert job.error is not None
    assert "50.0%, 25.0%" in job.error["message"]


@pytest.mark.parametrize(("phase", "informative"), [("pruning", False), ("baseline", True)])
def test_numbers_of_the_dense_model_that_run_away_say_nothing_of_what_was_tried(phase: str, informative: bool) -> None:
    spec = {"prune": {"method": "magnitude", "sparsity": 0.5}, "objective": {"max_relative_perplexity_increase": 0.04}}
    error = {"class": "numerical", "phase": phase, "message": "not finite", "hint": "h"}
    trial = Job(id="job_1", name="trial 1", state="failed", request={"spec": {**spec, "objective": None}}, error=error)
    parsed = CompressionSpec.model_validate(spec)
    if informative:
        with pytest.raises(JobFailed, match="not finite"):
            search.next_step(parsed, None, [trial])
    else:
        assert search.next_step(parsed, None, [trial]) is not None


def test_a_best_trial_that_is_deleted_is_tried_again(sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    take = search.take
    deleted: list[str] = []

    def delete_first(session: Session, job: Job, winner_id: str, objective: dict[str, Any], now: datetime) -> None:
        if not deleted:
            deleted.append(winner_id)
            session.delete(session.get_one(Job, winner_id))
            session.flush()
        take(session, job, winner_id, objective, now)

    monkeypatch.setattr(search, "take", delete_first)
    job = run(sqlite_bench, max_trials=1)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.reused_from not in {None, *deleted}
    assert artifacts(sqlite_bench, job.id)
