"""Response models of the client; fields of a newer service are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

ENDINGS = frozenset({"job.succeeded", "job.failed", "job.cancelled", "job.expired"})


class View(BaseModel):
    """What the service answers; a newer service may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PhaseProgress(View):
    """How far the current phase is."""

    current: int
    total: int
    unit: str


class Job(View):
    """One job as the service shows it."""

    id: str
    name: str
    state: str
    phase: str | None = None
    phase_progress: PhaseProgress | None = None
    progress: float = 0.0
    wait_reason: str | None = None
    queue_position: int | None = None
    attempt: int = 0
    source: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    created_at: datetime

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return f"job.{self.state}" in ENDINGS

    @property
    def good(self) -> bool:
        """Whether there is a result that kept its gate."""
        return self.state == "succeeded" and (self.gate or {}).get("verdict") != "rejected"


class Event(View):
    """One fact about a job."""

    seq: int
    type: str
    time: datetime
    attempt: int = 0
    phase: str | None = None
    data: dict[str, Any] = {}


class Artifact(View):
    """One file of a result."""

    id: str
    name: str
    kind: str
    bytes: int
    sha256: str


class Queue(View):
    """The queue of one worker class."""

    worker_class: str
    depth: int
    delayed: int
    oldest_age_seconds: float | None = None
    running: int
    workers: int


class Worker(View):
    """One worker."""

    id: str
    worker_class: str
    state: str
    host: str | None = None
    """Told to operators."""
    device: str
    memory_bytes: int | None = None
    job_id: str | None = None
    heartbeat_age_seconds: float
