"""Prometheus: what is scraped can be parsed and says what is true."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.db.queries import leases
from app.db.queries.leases import WorkerIdentity
from app.db.result import PhaseRecord
from app.db.session import Database, clock
from tests.app.api.conftest import submit
from tests.fixtures import rows as fixture_rows

ERROR = {"class": "numerical", "retryable": False, "hint": "h", "message": "m", "phase": "pruning", "attempt": 1}


def _scrape(client: TestClient) -> dict[tuple[str, str], float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_queues_states_failures_and_latencies_are_told(
    client: TestClient, rows: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.metering.FRESH_SECONDS", 0.0)
    submit(client)
    failed = submit(client)
    fixture_rows.start(rows, failed)
    fixture_rows.end(rows, failed, "failed", error=ERROR)
    gpu = WorkerIdentity(
        id="wrk_gpu", worker_class="gpu", host="h", pid=1, device="cuda", engine_version="2", memory_bytes=80 * 2**30
    )
    with rows.unit_of_work() as session:
        now = clock(session)
        leases.register(session, gpu)
        session.add(
            PhaseRecord(
                job_id=failed, project_id="prj_default", name="pruning", attempt=1, started_at=now, finished_at=now,
                seconds=7.0, peak_memory_bytes=2**30, perplexity=None,
            )
        )  # fmt: skip
    client.get("/v1/jobs/job_unknown")
    found = _scrape(client)
    depth = [value for (name, _), value in found.items() if name == "espalier_queue_depth"]
    age = [value for (name, _), value in found.items() if name == "espalier_queue_oldest_seconds"]
    assert (sum(depth), len(age)) == (1, 1)
    assert found["espalier_jobs", "queued"] == 1
    assert found["espalier_jobs", "failed"] == 1
    assert found["espalier_failures", "numerical"] == 1
    assert found["espalier_phase_seconds", "pruning"] == 7
    assert found["espalier_phase_peak_memory_bytes", "pruning,default"] == 2**30
    assert found["espalier_device_memory_bytes", "cuda,gpu"] == 80 * 2**30
    assert found["espalier_webhooks_pending", ""] == 0
    assert found["espalier_http_request_seconds_count", "POST,/v1/jobs,202"] == 2
    assert found["espalier_http_request_seconds_count", "GET,/v1/jobs/{job_id},404"] == 1
