"""kill -9 of the child, of the worker, of everything: the job succeeds, resumed, with the same bytes."""

from __future__ import annotations

import pytest

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment, checkpoints
from tests.flows.specs import SPEC


def _kill(deployment: Deployment, victim: str) -> None:
    {"child": deployment.kill_child, "worker": deployment.kill_worker, "everything": deployment.kill_everything}[
        victim
    ]()
    if victim == "everything":
        deployment.start()


@pytest.fixture(scope="module")
def untouched(shared: Deployment) -> dict[str, str]:
    """What the job gives when nobody disturbs it."""
    job = shared.submit(DEMO_MODEL, SPEC)
    assert shared.succeed(job)["attempt"] == 1
    return shared.safetensors(job)


@pytest.mark.parametrize(
    "victim",
    [
        "child",
        pytest.param("worker", marks=pytest.mark.chaos),
        pytest.param("everything", marks=pytest.mark.chaos),
    ],
)
def test_a_killed_job_resumes_from_its_last_block_and_ends_with_the_same_bytes(
    shared: Deployment, untouched: dict[str, str], victim: str
) -> None:
    job = shared.submit(DEMO_MODEL, SPEC)
    for phase in ("pruning", "reconstructing"):
        shared.wait_for(job, lambda events, phase=phase: checkpoints(events, phase) >= 1)  # type: ignore[misc]
        _kill(shared, victim)
    document = shared.succeed(job)

    assert document["attempt"] == 3, "the kills must have hit two attempts"
    assert shared.safetensors(job) == untouched
    attempts = shared.get(f"/v1/jobs/{job}/attempts")["items"]
    assert [attempt["outcome"] for attempt in attempts] == ["lost", "lost", "succeeded"]
    resumed = [attempt["resumed_from"] for attempt in attempts]
    assert resumed[0] is None
    assert resumed[1]["phase"] == "pruning"
    assert resumed[2]["phase"] == "reconstructing"
    stored = [event for event in shared.events(job) if event["type"] == "job.checkpoint"]
    names = [(event["phase"], event["data"]["name"]) for event in stored]
    assert len(names) == len(set(names)), "a stored block was computed again"
