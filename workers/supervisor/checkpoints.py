"""Upload checkpoints while the child computes, and download them for the attempt that resumes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from app.errors import ChecksumMismatch, ObjectMissing
from app.storage.base import ObjectStore
from espalier.checkpoint_names import CheckpointName
from espalier.messages import Checkpoint, StoredCheckpoint
from workers.messages import StoredInStore
from workers.processes.workspace import inside
from workers.supervisor.reuse import PhaseStore

log = structlog.get_logger(__name__)


def job_prefix(project_id: str, job_id: str) -> str:
    """Return the prefix of a job's keys in the store."""
    return f"projects/{project_id}/jobs/{job_id}/"


class CheckpointUploader:
    """Stores the checkpoints of one attempt, one after the other, in the order in which they were finished."""

    def __init__(self, store: ObjectStore, prefix: str, workspace: Path, *, shared: PhaseStore | None = None) -> None:
        """Set where checkpoints go: where other jobs find them if `shared` has a key for them, else below `prefix`."""
        self._store, self._prefix, self._workspace, self._shared = store, prefix, workspace, shared
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._uploads: deque[Future[StoredInStore]] = deque()
        self._newest: dict[tuple[str, str], Path] = {}

    def add(self, checkpoint: Checkpoint) -> None:
        """Store a file soon."""
        self._uploads.append(self._thread.submit(self._upload, checkpoint))

    def stored(self) -> list[StoredInStore]:
        """Return what was stored since the last call; raises what an upload raised."""
        done = []
        while self._uploads and self._uploads[0].done():
            done.append(self._uploads.popleft().result())
        return done

    @property
    def idle(self) -> bool:
        """True when nothing waits."""
        return not self._uploads

    def close(self) -> None:
        """Forget what waits."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _upload(self, checkpoint: Checkpoint) -> StoredInStore:
        if CheckpointName.parse(checkpoint.name) is None:
            raise ValueError("the child gave a checkpoint an impossible name")
        path = inside(self._workspace, checkpoint.path)
        shared = self._shared.key(checkpoint.phase, checkpoint.name) if self._shared else None
        folder = self._shared.prefix(shared) if self._shared and shared else f"{self._prefix}checkpoints/"
        key = f"{folder}{checkpoint.phase}/{checkpoint.name}-{checkpoint.sha256[:12]}{path.suffix}"
        self._store.put_file(key, path, checkpoint.sha256)
        replaced = self._newest.get((checkpoint.phase, checkpoint.name), path)
        if replaced != path:
            replaced.unlink(missing_ok=True)  # training states of a long run would fill the disk
        self._newest[checkpoint.phase, checkpoint.name] = path
        return StoredInStore(**checkpoint.model_dump(exclude={"kind"}), key=key, shared=shared)


def restore(
    store: ObjectStore, recorded: Iterable[Mapping[str, Any]], workspace: Path, *, between: Callable[[], None]
) -> list[StoredCheckpoint]:
    """Download recorded checkpoints and return the good ones; `between` is called before each file.

    What follows a missing or damaged file was computed from it, and is left out with it.
    """
    restored = []
    for document in recorded:
        between()
        stored = StoredInStore.model_validate(document)
        path = f"checkpoints/{stored.phase}/{stored.name}{Path(stored.path).suffix}"
        try:
            store.get_file(stored.key, workspace / path, stored.sha256)
        except (ObjectMissing, ChecksumMismatch) as error:
            log.warning("checkpoint dropped", phase=stored.phase, name=stored.name, error=type(error).__name__)
            break
        restored.append(StoredCheckpoint(**{**stored.model_dump(exclude={"key", "shared"}), "path": path}))
    return restored
