"""A stock generator makes a client of the OpenAPI document: every operation is in it, and it works."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.endpoints.jobs.jobs import EXAMPLES
from app.main import create_app
from app.settings import Settings

PACKAGE = "generated_espalier"


@pytest.fixture
def generated(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A generated client of a running service."""
    app = create_app(Settings(home=tmp_path / "home", database_url=sqlite_url))
    document = app.openapi()
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    bin_ = Path(sys.executable).parent  # where the generator finds ruff
    made = subprocess.run(
        [
            bin_ / "openapi-python-client",
            "generate",
            "--path",
            tmp_path / "openapi.json",
            "--meta",
            "none",
            "--output-path",
            tmp_path / PACKAGE,
            "--fail-on-warning",
        ],
        env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout
    modules = [path for path in (tmp_path / PACKAGE / "api").rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) == sum(len(operations) for operations in document["paths"].values())
    monkeypatch.syspath_prepend(tmp_path)
    with TestClient(app) as http:
        yield importlib.import_module(PACKAGE).Client(base_url="http://testserver").set_httpx_client(http)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def _call(name: str, client: Any, **arguments: Any) -> Any:
    return importlib.import_module(f"{PACKAGE}.api.{name}").sync_detailed(client=client, **arguments)


@pytest.mark.slow
def test_a_generated_client_submits_looks_lists_and_reads_refusals(generated: Any) -> None:
    models = importlib.import_module(f"{PACKAGE}.models")
    sent: dict[str, Any] = EXAMPLES["prune_and_recover"]["value"] or {}
    body = models.JobRequest.from_dict(sent)
    planned = _call("plans.create_plan_v1_plans_post", generated, body=body)
    assert planned.parsed.queue_position == 1, planned.content
    made = _call("jobs.create_job_v1_jobs_post", generated, body=body, idempotency_key="once")
    again = _call("jobs.create_job_v1_jobs_post", generated, body=body, idempotency_key="once")
    assert (made.status_code, again.status_code, again.parsed.id) == (202, 200, made.parsed.id), made.content
    assert made.parsed.labels.to_dict() == sent["labels"]
    listed = _call("jobs.list_jobs_v1_jobs_get", generated, label=["team=nlp"])
    assert [job.id for job in listed.parsed.items] == [made.parsed.id]
    ended = _call("jobs.cancel_job_v1_jobs_job_id_cancel_post", generated, job_id=made.parsed.id)
    assert ended.parsed.state == "cancelled"
    refused = _call("jobs.get_report_v1_jobs_job_id_report_get", generated, job_id=made.parsed.id)
    assert (refused.status_code, refused.parsed.code) == (409, "not-finished")
