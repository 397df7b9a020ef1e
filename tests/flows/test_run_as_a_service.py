"""A run without a service gives what the service gives: searches, soups, sources with a login, and publications."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from pydantic import BaseModel

from app.bodies.job import JobRequest
from app.db.job import Job
from app.queue import WorkNotifier
from app.storage.s3 import S3Store
from espalier.messages import Done, Failed
from tests.fixtures.servers.mlflow import MlflowServer, mlflow
from tests.fixtures.workers.runs import Bench
from tests.flows.benches import computing_bench
from workers import local_run
from workers.background.reconcile import Reconciler
from workers.supervisor.worker_loop import WorkerLoop

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")
__all__ = ["mlflow"]
Run = Callable[..., Done | Failed]


@pytest.fixture
def bench(sqlite_url: str, tmp_path: Path) -> Bench:
    """A loop with the real children, worked by hand, and a tiny model with texts."""
    return computing_bench(sqlite_url, tmp_path)


@pytest.fixture
def run(bench: Bench) -> Run:
    """Run a job without a service, into the folder `out`; its last line."""

    def here(body: dict[str, Any], **settings: Any) -> Done | Failed:
        lines: list[BaseModel] = []
        job = JobRequest.model_validate_json(json.dumps(body))
        own = bench.services.settings.model_copy(update=settings)
        ended = local_run.run(job, bench.settings.home / "out", own, lines.append)
        last = lines[-1]
        assert isinstance(last, Done if ended else Failed)
        return last

    return here


def body(folder: Path, **spec: Any) -> dict[str, Any]:
    train, valid = ({"kind": "local", "path": str(folder / name)} for name in ("train.txt", "valid.txt"))
    scored = {"name": "text", "dataset": valid, "sequence_length": 32, "max_windows": 6}
    defaults = {
        "calibration": {"dataset": train, "samples": 12, "sequence_length": 32},
        "prune": {"method": "wanda", "sparsity": 0.5},
        "evaluate": {"latency": False, "perplexity": [scored]},
    }
    return {"source": {"kind": "local", "path": str(folder / "model")}, "spec": defaults | spec}


def serve(bench: Bench, request: dict[str, Any]) -> Job:
    """Let a service carry out a job, and the jobs that it makes."""
    job_id = bench.add(request={**request, "reuse": "auto"})
    loop = WorkerLoop(bench.services)
    reconciler = Reconciler(bench.database, bench.store, cast("WorkNotifier", Mock()))
    while loop.work_once() or reconciler.wake():
        pass
    job = bench.job(job_id)
    assert job.state == "succeeded", job.error
    return job


def tensors(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


SIZED = [{"method": "angular", "sparsity": 0.5}, {"method": "structured_obs", "sparsity": 0.5}]
RECOVERED = {"steps": 16, "batch_size": 2, "sequence_length": 32}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            {"objective": {"max_relative_perplexity_increase": 0.02, "max_trials": 3, "tolerance": 0.1}},
            id="bound",
            marks=pytest.mark.deep,
        ),
        pytest.param(
            {"prune": SIZED, "objective": {"parameters": 38_000, "max_trials": 3}, "reconstruct": {"epochs": 1}},
            id="size",
            marks=pytest.mark.deep,
        ),
        pytest.param({"retrain": RECOVERED, "soup": {"members": 2}}, id="soup", marks=pytest.mark.deep),
        pytest.param(
            {"retrain": RECOVERED, "cycles": {"count": 2}, "soup": {"members": 2}},
            id="soups in cycles",
            marks=pytest.mark.deep,
        ),
    ],
)
def test_searches_and_soups_end_with_the_same_bytes(bench: Bench, run: Run, spec: dict[str, Any]) -> None:
    request = body(bench.settings.home, **spec)
    served, done = serve(bench, request), run(request)
    assert isinstance(done, Done), done
    assert tensors(bench.settings.home / "out") == bench.digests(served.id) != {}
    assert served.report is not None
    assert done.report["compressed"] == served.report["compressed"]
    if "objective" in spec:
        theirs, ours = served.report["objective"], done.report["objective"]
        rows = [{key: value for key, value in row.items() if key != "job_id"} for row in theirs["trials"]]
        assert ours == {**{key: value for key, value in theirs.items() if key != "job_id"}, "trials": rows}


def test_a_result_is_published_to_s3_with_the_keys_of_the_account(
    bench: Bench, run: Run, s3_server: str, s3_store: S3Store
) -> None:
    place = f"s3://{s3_store.bucket}/{s3_store.prefix}result"
    request = body(bench.settings.home, output={"publish": [{"kind": "s3", "uri": place}]})
    done = run(request, publish_s3_endpoint_url=s3_server)
    assert isinstance(done, Done), done
    out = bench.settings.home / "out"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {item.key for item in s3_store.list("result/")} == {f"result/{name}" for name in names}
    stored = b"".join(s3_store.open("result/model.safetensors"))
    assert stored == (out / "model.safetensors").read_bytes()


@pytest.mark.deep
def test_what_a_gate_rejects_is_not_published(bench: Bench, run: Run, s3_server: str, s3_store: S3Store) -> None:
    target = {"kind": "s3", "uri": f"s3://{s3_store.bucket}/{s3_store.prefix}rejected"}
    request = body(bench.settings.home, gate={"max_perplexity": 1.5}, output={"publish": [target]})
    done = run(request, publish_s3_endpoint_url=s3_server)
    assert isinstance(done, Done), done
    assert list(s3_store.list("rejected/")) == []


@pytest.mark.deep
def test_a_result_that_cannot_be_published_stays_and_the_hint_says_where(
    bench: Bench, run: Run, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    request = body(bench.settings.home, output={"publish": [{"kind": "s3", "uri": "s3://no-such-bucket/x"}]})
    failed = run(request, publish_s3_endpoint_url=s3_server)
    assert isinstance(failed, Failed)
    assert failed.error.class_ == "publish_failed"
    assert f"{bench.settings.home / 'out'}: send that folder" in failed.error.hint
    assert (bench.settings.home / "out/manifest.json").is_file()


@pytest.mark.deep
def test_a_model_comes_from_mlflow_and_goes_back_as_a_version(bench: Bench, run: Run, mlflow: MlflowServer) -> None:
    home = bench.settings.home
    mlflow.register("small", home / "model")
    request = body(home, output={"publish": [{"kind": "mlflow"}]}) | {
        "source": {"kind": "mlflow", "name": "small", "version": "1"}
    }
    done = run(request, mlflow_tracking_uri=mlflow.url)
    assert isinstance(done, Done), done
    assert len(mlflow.registered["small"]) == 2
    assert bench.digests(serve(bench, body(home)).id) == tensors(home / "out")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "s3", "uri": "s3://bucket/model"}, "/source/kind: no keys: set AWS_ACCESS_KEY_ID"),
        ({"kind": "mlflow", "name": "m", "version": "1"}, "/source/kind: no MLflow server: set ESPALIER_MLFLOW"),
    ],
)
def test_what_no_login_is_set_for_is_refused_by_name(
    bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], words: str
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    failed = run(body(bench.settings.home) | {"source": source})
    assert isinstance(failed, Failed)
    assert words in failed.error.message
