"""Prometheus: what is scraped can be parsed and says what is true."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from app.api.guard import RequestContext
from app.api.metering import RequestMeter
from app.api.metrics_registry import MetricsRegistry
from app.db.queries.queue import leases, measures
from app.db.queries.queue.leases import WorkerIdentity
from app.db.result import PhaseRecord
from app.db.session import Database, clock
from tests.fixtures.servers.processes import free_port
from tests.fixtures.service import rows as fixture_rows
from tests.fixtures.service.requests import submit
from tests.fixtures.suite.patience import Patience

ROOT = Path(__file__).resolve().parents[4]
COUNTERS = ("_count", "_sum", "_bucket")

ERROR = {"class": "numerical", "retryable": False, "hint": "h", "message": "m", "phase": "pruning", "attempt": 1}


def test_a_client_that_leaves_is_no_failure_of_ours() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    async def never(*_: object) -> Any:
        raise AssertionError("nobody is there")

    registry = MetricsRegistry()
    scope = {"type": "http", "method": "PUT", "path": "/", "headers": []}
    with capture_logs() as logs:
        asyncio.run(RequestContext(RequestMeter(app, registry=registry))(scope, never, never))
    assert [entry["log_level"] for entry in logs] == ["info"]
    (seconds,) = (family for family in registry.exposed.collect() if family.name == "espalier_http_request_seconds")
    assert {sample.labels["status"] for sample in seconds.samples} == {"499"}


def _scrape(client: httpx.Client | TestClient) -> dict[tuple[str, str], float]:
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
        leases.seen(session, gpu.id, job_id=None, device_lost=True)
        measures.note_sweep(session)
        session.add(
            PhaseRecord(
                job_id=failed,
                project_id="prj_default",
                name="pruning",
                attempt=1,
                started_at=now,
                finished_at=now,
                seconds=7.0,
                peak_memory_bytes=2**30,
                perplexity=None,
            )
        )
    client.get("/v1/jobs/job_unknown")
    samples = _scrape(client)
    depth = [value for (name, _), value in samples.items() if name == "espalier_queue_depth"]
    age = [value for (name, _), value in samples.items() if name == "espalier_queue_oldest_seconds"]
    assert (sum(depth), len(age)) == (1, 1)
    assert samples["espalier_jobs", "queued"] == 1
    assert samples["espalier_jobs", "failed"] == 1
    assert samples["espalier_failures", "numerical"] == 1
    assert samples["espalier_phase_seconds", "pruning"] == 7
    assert samples["espalier_phase_peak_memory_bytes", "pruning,default"] == 2**30
    assert samples["espalier_device_memory_bytes", "cuda,gpu"] == 80 * 2**30
    assert samples["espalier_webhooks_pending", ""] == 0
    assert samples["espalier_workers", "gpu"] == 1
    assert samples["espalier_workers", "default"] == 0  # a class that is configured and has none
    assert (samples["espalier_devices_lost", "gpu"], samples["espalier_devices_lost", "default"]) == (1, 0)
    assert 0 <= samples["espalier_reconciler_last_sweep_seconds", ""] < 60
    assert samples["espalier_http_request_seconds_count", "POST,/v1/jobs,202"] == 2
    assert samples["espalier_http_request_seconds_count", "GET,/v1/jobs/{job_id},404"] == 1


@pytest.fixture
def two_processes(sqlite_url: str, tmp_path: Path) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """The service as its image starts it, on SQLite; every request comes by a connection of its own."""
    (tmp_path / f"espalier-api-{os.getuid()}-4194305-1").mkdir()  # of a service that is gone
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "ESPALIER_HOME": str(tmp_path / "home"),
        "ESPALIER_DATABASE_URL": sqlite_url,
        "ESPALIER_HOST": "127.0.0.1",
        "ESPALIER_PORT": str(free_port()),
        "ESPALIER_API_PROCESSES": "2",
    }
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["sh", ROOT / "docker/entrypoint.sh", "api"], env=environment, stdout=output, stderr=output
        )
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=f"http://127.0.0.1:{environment['ESPALIER_PORT']}", limits=limits, timeout=60) as client:
        try:
            patience = Patience(60)
            while log.read_text().count("Application startup complete") < 2:
                patience.pause(0.1, log.read_text())
            yield psutil.Process(process.pid), client
        finally:
            process.terminate()
            process.wait()


@pytest.mark.deep
def test_two_processes_count_as_one(two_processes: tuple[psutil.Process, httpx.Client], tmp_path: Path) -> None:
    parent, client = two_processes
    for _ in range(30):
        assert client.get("/v1/methods").status_code == 200
    scrapes = [_scrape(client) for _ in range(10)]
    for before, after in pairwise(scrapes):
        assert before.keys() <= after.keys()
        counters = [name for name in before if name[0].endswith(COUNTERS)]
        assert all(before[name] <= after[name] for name in counters)
        assert {k: v for k, v in before.items() if k[0] == "espalier_jobs"} == {
            k: v for k, v in after.items() if k[0] == "espalier_jobs"
        }
    counts = [scrape["espalier_http_request_seconds_count", "GET,/v1/methods,200"] for scrape in scrapes]
    assert counts == [30.0] * 10
    buckets = [scrape["espalier_http_request_seconds_bucket", "+Inf,GET,/v1/methods,200"] for scrape in scrapes]
    assert buckets == counts
    totals = [scrape["espalier_http_request_seconds_count", "GET,/metrics,200"] for scrape in scrapes[1:]]
    # A request is counted when its answer is on its way: the other process may be asked before that.
    assert all(earlier - 1 <= total <= earlier for earlier, total in enumerate(totals, start=1))

    victim = next(child for child in parent.children() if "spawn_main" in " ".join(child.cmdline()))
    victim.kill()
    victim.wait(60)
    assert _scrape(client)["espalier_http_request_seconds_count", "GET,/v1/methods,200"] == 30
    folders = [path.name for path in tmp_path.glob(f"espalier-api-{os.getuid()}-*")]
    assert folders == [name for name in folders if f"-{parent.pid}-" in name]
    assert len(folders) == 1
