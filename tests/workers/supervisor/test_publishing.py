"""The phase `publishing` of a job, and secrets that reach the fetcher and the publisher but nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from app.bodies.job import JobRequest
from app.db.publication import Publication
from app.db.result import LogLine
from app.db.session import clock
from app.db.tenancy import Project
from app.integrations.huggingface.credentials import HubCredential
from app.integrations.huggingface.source import HuggingFaceSource
from app.integrations.mlflow.source import MlflowSource
from app.integrations.s3.credentials import S3Credential
from app.services.tenancy import credentials
from espalier.recipe.base import canonical
from tests.fixtures.servers.hub import Hub, hub
from tests.fixtures.workers.runs import Bench
from workers.supervisor.requests import fetch_request

__all__ = ["hub"]

TOKEN, S3_SECRET, SHARED, PEPPER = "hf_ProjectCanary", "S3CanaryCanary", "hf_SharedCanary", "PepperCanary"
MLFLOW = "MlflowCanary"
TARGET = {"kind": "huggingface", "repo": "org/out"}


@pytest.fixture
def publishing(sqlite_bench: Bench, hub: Hub) -> Bench:
    """A bench whose project may write to the stand-in."""
    hub.writer = TOKEN
    settings = sqlite_bench.settings.model_copy(
        update={
            "hf_endpoint": hub.url,
            "hf_token": SecretStr(SHARED),
            "api_key_pepper": SecretStr(PEPPER),
            "mlflow_tracking_uri": "http://127.0.0.1:9",
            "mlflow_token": SecretStr(MLFLOW),
        }
    )
    sqlite_bench.services = replace(sqlite_bench.services, settings=settings)
    credentials.put(sqlite_bench.database, settings, "prj_default", "huggingface", HubCredential(token=TOKEN), hint="")
    credentials.put(
        sqlite_bench.database,
        settings,
        "prj_default",
        "s3",
        S3Credential(access_key_id="AK", secret_access_key=S3_SECRET),
        hint="",
    )
    return sqlite_bench


def _request(script: str) -> dict[str, Any]:
    spec = {"prune": {"method": "magnitude", "sparsity": 0.5}, "output": {"publish": [TARGET]}}
    return {"source": {"kind": "local", "path": f"/scripts/{script}"}, "reuse": "never", "spec": spec}


def test_a_job_publishes_before_it_succeeds(publishing: Bench, hub: Hub) -> None:
    job = publishing.work(publishing.add(request=_request("steady")))
    assert job.state == "succeeded", job.error
    types = [event.type for event in publishing.events(job.id)]
    assert types.index("job.published") < types.index("job.succeeded")
    phases = [event.phase for event in publishing.events(job.id) if event.type == "job.phase_started"]
    assert phases[-1] == "publishing"
    assert set(hub.models["org/out"].files) == {"model.safetensors", "report.json", "manifest.json"}
    with publishing.database.reading() as session:
        row = session.scalars(select(Publication)).one()
    assert (row.state, row.reference) == ("succeeded", f"org/out@{hub.models['org/out'].commit}")


def test_a_rejected_result_succeeds_and_goes_nowhere(publishing: Bench, hub: Hub) -> None:
    job = publishing.work(publishing.add(request=_request("rejected")))
    assert job.state == "succeeded"
    assert hub.commits == []
    assert "org/out" not in hub.models


def test_a_hub_that_refuses_fails_the_job_and_one_that_is_away_is_asked_again(publishing: Bench, hub: Hub) -> None:
    hub.broken = 100
    job = publishing.work(publishing.add(request=_request("steady")))
    assert (job.state, job.wait_reason) == ("queued", "backoff")
    hub.broken = 0
    publishing.hurry(job.id)
    assert publishing.work(job.id).state == "succeeded"
    assert len(hub.commits) == 1
    hub.writer = "another"
    refused = publishing.work(publishing.add(request=_request("steady")))
    assert refused.state == "failed"
    assert refused.error is not None
    assert (refused.error["class"], refused.error["phase"]) == ("publish_failed", "publishing")


def test_no_secret_reaches_the_compute_child_the_log_events_or_rows(
    publishing: Bench, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "ESPALIER_API_KEY_PEPPER", "ESPALIER_HF_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, f"{name}Canary")
    job = publishing.work(publishing.add(request=_request("tells")))
    assert job.state == "succeeded", job.error
    with publishing.database.reading() as session:
        lines = [line.text for line in session.scalars(select(LogLine))]
        everything = [str(session.execute(text(f"SELECT * FROM {table}")).all()) for table in _tables(session)]
    assert any("PATH" in line for line in lines)  # the child did give away all that it had
    output = json.dumps(lines) + "".join(everything)
    assert "Canary" not in output
    assert [bearer for _, path, bearer in hub.asked if path.startswith("/api/repos")] == [TOKEN]


def _tables(session: Any) -> list[str]:
    names = session.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars()
    return [name for name in names if not name.startswith("sqlite_")]


def test_the_fetcher_gets_the_token_of_the_project_or_else_the_one_that_it_shares(publishing: Bench) -> None:
    job_id = publishing.add(request=_request("steady"))
    services = publishing.services
    here = JobRequest.model_validate_json(canonical(_request("steady")))
    request = here.model_copy(update={"source": HuggingFaceSource(repo="org/model")})
    with publishing.database.unit_of_work() as session:
        for project, shared in (("prj_sharing", ["huggingface"]), ("prj_other", ["mlflow"])):
            session.add(Project(id=project, name=project, shared_logins=shared, created_at=clock(session)))
    for project, token in (("prj_default", TOKEN), ("prj_sharing", SHARED), ("prj_other", None)):
        publishing.set(job_id, project_id=project)
        fetch = fetch_request(
            services.database,
            services.store,
            services.settings,
            publishing.job(job_id),
            request,
            services.settings.scratch,
        )
        assert fetch.systems["huggingface"].get("token") == token
        assert set(fetch.systems) == {"huggingface"}
        assert S3_SECRET not in fetch.model_dump_json()
        assert MLFLOW not in fetch.model_dump_json()
    fetch = fetch_request(
        services.database, services.store, services.settings, publishing.job(job_id), here, services.settings.scratch
    )
    assert fetch.systems == {}  # nothing is read at the Hub


def test_an_mlflow_source_gets_the_login_and_stays_at_the_version_that_was_resolved(publishing: Bench) -> None:
    document = {**_request("steady"), "source": {"kind": "mlflow", "name": "demo", "alias": "champion"}}
    job_id, services = publishing.add(request=document), publishing.services
    for revision, version, alias in ((None, None, "champion"), ("3-abc", "3", None)):
        publishing.set(job_id, resolved_revision=revision)
        request = fetch_request(
            services.database,
            services.store,
            services.settings,
            publishing.job(job_id),
            JobRequest.model_validate_json(canonical(document)),
            services.settings.scratch,
        )
        assert isinstance(request.job.source, MlflowSource)
        assert (request.job.source.version, request.job.source.alias) == (version, alias)
        assert request.systems["mlflow"] == {"tracking_uri": "http://127.0.0.1:9", "token": MLFLOW}
        assert S3_SECRET not in request.model_dump_json()
