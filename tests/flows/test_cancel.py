"""Cancel acts in the middle of the work and leaves no process behind."""

from __future__ import annotations

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment
from tests.flows.specs import SPEC


def test_a_running_job_is_cancelled_in_the_middle_of_its_phase(shared: Deployment) -> None:
    job = shared.submit(DEMO_MODEL, {**SPEC, "calibration": {"samples": 96, "sequence_length": 256}})
    shared.wait_for(job, lambda events: any(event["phase"] == "pruning" for event in events))
    answer = shared.http.post(f"/v1/jobs/{job}/cancel")
    assert answer.status_code in {200, 202}
    assert shared.finish(job)["state"] == "cancelled"
    assert not any(
        event["type"] == "job.phase_completed" and event["phase"] == "pruning" for event in shared.events(job)
    )
    assert shared.find("workers.child") is None
    assert shared.http.post(f"/v1/jobs/{job}/cancel").status_code == 200
    assert shared.artifacts(job) == {}
