"""One trace from the request to the upload; nothing of OpenTelemetry where nobody asked for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.main import create_app
from app.platform import tracing
from tests.fixtures.workers.runs import Bench

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""As the specification of W3C Trace Context writes it."""


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where the spans of this process go."""
    exporter = InMemorySpanExporter()
    tracing.use(SimpleSpanProcessor(exporter), "test")
    yield exporter
    tracing.stop()


def test_a_job_is_one_trace_from_its_request_to_its_upload(
    sqlite_url: str, tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    bench = Bench(sqlite_url, tmp_path)
    with TestClient(create_app(bench.settings)) as client:
        body = {
            "source": {"kind": "huggingface", "repo": "steady"},
            "reuse": "never",
            "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
        }
        made = client.post("/v1/jobs", json=body, headers={"traceparent": CALLER})
        assert made.status_code == 202, made.text
        job = bench.work(made.json()["id"])
    assert job.state == "succeeded", job.error
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert {"POST /v1/jobs", "enqueue", "claim", "attempt", "phase pruning", "phase uploading"} <= spans.keys()
    assert {_trace(span) for span in spans.values()} == {CALLER.split("-")[1]}
    parents = {"enqueue": "POST /v1/jobs", "claim": "enqueue", "attempt": "enqueue", "phase pruning": "attempt"}
    for name, parent in parents.items():
        inner, outer = spans[name].parent, spans[parent].context
        assert inner is not None
        assert outer is not None
        assert inner.span_id == outer.span_id, name
    assert spans["attempt"].attributes is not None
    assert spans["attempt"].attributes["job_id"] == job.id


def _trace(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_nothing_is_traced_that_nobody_asked_for(sqlite_url: str, tmp_path: Path) -> None:
    bench = Bench(sqlite_url, tmp_path)
    assert bench.work(bench.add()).traceparent is None
    assert tracing.traceparent() is None


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), **env},
        text=True,
        capture_output=True,
        check=False,
    )


def test_without_the_setting_nothing_is_loaded() -> None:
    code = "import sys, app.main; app.main.create_app(app.main.Settings()); print('opentelemetry.sdk' in sys.modules)"
    assert _python(code).stdout.strip() == "False"


def test_the_setting_without_the_extra_refuses_to_start_and_names_the_way_out() -> None:
    hidden = "import sys; sys.modules['opentelemetry.exporter'] = None; import app.main; app.main.create_app()"
    refused = _python(hidden, ESPALIER_OTEL_ENDPOINT="http://127.0.0.1:4318", HOME="/nonexistent")
    assert refused.returncode == 1
    assert "pip install '.[otel]'" in refused.stderr
