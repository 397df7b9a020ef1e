"""kill -9 of the child, and cancel, as every phase begins and within it: the same bytes, and an end within seconds.

ESPALIER_CHAOS_TIMES (20) and ESPALIER_CHAOS_SEED make one part of the rows.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from app.db.lifecycle import TERMINAL
from espalier.messages import PhaseStarted
from espalier.recipe.phases import Phase
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.service.launch import Launch
from tests.fixtures.suite.figures import record
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.runs import Bench
from workers.messages import RecordedMessage
from workers.processes.process import Commands
from workers.supervisor.recorder import Recorder

TIMES = int(os.environ.get("ESPALIER_CHAOS_TIMES", "20"))
SEED = int(os.environ.get("ESPALIER_CHAOS_SEED", "0"))
SPEC: dict[str, Any] = {
    "calibration": {"samples": 16, "sequence_length": 128},
    "prune": {"method": "wanda", "sparsity": 0.6},
    "reconstruct": {"epochs": 1},
    "retrain": {"method": "perp", "steps": 6, "batch_size": 2},
    "evaluate": {"perplexity": [{"sequence_length": 128, "max_windows": 8}]},
}
PHASES: Final[tuple[Phase, ...]] = (
    "baseline",
    "calibrating",
    "pruning",
    "reconstructing",
    "retraining",
    "merging",
    "exporting",
    "evaluating",
)
WITHIN_SECONDS = 1.0
"""A fault comes so long after a phase began, at most; every other time at once."""

pytestmark = pytest.mark.timeout(300 * TIMES)


@pytest.fixture
def bench(sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """A loop with the real children, worked by hand."""
    bench = Bench(sqlite_url, tmp_path)
    settings = bench.settings.model_copy(
        update={"local_roots": str(DEMO_MODEL.parent), "threads": 1, "lease_seconds": 30.0}
    )
    bench.services = replace(bench.services, commands=Commands(), settings=settings)
    yield bench
    bench.database.dispose()


def add(bench: Bench) -> str:
    request = {"source": {"kind": "local", "path": str(DEMO_MODEL)}, "spec": SPEC, "reuse": "never"}
    return bench.add(request=request, max_attempts=100)


def test_a_child_killed_in_every_phase_leaves_no_trace_in_the_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = bench.work(add(bench))
    assert undisturbed.state == "succeeded", undisturbed.error
    wanted, draws = bench.digests(undisturbed.id), random.Random(SEED)
    to_kill: list[Phase] = []
    kills: Counter[str] = Counter()
    take, wait = Recorder.take, [0.0]

    def kill(phase: Phase) -> None:
        for child in running("workers.fetcher" if phase == "fetching" else "workers.child"):
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
            kills[phase] += 1

    def heard(self: Recorder, messages: Sequence[RecordedMessage]) -> None:
        take(self, messages)
        for message in messages:
            if isinstance(message, PhaseStarted) and message.phase in to_kill:
                to_kill.remove(message.phase)
                threading.Timer(wait[0], kill, [message.phase]).start()

    monkeypatch.setattr(Recorder, "take", heard)
    lost = 0
    for turn in range(TIMES):
        to_kill[:] = ["fetching", *PHASES]
        wait[0] = draws.uniform(0, WITHIN_SECONDS) if turn % 2 else 0.0
        job = bench.job(add(bench))
        while job.state not in TERMINAL:
            job = bench.work(job.id)
        assert job.state == "succeeded", job.error
        assert bench.digests(job.id) == wanted != {}
        outcomes = [attempt.outcome for attempt in bench.attempts(job.id)]
        assert set(outcomes[:-1]) <= {"lost"}
        lost += len(outcomes) - 1
    assert lost >= TIMES * len(PHASES) // 2
    record(
        "fault",
        "kill -9 of the child as fetching and each of eight phases begin, and within them",
        "x 20: all succeed, equal bytes",
        "{jobs:.0f} jobs, all with the bytes of an unkilled one; {kills:.0f} kills, {lost:.0f} attempts lost; "
        "{parts} parts by seed",
        part=f"seed {SEED}",
        jobs=TIMES,
        kills=kills.total(),
        lost=lost,
    )


def test_a_cancel_in_every_phase_ends_the_job_within_seconds(launch: Launch) -> None:
    deployment, draws = launch(ESPALIER_THREADS="1"), random.Random(SEED)
    seconds: list[float] = []
    late = 0
    for turn in range(TIMES):
        for phase in PHASES:
            job = deployment.submit(DEMO_MODEL, SPEC)
            deployment.wait_for(job, lambda events, phase=phase: _begun(events, phase))  # type: ignore[misc]
            time.sleep(draws.uniform(0, WITHIN_SECONDS) if turn % 2 else 0.0)
            deployment.http.post(f"/v1/jobs/{job}/cancel")  # 409 when it has just ended
            if deployment.finish(job)["state"] == "succeeded":
                late += 1
                continue
            seconds.append(_from_request_to_end(deployment, job))
            assert deployment.artifacts(job) == {}
    assert deployment.find("workers.child") is None
    seconds.sort()
    assert seconds[len(seconds) // 2] <= 2
    assert seconds[-1] <= 20
    record(
        "cancel",
        f"in each of {len(PHASES)} phases, at its start and within it",
        "x 20: median <= 2 s, worst <= 20 s",
        f"x {TIMES}: {len(seconds)} cancelled, median {seconds[len(seconds) // 2]:.2f} s, worst {seconds[-1]:.2f} s; "
        f"{late} had ended before",
    )


def _begun(events: list[dict[str, Any]], phase: Phase) -> bool:
    return any(event["phase"] == phase or event["type"] == "job.succeeded" for event in events)


def _from_request_to_end(deployment: Deployment, job: str) -> float:
    times = {event["type"]: datetime.fromisoformat(event["time"]) for event in deployment.events(job)}
    return (times["job.cancelled"] - times["job.cancel_requested"]).total_seconds()
