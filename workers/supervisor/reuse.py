"""Deduplicate equal work: take a finished result, wait for a running job, or start from stored phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import reuse
from app.db.queries.queue import leases
from app.db.session import Database, clock
from app.services.admission import source_cache
from app.services.reuse import result_reuse
from app.settings import Settings
from espalier.checkpoint_names import NORMS, RESULT, CheckpointName, Kind
from espalier.messages import ErrorInfo, Layer, StoredCheckpoint
from espalier.methods import stored_statistics
from espalier.recipe.hashes import SHARED_PHASES, fitted_as, phase_key, work_hash
from espalier.recipe.spec import ENGINE_VERSION, MOST_STEPS
from workers.lease import transitions
from workers.lease.retries import JobFailed
from workers.lease.transitions import Transition
from workers.messages import Facts, RecordedMessage, Resolved, StoredInStore
from workers.processes.machine import threads_of


def made_by(settings: Settings, gpus: int | None = None) -> dict[str, Any]:
    """Return what decides the bits of a result beside the work itself: engine, device, threads, library versions.

    `gpus`: cards that the job names. On a CPU its ranks share the threads.
    """
    threads = threads_of(settings, gpus) if settings.device == "cpu" else settings.threads
    return {"engine": ENGINE_VERSION, "device": settings.device, "threads": threads, **_libraries()}


@cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "tokenizers")}


class Reuse:
    """Deduplication of one attempt: equal results, equal running jobs, and shared phase checkpoints."""

    def __init__(self, database: Database, settings: Settings, job: Job) -> None:
        self._database, self._job = database, job
        self._policy = job.request.get("reuse", "auto")
        self.work_hash = job.work_hash
        self._source = source_cache.source_key(job.request["source"])
        self._gpus = (job.request.get("limits") or {}).get("gpus")
        store = PhaseStore(job.project_id, settings, gpus=self._gpus)
        self.phases = store if self._policy != "never" else None

    def resolved(self, resolved: Resolved, data: Mapping[str, str]) -> Facts:
        """Return the resolved source with its work hash, and what of it was pinned before it was read."""
        self.work_hash = work_hash(resolved.revision, data, resolved.spec, ENGINE_VERSION, gpus=self._gpus)
        seen: dict[str, dict[str, Any]] = {}
        if self._source and self._source == source_cache.source_key(self._job.request["source"]):
            seen[self._source] = {"revision": resolved.revision, "facts": resolved.facts}
        for name, key in source_cache.texts_of(resolved.parsed_spec.datasets).items():
            if name in data:
                seen[key] = {"sha256": data[name]}
        if self.phases is not None:
            self.phases.opened(resolved, data)
        return Facts(**resolved.model_dump(exclude={"kind"}), work_hash=self.work_hash, known=seen)

    def elsewhere(self, *, last: bool) -> Transition | None:
        """Return the transition to an equal job's result or wait; `last` when the work hash is final.

        Raises JobFailed when there is none and the job may do nothing else.
        """
        if self._policy == "never" or (self.work_hash is None and not last):
            return None
        assert self.work_hash is not None
        with self._database.reading() as session:
            done = reuse.done(session, self._job.project_id, self.work_hash, but=self._job.id)
            leader = None if done else _leader(session, self._job, self.work_hash)
        if done or leader:
            return self.finish
        if self._policy == "require":
            raise JobFailed(_nothing_to_reuse())
        return None

    def finish(self, session: Session, job: Job, now: datetime) -> None:
        """End a locked job's attempt with the result of another, let it wait for that, or give it another try."""
        assert self.work_hash is not None
        if transitions.apply_user_request(session, job, now=now):
            return
        done = reuse.held_done(session, job.project_id, self.work_hash, but=job.id)
        if done is not None:
            leases.end_attempt(session, job, "succeeded", now=now)
            result_reuse.finish_with_result(session, job, done, now=now)
        else:
            leader = _leader(session, job, self.work_hash)
            transitions.wait(session, job, now=now, waits_for=leader.id if leader else None)

    def shared(self, own: Sequence[StoredCheckpoint]) -> list[StoredInStore]:
        """Return checkpoints of this job's phases that other jobs stored and this one has not made itself."""
        have = {(item.phase, item.name) for item in own}
        stored = self.phases.find(self._database, self._job.id) if self.phases else []
        return [item for item in stored if (item.phase, item.name) not in have]

    def messages(self, restored: Sequence[StoredCheckpoint]) -> list[RecordedMessage]:
        """Return the layer rows that came with restored blocks of other jobs, as messages of this one."""
        foreign = [item for item in restored if item.origin is not None]
        return [Layer.model_validate(row) for item in foreign for row in item.data.get("layers", [])]


def _leader(session: Session, job: Job, work_hash: str) -> Job | None:
    """Return the older job that is about this work."""
    return reuse.in_flight(session, job.project_id, work_hash, before=job.id)


def _nothing_to_reuse() -> ErrorInfo:
    return ErrorInfo(
        class_="invalid_spec",
        retryable=False,
        phase="resolving",
        message="there is no equal result to reuse",
        hint="Submit it with reuse: auto.",
    )


class PhaseStore:
    """Where the checkpoints of one job's phases lie for every job that has the same ones to make."""

    def __init__(self, project_id: str, settings: Settings, *, gpus: int | None = None) -> None:
        self._project_id = project_id
        self._made_by, self._gpus = made_by(settings, gpus), gpus
        self._work: dict[str, Any] | None = None
        self._statistics: list[str] = []
        """The one kind of stored statistics that the job reads; files of Gram matrices are large."""

    def opened(self, resolved: Resolved, data: Mapping[str, str]) -> None:
        """Set what the job works on; before that nothing is shared."""
        self._work = {"revision": resolved.revision, "data": data, "spec": resolved.spec}
        if resolved.spec.get("propagation") == "dense":
            masking = resolved.parsed_spec.masking
            self._statistics = [stored_statistics.label(step.gathers) for step in masking if step.gathers]

    def key(self, phase: str, name: str) -> str | None:
        """Return the key under which a checkpoint is shared; None for one that stays with its job."""
        if self._work is None or (parsed := CheckpointName.parse(name)) is None:
            return None
        more = fitted_as(self._work["spec"], self._gpus) if phase == "reconstructing" else {}
        return phase_key(phase, parsed, **self._work, made_by=self._made_by | more)

    def prefix(self, key: str) -> str:
        """Return the prefix of a key's files in the store."""
        return f"projects/{self._project_id}/phases/{key}/"

    def find(self, database: Database, job_id: str) -> list[StoredInStore]:
        """Return checkpoints of this job's phases that other jobs stored, in the order of the phases."""
        block = CheckpointName(Kind.BLOCK, block=0)  # one stands for all
        inputs = [CheckpointName(Kind.INPUTS, statistics=each, block=0) for each in self._statistics]
        removed = [CheckpointName(Kind.REMOVED_BLOCKS, step=number) for number in range(MOST_STEPS)]
        names = (RESULT, NORMS, block, *inputs, *removed)
        keys = {key for phase in SHARED_PHASES for name in names if (key := self.key(phase, str(name)))}
        with database.unit_of_work() as session:
            rows = reuse.phase_results(session, self._project_id, keys, now=clock(session))
        checkpoints = [
            StoredInStore.model_validate({**row.document, "origin": row.job_id})
            for row in rows
            if row.job_id != job_id and self.key(row.phase, row.name) == row.key
        ]
        return sorted(checkpoints, key=lambda item: (SHARED_PHASES.index(item.phase), item.name))
