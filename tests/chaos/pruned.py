"""A job that prunes in earnest, and the bytes that it makes where nothing happens to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.db.result import Artifact
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.fixtures.workers.runs import Bench
from workers.processes.process import Commands


def pruning(folder: Path) -> dict[str, Any]:
    """A job that prunes two blocks in earnest."""
    text = {"kind": "local", "path": str(write_texts(folder) / "train.txt")}
    spec = {
        "calibration": {"dataset": text, "samples": 8, "sequence_length": 32},
        "prune": {"method": "wanda", "sparsity": 0.5},
        "evaluate": {"perplexity": [], "latency": False},
    }
    source = {"kind": "local", "path": str(write_tiny_model(folder / "tiny"))}
    return {"source": source, "spec": spec, "reuse": "never"}


def undisturbed(bench: Bench, request: dict[str, Any], folder: Path) -> str:
    """The sha256 of the model that the pruning makes where nothing happens to it."""
    settings = bench.settings.model_copy(update={"local_roots": str(folder), "lease_seconds": 60.0})
    services, bench.services = bench.services, replace(bench.services, commands=Commands(), settings=settings)
    job = bench.work(bench.add("tiny", request=request))
    assert job.state == "succeeded", job.error
    bench.services = services
    with bench.database.reading() as session:
        wanted = select(Artifact.sha256).where(Artifact.job_id == job.id, Artifact.name == "model.safetensors")
        return session.scalars(wanted).one()
