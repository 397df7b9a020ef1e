"""Cancel acts within two seconds and leaves no process behind."""

from __future__ import annotations

import time

from tests.flows.conftest import DEMO_MODEL, Launch
from tests.flows.test_kill_and_resume import SPEC


def test_a_running_job_is_cancelled_within_two_seconds(launch: Launch) -> None:
    deployment = launch()
    job = deployment.submit(DEMO_MODEL, SPEC)
    deployment.wait_for(job, lambda events: any(event["phase"] == "pruning" for event in events))
    begin = time.monotonic()
    answer = deployment.http.post(f"/v1/jobs/{job}/cancel")
    assert answer.status_code in {200, 202}
    document = deployment.finish(job, timeout=10)
    assert document["state"] == "cancelled"
    assert time.monotonic() - begin < 4, "two seconds, and two for a busy machine"
    assert deployment.find("workers.child") is None
    assert deployment.http.post(f"/v1/jobs/{job}/cancel").status_code == 200
    assert deployment.artifacts(job) == {}
