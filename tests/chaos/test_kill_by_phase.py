"""kill -9 of the child as one phase after the other begins: the job ends with the bytes of an undisturbed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.result import Artifact
from app.specs.lifecycle import Phase
from tests.fixtures.processes import running
from tests.fixtures.runs import Bench
from tests.flows.conftest import DEMO_MODEL
from workers.messages import PhaseStarted
from workers.runs.process import Commands
from workers.runs.report import Recorder, Said

SPEC: dict[str, Any] = {
    "calibration": {"samples": 16, "sequence_length": 128},
    "prune": {"method": "wanda", "sparsity": 0.6},
    "reconstruct": {"epochs": 1},
    "retrain": {"method": "perp", "steps": 6, "batch_size": 2},
    "evaluate": {"perplexity": [{"sequence_length": 128, "max_windows": 8}]},
}
KILLED: tuple[Phase, ...] = ("baseline", "calibrating", "retraining", "merging", "evaluating")
"""Pruning and reconstructing are killed in test_kill_and_resume; exporting is over before a signal arrives."""


@pytest.fixture
def bench(sqlite_url: str, tmp_path: Path) -> Bench:
    """A slot with the real children, worked by hand."""
    bench = Bench(sqlite_url, tmp_path)
    settings = bench.settings.model_copy(
        update={"local_roots": str(DEMO_MODEL.parent), "threads": 2, "lease_seconds": 30.0}
    )
    bench.services = replace(bench.services, commands=Commands(), settings=settings)
    return bench


def add(bench: Bench) -> str:
    return bench.add(request={"source": {"kind": "local", "path": str(DEMO_MODEL)}, "spec": SPEC, "reuse": "never"})


def digests(bench: Bench, job_id: str) -> dict[str, str]:
    with bench.database.reading() as session:
        rows = session.scalars(select(Artifact).where(Artifact.job_id == job_id)).all()
    return {row.name: row.sha256 for row in rows if row.name.endswith(".safetensors")}


def test_a_child_killed_in_one_phase_after_the_other_leaves_no_trace_in_the_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = bench.work(add(bench))
    assert undisturbed.state == "succeeded", undisturbed.error
    to_kill, take = list(KILLED), Recorder.take

    def kill(self: Recorder, messages: Sequence[Said]) -> None:
        take(self, messages)
        for message in messages:
            if isinstance(message, PhaseStarted) and message.phase in to_kill:
                to_kill.remove(message.phase)
                (child,) = running("workers.child")
                child.kill()

    monkeypatch.setattr(Recorder, "take", kill)
    job = bench.work(add(bench), attempts=1 + len(KILLED))

    assert to_kill == []
    assert (job.state, job.attempt) == ("succeeded", 1 + len(KILLED))
    assert [attempt.outcome for attempt in bench.attempts(job.id)] == ["lost"] * len(KILLED) + ["succeeded"]
    assert digests(bench, job.id) == digests(bench, undisturbed.id) != {}
