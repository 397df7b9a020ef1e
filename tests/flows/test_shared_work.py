"""Real children and one worker: what is shared between jobs changes no bit of their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.db.job import Job
from app.db.queries.jobs import reuse
from espalier.messages import PhaseStarted
from tests.fixtures.library.jobs import local_job
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.reconcilers import reconciler
from tests.fixtures.workers.runs import Bench
from tests.flows.benches import computing_bench
from tests.flows.specs import spec
from workers.messages import RecordedMessage
from workers.supervisor.recorder import Recorder
from workers.supervisor.worker_loop import WorkerLoop

SOUP: dict[str, Any] = {
    "reconstruct": {"epochs": 1},
    "retrain": {"steps": 16, "batch_size": 2, "sequence_length": 32},  # as many as two trials of a rate ask for
    "soup": {"members": 2},
}


@pytest.fixture
def bench(sqlite_url: str, tmp_path: Path) -> Bench:
    """A loop with the real children, worked by hand, and a tiny model with texts."""
    return computing_bench(sqlite_url, tmp_path)


def run(bench: Bench, reuse: str = "auto", **more: Any) -> Job:
    """Queue a job and work until nothing is left."""
    folder = bench.settings.home
    source = {"kind": "local", "path": str(folder / "model")}
    job_id = bench.add(request={"source": source, "spec": spec(folder, **more), "reuse": reuse})
    loop = WorkerLoop(bench.services)
    while loop.work_once() or reconciler(bench).wake():
        pass
    job = bench.job(job_id)
    assert job.state == "succeeded", job.error
    return job


def reused(job: Job) -> set[str]:
    assert job.report is not None
    return {phase["name"] for phase in job.report["phases"] if phase["reused_from"]}


def test_a_job_that_starts_from_stored_phases_ends_with_the_bytes_of_one_that_does_not(bench: Bench) -> None:
    first = run(bench)
    recovered: dict[str, Any] = {"reconstruct": {"epochs": 1}, "gate": {"max_perplexity": 1e6}}
    second = run(bench, **recovered)
    alone = run(bench, "never", **recovered)
    assert reused(first) == reused(alone) == set()
    assert reused(second) == {"baseline", "pruning"}
    assert bench.digests(second.id) == bench.digests(alone.id) != bench.digests(first.id)
    assert second.report is not None
    assert alone.report is not None
    for part in ("dense", "compressed", "sparsity", "gate"):
        assert second.report[part] == alone.report[part]


@pytest.mark.deep
def test_the_second_sparsity_of_a_dense_sweep_starts_from_stored_statistics(bench: Bench) -> None:
    sparser: dict[str, Any] = {"prune": {"method": "wanda", "sparsity": 0.7}, "propagation": "dense"}
    first = run(bench, propagation="dense")
    second, alone = run(bench, **sparser), run(bench, "never", **sparser)
    assert (reused(first), reused(second)) == (set(), {"baseline", "calibrating"})
    assert bench.digests(second.id) == bench.digests(alone.id) != bench.digests(first.id)


@pytest.mark.deep
def test_a_soup_of_jobs_on_one_worker_is_the_soup_of_one_process(bench: Bench, tmp_path: Path) -> None:
    packed: dict[str, Any] = {**SOUP, "output": {"format": "packed"}}
    job = run(bench, **packed)
    with bench.database.reading() as session:
        members = reuse.children(session, job.id)
    assert [member.state for member in members] == ["succeeded"] * 2
    for member in members:
        assert {"baseline", "pruning", "reconstructing"} <= reused(member), "members start from the stored weights"
    reports = [each.report or {} for each in (job, *members)]
    of_soup, *of_members = [report["trained_parameters"]["count"] for report in reports]
    assert of_members == [of_soup] * 2 != [0] * 2
    search, *of_their_own = [report["protocol"]["retraining"].get("rate_search") for report in reports]
    assert len(search["trials"]) == 2
    assert of_their_own == [None] * 2
    rates = [member.request["spec"]["retrain"]["rate_factor"] for member in members]
    assert rates == [search["factor"]] * 2, "a job of the same spec that looks for a rate of its own is other work"
    alone = local_job(tmp_path, tmp_path / "model", tmp_path, **packed)
    alone.artifact.mkdir()
    files = {file.path: file.sha256 for file in alone.attempt().files if file.path.endswith(".safetensors")}
    assert bench.digests(job.id) == files != bench.digests(members[0].id)


@pytest.mark.chaos
def test_a_soup_killed_in_every_phase_of_every_job_is_the_same_soup(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(bench, "never", **SOUP)
    killed: set[tuple[str, str]] = set()
    take = Recorder.take

    def kill(self: Recorder, messages: Sequence[RecordedMessage]) -> None:
        take(self, messages)
        for message in messages:
            if isinstance(message, PhaseStarted) and message.phase in {"pruning", "retraining", "merging"}:
                kill_once = (self._job_id, message.phase)
                if kill_once not in killed:
                    killed.add(kill_once)
                    for child in running("workers.child"):
                        child.kill()

    monkeypatch.setattr(Recorder, "take", kill)
    monkeypatch.setattr("workers.lease.transitions.backoff_seconds", lambda *_: 0.0)
    disturbed = run(bench, "never", **SOUP)
    assert len(killed) >= 7, "the parent twice, members twice or three times each"
    assert bench.digests(disturbed.id) == bench.digests(undisturbed.id) != {}
