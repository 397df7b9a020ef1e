"""Upload artifacts, the manifest last, then commit the job's success in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import events
from app.db.queries.queue import leases
from app.db.result import Artifact
from app.errors import ObjectExists, StorageError
from app.platform.ids import new_id
from app.services import publications
from app.storage.base import ObjectStore
from espalier.messages import ArtifactFile, Done, PhaseCompleted, PhaseStarted, Progress
from workers.messages import Published
from workers.processes.workspace import inside
from workers.supervisor.recorder import Recorder

MANIFEST = "manifest.json"


def upload(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    files: list[ArtifactFile],
    *,
    recorder: Recorder,
    check: Callable[[], None],
) -> dict[str, str]:
    """Store the files of a result below `prefix` as the phase `uploading`, return their keys; `check` may end it."""
    total, started = sum(file.bytes for file in files), time.monotonic()
    recorder.take([PhaseStarted(phase="uploading", total=total, unit="byte")])

    def between(stored: int) -> None:
        check()
        recorder.take([Progress(phase="uploading", current=stored, total=total, unit="byte")])
        recorder.flush_if_due()

    keys = _store(store, prefix, folder, files, between)
    recorder.take([PhaseCompleted(phase="uploading", seconds=time.monotonic() - started, peak_memory_bytes=0)])
    return keys


def _store(
    store: ObjectStore, prefix: str, folder: Path, files: list[ArtifactFile], between: Callable[[int], None]
) -> dict[str, str]:
    """Store the files, the manifest last; `between` hears the bytes stored so far."""
    stored = 0
    keys = {file.path: prefix + file.path for file in files}
    for file in sorted(files, key=lambda file: file.path == MANIFEST):
        between(stored)
        path = inside(folder, file.path)
        if file.path == MANIFEST:
            _put_manifest(store, keys[file.path], path.read_bytes())
        else:
            store.put_file(keys[file.path], path, file.sha256, between=_after(stored, between))
        stored += file.bytes
    between(stored)
    return keys


def _after(stored: int, between: Callable[[int], None]) -> Callable[[int], None]:
    return lambda sent: between(stored + sent)


def _put_manifest(store: ObjectStore, key: str, data: bytes) -> None:
    """Write the manifest; an existing one with equal content is ours (a repeated request)."""
    try:
        store.put_bytes(key, data, if_none_match=True)
    except ObjectExists:
        if b"".join(store.open(key)) != data:
            raise StorageError("another result lies where this one belongs") from None


def commit(
    session: Session, job: Job, done: Done, keys: dict[str, str], published: Sequence[Published], *, now: datetime
) -> None:
    """Make a locked job succeed: artifact rows, report, gate and events, all or nothing."""
    new_events: list[events.NewEvent] = []
    for file in done.files:
        data: dict[str, Any] = {"name": file.path, "kind": file.kind, "bytes": file.bytes, "sha256": file.sha256}
        row = Artifact(
            id=new_id("art"), project_id=job.project_id, job_id=job.id, key=keys[file.path], created_at=now, **data
        )
        session.add(row)
        new_events.append(("job.artifact_ready", {"id": row.id, **data}))
    if done.gate is not None:
        new_events.insert(0, ("job.gate_evaluated", done.gate))
    for one in published:
        publications.add(session, job, publications.row(job, one.target, now=now, reference=one.reference))
        new_events.append(("job.published", publications.event_data(one.target, one.reference)))
    job.report, job.gate, job.error, job.checkpoints = done.report, done.gate, None, []
    leases.end_attempt(session, job, "succeeded", now=now)
    new_events.append(("job.succeeded", {"artifacts": len(done.files)}))
    events.move(session, job, "succeeded", new_events, now=now)
