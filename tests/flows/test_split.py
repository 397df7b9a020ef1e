"""A target on a tiny model, with real children: trials share what they can, the best candidate is recovered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.db.job import Job
from app.db.queries.jobs import reuse
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.fixtures.workers.reconcilers import reconciler
from tests.fixtures.workers.runs import Bench
from tests.flows.specs import spec
from workers.processes.process import Commands
from workers.supervisor.worker_loop import WorkerLoop

STEPS = [{"method": "block_influence", "sparsity": 0.5}, {"method": "two_ssp", "sparsity": 0.5}]


@pytest.fixture
def bench(sqlite_url: str, tmp_path: Path) -> Bench:
    """A loop with the real children, and a tiny model of four blocks."""
    bench = Bench(sqlite_url, tmp_path)
    write_tiny_model(tmp_path / "model", num_hidden_layers=4, dtype=torch.float32)
    write_texts(tmp_path)
    settings = bench.settings.model_copy(update={"local_roots": str(tmp_path), "lease_seconds": 30.0})
    bench.services = replace(bench.services, commands=Commands(), settings=settings)
    return bench


def run(bench: Bench, objective: dict[str, Any], **more: Any) -> Job:
    folder = bench.settings.home
    body = spec(folder, prune=STEPS, objective=objective, **more)
    request = {"source": {"kind": "local", "path": str(folder / "model")}, "spec": body, "reuse": "auto"}
    job_id = bench.add(request=request)
    loop = WorkerLoop(bench.services)
    while loop.work_once() or reconciler(bench).wake():
        pass
    return bench.job(job_id)


@pytest.mark.deep
def test_the_best_split_meets_its_target_and_is_recovered(bench: Bench) -> None:
    retrain = {"steps": 2, "batch_size": 2, "sequence_length": 32}
    job = run(bench, {"parameters": 48_000, "max_trials": 4}, retrain=retrain)
    assert job.state == "succeeded", job.error
    assert job.report is not None
    objective = job.report["objective"]
    assert job.report["compressed"]["parameters"] <= 48_000
    with bench.database.reading() as session:
        made = reuse.children(session, job.id)
    assert [trial["job_id"] for trial in objective["trials"]] == [child.id for child in made[:-1]]
    kept = {trial["job_id"]: trial for trial in objective["trials"] if trial["kept"]}
    assert len(kept) >= 2
    best = min(kept.values(), key=lambda trial: float(trial["relative_increase"]))
    assert best["removed"] == objective["removed"]
    assert objective["job_id"] == made[-1].id == job.reused_from
    phases = job.report["phases"]
    assert "retraining" in {phase["name"] for phase in phases}
    removals = [phase for phase in phases if phase["name"] == "pruning"][: len(job.report["protocol"]["structure"])]
    trials = {child.id for child in made[:-1]}
    assert {phase["reused_from"] for phase in removals} <= trials, "what a trial removed was removed again"
    assert all(child.request["spec"]["retrain"] is None for child in made[:-1])
    structure = {step["kind"]: step for step in job.report["protocol"]["structure"]}
    gone = len(structure["depth"]["removed_blocks"]) if "depth" in structure else 0
    assert gone == objective["removed"]["depth"]


@pytest.mark.numbers
def test_a_time_is_met_as_measured(bench: Bench) -> None:
    evaluate = {"perplexity": [{"max_windows": 2, "sequence_length": 32}]}
    job = run(bench, {"seconds_per_token": 1e-9}, evaluate=evaluate)
    assert job.state == "failed"
    assert job.error is not None
    assert "trials reached" in job.error["message"]
    dense = float(job.error["message"].rpartition(" ")[2])
    job = run(bench, {"seconds_per_token": 0.7 * dense}, evaluate=evaluate)
    assert job.report is not None, job.error
    objective = job.report["objective"]
    times = {trial["job_id"]: trial["seconds_per_token"] for trial in objective["trials"]}
    assert times[objective["job_id"]] <= 0.7 * dense * 1.00001, "printed with six digits"
    assert len(times) > 1
