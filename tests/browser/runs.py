"""What whole runs leave behind: reports, phases over two attempts, matrices, metrics, lines and files."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.job import Attempt, Job
from app.db.queries.jobs import events
from app.db.result import Artifact, LayerRow, LogLine, MetricPoint, PhaseRecord
from app.db.session import clock
from app.platform.ids import new_id
from tests.browser.site import Site
from tests.fixtures.service import rows

DENSE = 31.83
PHASES = ("fetching", "baseline", "calibrating", "pruning", "reconstructing", "retraining", "evaluating", "uploading")
KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def report(perplexity: float, sparsity: float, seconds: float = 90.0, pruned: float | None = None) -> dict[str, Any]:
    """A report as jobs of the reference model write it; `pruned`: what a recovery began with."""
    nonzero = int(8_400_000 * (1 - 0.75 * sparsity))
    dataset = {"kind": "builtin", "name": "python-docs", "split": "validation"}
    length = {"dataset": dataset, "sequence_length": 256, "windows": 200, "dtype": "float32"}
    return {
        "dense": {
            "perplexity": {"python-docs": DENSE},
            "parameters": 8_400_000,
            "bytes": 16_900_000,
            "macs_per_token": 6_300_000,
        },
        "compressed": {
            "perplexity": {"python-docs": perplexity},
            "parameters": 8_400_000,
            "macs_per_token": 6_300_000,
            "nonzero_parameters": nonzero,
            "bytes": 16_900_000,
            "packed_bytes": 2 * nonzero + 800_000,
        },
        "phases": [
            {
                "name": name,
                "seconds": seconds / len(PHASES),
                "peak_memory_bytes": 700_000_000,
                "perplexity": {"python-docs": pruned} if pruned and name == "pruning" else None,
            }
            for name in PHASES
        ],
        "sparsity": {"requested": sparsity, "achieved": sparsity, "scope": "pruned matrices"},
        "trained_parameters": {"count": 598_016, "fraction": 0.071},
        "protocol": {"perplexity": {"python-docs": length}, "packed_bytes": "an estimate"},
        "gate": {
            "verdict": "accepted",
            "checks": [
                {
                    "name": "max_relative_perplexity_increase",
                    "limit": 0.5,
                    "value": perplexity / DENSE - 1,
                    "passed": True,
                }
            ],
        },
        "environment": {"engine": "2", "device": "cpu", "torch": "2.13.0"},
        "advice": ["Zeros alone make no file smaller: ask for output.format packed."],
        "warnings": [],
    }


def finish(
    site: Site, job_id: str, perplexity: float, sparsity: float, *, seconds: float, pruned: float | None = None
) -> None:
    """Let a job have succeeded."""
    database = site.resources.database
    rows.start(database, job_id)
    document = report(perplexity, sparsity, seconds, pruned)
    rows.end(
        database,
        job_id,
        "succeeded",
        report=document,
        gate=document["gate"],
        progress=1.0,
        phase="publishing",
        running_seconds=seconds,
    )


def fill(site: Site, job_id: str, sparsity: float, perplexity: float) -> None:
    """Write what a whole run leaves behind."""
    with site.resources.database.unit_of_work() as session:
        job, now = session.get_one(Job, job_id), clock(session)
        of_job: dict[str, Any] = {"job_id": job.id, "project_id": job.project_id}
        _lost_once(session, job, now)
        phases(session, job, PHASES, now)
        for position in range(8 * len(KINDS)):
            block, kind = divmod(position, len(KINDS))
            before = 0.1 + 0.03 * block + 0.02 * kind * sparsity
            session.add(
                LayerRow(
                    **of_job,
                    name=f"model.layers.{block}.{KINDS[kind]}",
                    position=position,
                    block=block,
                    shape=[256, 256],
                    pattern="unstructured",
                    sparsity_requested=sparsity,
                    sparsity_achieved=sparsity,
                    error_before=before,
                    error_after=before * (0.45 + 0.04 * kind),
                    seconds=0.8,
                )
            )
        for step in range(80):
            loss = math.log(perplexity) + 0.35 * math.exp(-step / 14)
            metrics = {"training_loss": loss, "learning_rate": 1e-3 * (1 - step / 80)}
            for name, value in (metrics | ({"validation_loss": loss + 0.02} if step % 10 == 0 else {})).items():
                point = MetricPoint(
                    **of_job,
                    name=name,
                    step=step,
                    phase="retraining",
                    attempt=1,
                    value=value,
                    time=now - timedelta(seconds=80 - step),
                )
                session.add(point)
        session.add_all(
            LogLine(**of_job, id=new_id("log"), attempt=1, time=now, level=level, text=text)
            for level, text in (("info", "8 blocks, 56 matrices"), ("warning", "block 7 pruned with few tokens"))
        )
        session.add_all(
            Artifact(
                **of_job,
                id=new_id("art"),
                name=name,
                kind=kind,
                bytes=size,
                sha256=f"{size:064x}",
                key=f"k/{name}",
                created_at=now,
            )
            for name, kind, size in (
                ("model.safetensors", "model", 16_900_000),
                ("masks.safetensors", "mask", 795_000),
                ("tokenizer.json", "tokenizer", 640_000),
                ("report.json", "report", 5_300),
                ("README.md", "card", 2_100),
                ("manifest.json", "manifest", 1_900),
            )
        )
        events.append(session, job, [("job.warning", {"text": "block 7 pruned with few tokens"})], now=now)


def phases(session: Session, job: Job, names: tuple[str, ...], now: datetime, *, over: bool = True) -> None:
    """Write phases of 30 seconds; of a run that is not over the last one goes on."""
    start = now - timedelta(seconds=30 * len(names))
    perplexity = next(
        (phase["perplexity"] for phase in (job.report or {}).get("phases", []) if phase["perplexity"]), None
    )
    measured = {"baseline": DENSE}
    if job.report and perplexity:
        result = job.report["compressed"]["perplexity"]["python-docs"]
        measured |= {"pruning": perplexity["python-docs"], "evaluating": result}
    for index, name in enumerate(names):
        began = start + timedelta(seconds=30 * index)
        events.append(session, job, [("job.phase_started", {})], now=began, phase=name)
        if not over and index == len(names) - 1:
            break
        ended = began + timedelta(seconds=30)
        events.append(session, job, [("job.phase_completed", {})], now=ended, phase=name)
        session.add(
            PhaseRecord(
                job_id=job.id,
                project_id=job.project_id,
                name=name,
                attempt=job.attempt,
                started_at=began,
                finished_at=ended,
                seconds=30.0,
                peak_memory_bytes=600_000_000 + 10**7 * index,
                perplexity={"python-docs": measured[name]} if name in measured else None,
            )
        )


def _lost_once(session: Session, job: Job, now: datetime) -> None:
    """Let the first attempt have ended in the middle of pruning, with its worker."""
    began = now - timedelta(minutes=12)
    first = session.scalars(select(Attempt).where(Attempt.job_id == job.id)).one()
    first.started_at, first.finished_at, first.outcome = began, began + timedelta(seconds=100), "lost"
    for index, name in enumerate(PHASES[:4]):
        at = began + timedelta(seconds=25 * index)
        events.append(session, job, [("job.phase_started", {})], now=at, phase=name)
        if index < 3:
            events.append(session, job, [("job.phase_completed", {})], now=at + timedelta(seconds=25), phase=name)
    job.attempt = 2
    session.flush()
    session.add(
        Attempt(
            id=new_id("att"),
            job_id=job.id,
            project_id=job.project_id,
            number=2,
            fence=2,
            worker_id="wrk_other",
            outcome="succeeded",
            error=None,
            resumed_from={"phase": "pruning", "name": "block 3"},
            started_at=now - timedelta(seconds=240),
            finished_at=now,
        )
    )
