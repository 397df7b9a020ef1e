"""Response models of the API: no defaults, so that no field is left out by mistake."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.db.job import PRIORITIES, Attempt, Event
from app.db.lifecycle import JobState, WaitReason
from app.db.result import Artifact, LayerRow, LogLine
from app.services.jobs.reads import JobReading, Series
from espalier.errors import ErrorClass
from espalier.recipe.phases import Phase

_PRIORITY_NAMES = {value: name for name, value in PRIORITIES.items()}


class View(BaseModel):
    """An answer; the docstring under a field is its description in OpenAPI."""

    model_config = ConfigDict(from_attributes=True, frozen=True, use_attribute_docstrings=True)


class PhaseProgressView(View):
    """Progress of the current phase."""

    current: int
    total: int
    unit: str


class InitiatorView(View):
    """The actor that created a job."""

    type: str
    id: str


class DurationsView(View):
    """Seconds so far."""

    pending: float
    """Waiting, back-offs included."""
    running: float
    """Held by a worker, over all attempts."""
    total: float
    """Since creation."""


class ErrorView(View):
    """The error that ended an attempt."""

    class_: ErrorClass = Field(alias="class", serialization_alias="class")
    retryable: bool
    phase: Phase | None
    module: str | None
    """The matrix, tensor or file at fault, where one is known."""
    hint: str
    """A way out for the user."""
    message: str
    attempt: int


class ResultView(View):
    """The numbers of a report that people ask for first."""

    dense_perplexity: dict[str, float]
    perplexity: dict[str, float]
    sparsity: float | None
    bytes: int | None


class JobView(View):
    """One job."""

    id: str
    project_id: str
    parent_id: str | None
    name: str
    state: JobState
    phase: Phase | None
    phase_progress: PhaseProgressView | None
    progress: float = Field(ge=0, le=1)
    wait_reason: WaitReason | None
    """The reason why it waits, while queued."""
    queue_position: int | None
    """Its place among the project's own queued jobs of its worker class, 1 for the next one; projects take turns."""
    attempt: int = Field(ge=1)
    max_attempts: int
    priority: Literal["low", "normal", "high"]
    labels: dict[str, str]
    source: dict[str, Any]
    """As sent, and `resolved_revision`: null until the source is resolved."""
    spec: dict[str, Any]
    """As sent."""
    resolved_spec: dict[str, Any] | None
    """With every default filled in; null until the source is resolved."""
    work_hash: str | None
    """Equal for equal work; null until the source is resolved."""
    reused_from: str | None
    initiator: InitiatorView
    durations: DurationsView
    error: ErrorView | None
    gate: dict[str, Any] | None
    result: ResultView | None
    warnings: list[Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: dict[str, str]


class EventView(View):
    """One fact about a job."""

    seq: int
    """Strictly rising per job, from 1, without a gap."""
    id: str
    type: str
    time: datetime
    job_id: str
    attempt: int
    phase: str | None
    data: dict[str, Any]


class LogView(View):
    """One line of the log."""

    time: datetime
    level: str
    attempt: int
    text: str


class PointView(View):
    """One point of a series."""

    step: int
    value: float
    time: datetime


class SeriesView(View):
    """One metric over its steps, thinned on the server."""

    name: str
    phase: str
    points: list[PointView]


class LayerView(View):
    """One pruned matrix."""

    name: str
    block: int
    shape: list[int]
    """Outputs, inputs."""
    pattern: str
    sparsity_requested: float
    sparsity_achieved: float
    error_before: float | None
    """Relative output error on the calibration inputs with the mask alone."""
    error_after: float | None
    """The same after the update."""
    seconds: float


class AttemptView(View):
    """One claim of a job by one worker."""

    number: int
    worker_id: str
    outcome: str | None
    """succeeded, failed, cancelled, lost or released; null while it runs."""
    error: ErrorView | None
    resumed_from: dict[str, Any] | None
    """Newest checkpoint that it started from."""
    started_at: datetime
    finished_at: datetime | None


class ArtifactView(View):
    """One file of a result."""

    id: str
    job_id: str
    name: str
    """Path in the result's folder."""
    kind: str
    bytes: int
    sha256: str
    created_at: datetime
    urls: dict[str, str]


def job_view(reading: JobReading) -> JobView:
    """Show a job."""
    job = reading.job
    progress = {"current": job.phase_current, "total": job.phase_total, "unit": job.phase_unit}
    return JobView.model_validate(
        {
            "id": job.id,
            "project_id": job.project_id,
            "parent_id": job.parent_id,
            "name": job.name,
            "state": job.state,
            "phase": job.phase,
            "phase_progress": progress if job.phase else None,
            "progress": job.progress,
            "wait_reason": job.wait_reason if job.state == "queued" else None,
            "queue_position": reading.queue_position,
            "attempt": max(job.attempt, 1),
            "max_attempts": job.max_attempts,
            "priority": _PRIORITY_NAMES[job.priority],
            "labels": job.labels,
            "source": {**job.request["source"], "resolved_revision": job.resolved_revision},
            "spec": job.sent_spec or job.request["spec"],
            "resolved_spec": job.resolved_spec,
            "work_hash": job.work_hash,
            "reused_from": job.reused_from,
            "initiator": job.initiator,
            "durations": reading.durations,
            "error": _error(job.error, job.attempt),
            "gate": job.gate,
            "result": _result(job.report),
            "warnings": job.warnings,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "urls": _job_urls(job.id),
        }
    )


def _error(document: dict[str, Any] | None, attempt: int) -> dict[str, Any] | None:
    if document is None:
        return None
    return {"phase": None, "module": None, "message": "", "attempt": max(attempt, 1), **document}


def _result(report: dict[str, Any] | None) -> dict[str, Any] | None:
    if report is None:
        return None
    compressed = report.get("compressed", {})
    return {
        "dense_perplexity": report.get("dense", {}).get("perplexity") or {},
        "perplexity": compressed.get("perplexity") or {},
        "sparsity": report.get("sparsity", {}).get("achieved"),
        "bytes": compressed.get("bytes"),
    }


def _job_urls(job_id: str) -> dict[str, str]:
    base = f"/v1/jobs/{job_id}"
    actions = ("cancel", "pause", "resume", "retry", "clone")
    parts = ("events", "events/stream", "logs", "metrics", "layers", "attempts", "report", "artifacts", "publications")
    return {"self": base, **{part.replace("/", "_"): f"{base}/{part}" for part in (*actions, *parts)}}


def event_view(event: Event) -> EventView:
    """Show an event."""
    return EventView.model_validate(event)


def log_view(line: LogLine) -> LogView:
    """Show a log line."""
    return LogView.model_validate(line)


def layer_view(layer: LayerRow) -> LayerView:
    """Show a pruned matrix."""
    return LayerView.model_validate(layer)


def series_view(series: Series) -> SeriesView:
    """Show a metric series."""
    return SeriesView.model_validate(series)


def attempt_view(attempt: Attempt) -> AttemptView:
    """Show an attempt."""
    return AttemptView(
        number=attempt.number,
        worker_id=attempt.worker_id,
        outcome=attempt.outcome,
        error=ErrorView.model_validate(_error(attempt.error, attempt.number)) if attempt.error else None,
        resumed_from=attempt.resumed_from,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
    )


def artifact_view(artifact: Artifact) -> ArtifactView:
    """Show a file of a result."""
    base = f"/v1/artifacts/{artifact.id}"
    fields = {name: getattr(artifact, name) for name in ArtifactView.model_fields if name != "urls"}
    return ArtifactView(**fields, urls={"self": base, "download": f"{base}/download"})
