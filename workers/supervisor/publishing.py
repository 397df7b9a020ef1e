"""Publish results: of a running job after its upload, and of finished jobs beside the reconciler."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from app.db.job import Job
from app.db.publication import Publication
from app.db.queries.jobs import jobs, reads
from app.db.queries.round_robin import ProjectRoundRobin
from app.db.session import Database
from app.errors import StorageError
from app.integrations.shared.sources import ModelSource
from app.integrations.shared.targets import PublicFile, PublishRequest
from app.integrations.systems import read_source
from app.platform import loops
from app.services import publications
from app.services.tenancy import credentials
from app.settings import Settings
from app.storage.base import ObjectStore
from espalier.messages import (
    ArtifactFile,
    ErrorInfo,
    Failed,
    PhaseCompleted,
    PhaseStarted,
    Progress,
)
from espalier.recipe.base import fingerprint
from espalier.recipe.spec import CompressionSpec
from workers.lease.retries import from_exit
from workers.messages import Published, Resolved
from workers.processes.groups import ControlGroups
from workers.processes.memory import allowed
from workers.processes.process import Child, Commands, environment
from workers.processes.workspace import inside
from workers.supervisor.recorder import Recorder

URL_SECONDS: Final = 6 * 3600
KEEP_SECONDS: Final = 60.0
TOTAL_SECONDS: Final = 6 * 3600.0
IDLE_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


def requests(
    database: Database,
    settings: Settings,
    job: Job,
    spec: CompressionSpec,
    files: list[PublicFile],
    workspace: Path,
    *,
    lineage: dict[str, str],
) -> list[PublishRequest]:
    """Return what the publisher is to do for the targets that a job's spec names."""
    targets = [publications.at_home(target.model_dump(mode="json"), job) for target in spec.output.publish]
    return [request(database, settings, job, target, files, workspace, lineage=lineage) for target in targets]


def request(
    database: Database,
    settings: Settings,
    job: Job,
    target: dict[str, Any],
    files: list[PublicFile],
    workspace: Path,
    *,
    lineage: dict[str, str],
) -> PublishRequest:
    """Return the publisher's request, with the project's own credentials for this one target."""
    kind = target["kind"]
    own = credentials.access(database, settings, job.project_id, kind, "publish")
    return PublishRequest.model_validate(
        {
            "job_id": job.id,
            "target": target,
            "files": files,
            "workspace": str(workspace),
            "credentials": own,
            "lineage": lineage,
        }
    )


def lineage_of(job: Job, resolved: Resolved | None = None, work_hash: str | None = None) -> dict[str, str]:
    """Return the lineage of a job's result; of a job that still runs, its row does not know all of it yet."""
    revision, spec = (resolved.revision, resolved.spec) if resolved else (job.resolved_revision, job.resolved_spec)
    return lineage(
        read_source(job.request["source"]),
        revision=revision,
        spec=spec,
        work_hash=work_hash or job.work_hash,
        engine=job.engine_version,
    )


def lineage(
    source: ModelSource, *, revision: str | None, spec: dict[str, Any] | None, work_hash: str | None, engine: str
) -> dict[str, str]:
    """Return what became what, in the words of tags."""
    named = {
        "source": f"{source.kind}:{source.address}",
        "source_version": source.version_at(revision) if revision else None,
        "source_revision": revision,
        "spec_hash": fingerprint(spec) if spec else None,
        "work_hash": work_hash,
        "engine_version": engine,
    }
    return {key: value for key, value in named.items() if value}


def local_files(folder: Path, files: Sequence[ArtifactFile]) -> list[PublicFile]:
    """Return the files of a result that lies on this machine."""
    return [
        PublicFile(path=file.path, sha256=file.sha256, url=inside(folder, file.path).resolve().as_uri())
        for file in files
    ]


def in_run(
    todo: Sequence[PublishRequest], recorder: Recorder, supervise: Callable[[PublishRequest], object]
) -> list[Published]:
    """Carry out the publications of a running job as its phase `publishing`, if there are any."""
    done: list[Published] = []
    if not todo:
        return done
    started = time.monotonic()
    recorder.take([PhaseStarted(phase="publishing", total=len(todo), unit="target")])
    for one in todo:
        result = supervise(one)
        assert isinstance(result, Published)
        done.append(result)
        recorder.take([Progress(phase="publishing", current=len(done), total=len(todo), unit="target")])
    seconds = time.monotonic() - started
    recorder.take([PhaseCompleted(phase="publishing", seconds=seconds, peak_memory_bytes=0)])
    return done


class Publisher:
    """Publishes finished jobs on request, each in a child process, a few at a time, one of each project."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        settings: Settings,
        commands: Commands | None = None,
        groups: ControlGroups | None = None,
    ) -> None:
        self._database, self._store, self._settings = database, store, settings
        self._commands, self._groups = commands or Commands(), groups
        self._rounds, self._claiming = ProjectRoundRobin(), threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set."""
        names = [f"publisher {number}" for number in range(1, self._settings.publishers + 1)]
        loops.Threads(stop, dict.fromkeys(names, self._run)).start().join()

    def _run(self, stop: threading.Event) -> None:
        loops.run("publications", stop, lambda: self.work_once(stop.is_set), idle_seconds=IDLE_SECONDS)

    def work_once(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Publish the next publication that is due; False when there is none."""
        with self._claiming, self._database.unit_of_work() as session:
            row = publications.claim(session, self._rounds)
        if row is None:
            return False
        try:
            outcome = self.publish(row, stopping)
            self._note(row, outcome)
        except BaseException as error:  # noqa: BLE001 - it is tried again later, and given up in the end
            loops.note("publications", error)
            outcome = _failure(f"{type(error).__name__} in the publisher", retryable=True)
            self._note(row, outcome)
        log.info("published" if isinstance(outcome, Published) else "not published", publication_id=row.id)
        return True

    def _note(self, row: Publication, outcome: Published | ErrorInfo) -> None:
        with self._database.unit_of_work() as session:
            if isinstance(outcome, Published):
                publications.succeed(session, row.id, outcome.reference)
            else:
                publications.fail(session, row.id, outcome.model_dump(mode="json", by_alias=True))

    def publish(self, row: Publication, stopping: Callable[[], bool]) -> Published | ErrorInfo:
        """Send a finished job's files where one publication says, in a process of its own."""
        with self._database.reading() as session:
            job, artifacts = jobs.find(session, row.job_id), reads.files(session, row.job_id)
        try:
            files = [
                PublicFile(
                    path=file.name, sha256=file.sha256, url=self._store.locate(file.key, expires_seconds=URL_SECONDS)
                )
                for file in artifacts
            ]
        except StorageError as error:
            return _failure(error.detail, retryable=True)
        if job is None or not files:
            return _failure("The job has no files any more.", retryable=False)
        self._settings.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="publish-", dir=self._settings.scratch) as folder:
            payload = request(
                self._database,
                self._settings,
                job,
                row.target,
                files,
                Path(folder),
                lineage=lineage_of(job),
            )
            return self._follow(row.id, payload, Path(folder), stopping)

    def _follow(
        self, publication_id: str, payload: PublishRequest, folder: Path, stopping: Callable[[], bool]
    ) -> Published | ErrorInfo:
        child = Child(
            self._commands.publish,
            payload,
            env=environment("publish", folder, self._settings.threads),
            cwd=folder,
            offline=False,
            memory=allowed(self._settings, payload),
            groups=self._groups,
        )
        outcome: Published | ErrorInfo | None = None
        kept = started = time.monotonic()
        try:
            while not child.finished:
                for message in child.pipe.take(wait_seconds=0.2):
                    if isinstance(message, Published):
                        outcome = message
                    elif isinstance(message, Failed):
                        outcome = message.error
                if stopping() or time.monotonic() - started > TOTAL_SECONDS:
                    return _failure("The publisher was stopped.", retryable=True)
                if time.monotonic() - kept > KEEP_SECONDS:
                    kept = time.monotonic()
                    with self._database.unit_of_work() as session:
                        if not publications.keep(session, publication_id):
                            return _failure("The publication was deleted.", retryable=False)
            status = child.returncode
        finally:
            child.close()
        return outcome or from_exit(status or 0, child.pipe.tail, "publishing", out_of_memory=child.out_of_memory)


def _failure(message: str, *, retryable: bool) -> ErrorInfo:
    hint = "It is tried again." if retryable else "Ask for it again."
    return ErrorInfo(class_="publish_failed", retryable=retryable, phase="publishing", message=message, hint=hint)
