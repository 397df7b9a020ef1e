"""Run one attempt at a job: fetch, compute, store, and commit the outcome in one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property

import structlog
from sqlalchemy.orm import Session

from app.bodies.job import JobRequest
from app.bodies.stored import stored_request
from app.db.job import Job
from app.db.queries.queue.leases import WorkerIdentity
from app.db.session import clock
from app.errors import StorageError
from app.integrations.shared.targets import PublishRequest
from app.platform.loops import OUTAGE
from app.services.admission.routing import NoClassHolds, NoClassOfCards, larger_class
from app.services.publications import rejected
from espalier.messages import (
    ComputeRequest,
    Done,
    ErrorInfo,
    MembersRequested,
    StoredCheckpoint,
    Warned,
)
from workers.child_jobs import search
from workers.child_jobs.members import ChildJobs, spawn_members, wait_for_children
from workers.lease import transitions
from workers.lease.holder import Interrupted, LeaseHolder, LeaseLost, running_seconds
from workers.lease.retries import JobFailed, as_sent, from_exception, silent, source_changed
from workers.lease.transitions import Transition
from workers.messages import Fetched, FetchRequest, Published, RecordedMessage, Resolved
from workers.processes.memory import allowed
from workers.processes.process import Child, Side, environment
from workers.processes.workspace import DiskQuota, Workspace
from workers.supervisor import commit, publishing
from workers.supervisor.checkpoints import CheckpointUploader, job_prefix, restore
from workers.supervisor.recorder import Recorder
from workers.supervisor.requests import compute_request, fetch_request, ran_out
from workers.supervisor.reuse import Reuse
from workers.supervisor.services import Services
from workers.supervisor.supervise import Ended, Outcome, Watch, supervise

log = structlog.get_logger(__name__)


def run_attempt(services: Services, job: Job, worker: WorkerIdentity, draining: threading.Event) -> Ended:
    """Carry a claimed job as far as it goes; return its error and the process that computed, if any.

    Every way it can end is written down, unless the job is not ours.
    """
    limit = running_seconds(services.settings, job)
    holder = LeaseHolder(
        services.database,
        job_id=job.id,
        fence=job.fence,
        worker_id=worker.id,
        lease_seconds=services.settings.lease_seconds,
        draining=draining,
        run_seconds_left=limit - (job.running_seconds - job.forgiven_seconds),
    )
    with holder:
        attempt = _Attempt(services, job, holder)
        try:
            attempt.end(attempt.run())
        except LeaseLost:
            log.warning("the attempt ends without a word: the job is not ours any more", fence=job.fence)
        finally:
            attempt.close()
    return Ended(attempt.error, attempt.computed_by)


class _Attempt:
    def __init__(self, services: Services, job: Job, holder: LeaseHolder) -> None:
        self._services, self._job, self._holder = services, job, holder
        self._folder = Workspace(services.settings.scratch, job.id, job.fence)
        self._workspace = self._folder.path
        self._recorder = Recorder(services.database, job, discard=self._discard)
        self._prefix = job_prefix(job.project_id, job.id)
        self._reuse = Reuse(services.database, services.settings, job)
        self._uploader = CheckpointUploader(services.store, self._prefix, self._workspace, shared=self._reuse.phases)
        self._children = ChildJobs(services.database, services.store, job)
        self._resolved: Resolved | None = None
        self._stale = False
        self.error: ErrorInfo | None = None
        self.computed_by: int | None = None

    @cached_property
    def _request(self) -> JobRequest:
        """The body as sent; parsed inside of `run`, because a later version may refuse what an earlier one took."""
        return stored_request(self._job.request)

    def run(self) -> Transition:
        """Run the attempt and return its transition, which the last transaction applies."""
        try:
            with self._folder:
                return self._carry_out()
        except Interrupted as interrupted:
            reason = interrupted.reason
            return lambda session, job, now: transitions.stop(session, job, reason, now=now)
        except LeaseLost:
            raise
        except JobFailed as failure:
            return self._failed(failure.error)
        except OUTAGE:
            raise LeaseLost from None
        except Exception as error:  # whatever it is, the job must learn of it
            log.exception("the attempt failed in the worker")
            return self._failed(from_exception(error, self._recorder.phase))

    def _carry_out(self) -> Transition:
        """Do this job's own work: up to its result, or to the transition that hands it to other jobs or workers."""
        if transition := self._reuse.elsewhere(last=False) or self._children.waiting():
            return transition
        fetched, resolved = self._fetch()
        if transition := self._left_to_others(resolved):
            return transition
        done = self._compute(fetched, resolved)
        if not isinstance(done, Done):
            return done
        keys = self._upload(done)
        published = [] if rejected(done.gate) else self._publish(done, resolved)
        return lambda session, job, now: commit.commit(session, job, done, keys, published, now=now)

    def _left_to_others(self, resolved: Resolved) -> Transition | None:
        settings, current = self._services.settings, self._job.worker_class
        try:
            worker_class = larger_class(
                settings, current, resolved.parsed_spec, resolved.parsed_facts, gpus=self._request.limits.gpus
            )
        except (NoClassHolds, NoClassOfCards) as error:
            raise JobFailed(ErrorInfo.of(error, self._recorder.phase)) from error
        if worker_class is not None:
            return lambda session, job, now: transitions.reroute(session, job, worker_class, now=now)
        if transition := self._reuse.elsewhere(last=True):
            return transition
        return search.next_step(resolved.parsed_spec, resolved.facts.get("sizes"), self._children.children)

    def end(self, transition: Transition) -> None:
        """Commit the last messages and the transition in one transaction, retrying while the lease holds."""
        self._holder.releasing()
        state = self._persist(transition)
        if state == "succeeded":
            self._tidy()
        log.info("attempt ended", state=state)

    def close(self) -> None:
        """Stop the thread of the uploads, and end the last span."""
        self._uploader.close()
        self._recorder.spans.end()

    def _failed(self, error: ErrorInfo) -> Transition:
        self.error = error = as_sent(error, self._job.request)
        log.warning("attempt failed", error_class=error.class_, phase=error.phase, message=error.message)
        return lambda session, job, now: transitions.finish_with_error(session, job, error, now=now)

    def _persist(self, write: Transition) -> str:
        while True:
            if self._holder.lost:
                raise LeaseLost
            try:
                with self._services.database.unit_of_work() as session:
                    job = self._recorder.write(session)
                    write(session, job, clock(session))
                    state = job.state
            except OUTAGE:
                time.sleep(0.25)
            else:
                self._recorder.written()
                return state

    def _fetch(self) -> tuple[Fetched, Resolved]:
        services = self._services
        request = fetch_request(
            services.database, services.store, services.settings, self._job, self._request, self._workspace
        )
        fetched = self._supervise("fetch", request)
        if not isinstance(fetched, Fetched) or self._resolved is None:
            raise JobFailed(silent("the fetcher ended without a model"))
        return fetched, self._resolved

    def _compute(self, fetched: Fetched, resolved: Resolved) -> Done | Transition:
        """Return the result; or how the attempt ends where members of a soup are to go on, or were deleted."""
        members = self._children.download_members(self._workspace, between=self._holder.check)
        if members is None:
            return wait_for_children
        request = compute_request(
            self._request, fetched, resolved, self._services.settings, self._workspace
        ).model_copy(
            update={
                "member_dirs": members,
                "member_trained": self._children.trained,
                "spread": True,
                "checkpoints": self._restore(),
                **ran_out(self._services.database, self._job.id),
            }
        )
        self._recorder.take([Warned(code="member_left_out", text=text) for text in self._children.missing()])
        done = self._supervise("compute", request)
        if isinstance(done, MembersRequested):
            return spawn_members
        if not isinstance(done, Done):
            raise JobFailed(silent("the compute child ended without a result"))
        return done

    def _restore(self) -> list[StoredCheckpoint]:
        recorded = self._job.checkpoints
        # Of other text (a data set's branch moved) or another engine: nothing of it fits.
        usable = [] if self._stale else recorded
        restored = restore(self._services.store, usable, self._workspace, between=self._holder.check)
        if len(restored) < len(recorded):
            kept = recorded[: len(restored)]

            def keep(_session: Session, job: Job, _now: datetime) -> None:
                job.checkpoints = kept

            self._persist(keep)
        others = self._reuse.shared(restored)
        documents = [item.model_dump(mode="json") for item in others]
        restored += restore(self._services.store, documents, self._workspace, between=self._holder.check)
        self._recorder.take(self._reuse.messages(restored))
        return restored

    def _supervise(self, side: Side, request: FetchRequest | ComputeRequest | PublishRequest) -> Outcome:
        settings = self._services.settings
        child = Child(
            getattr(self._services.commands, side),
            request,
            cwd=self._workspace,
            offline=side == "compute",
            env=environment(side, self._workspace, settings.threads),
            memory=allowed(settings, request),
            groups=self._services.groups,
        )
        self.computed_by = child.pid if side == "compute" else self.computed_by
        return supervise(
            child,
            holder=self._holder,
            recorder=self._recorder,
            uploader=self._uploader,
            fetched=self._fetched,
            quota=DiskQuota(settings.scratch, settings.scratch_max_bytes),
            watch=Watch.of(side, settings, gpus=self._request.limits.gpus),
        )

    def _fetched(self, message: Resolved | Fetched) -> Sequence[RecordedMessage]:
        """Keep what the fetcher found out, and return what is recorded of it."""
        if isinstance(message, Resolved):
            if self._job.resolved_revision not in {None, message.revision}:
                raise JobFailed(source_changed())
            self._resolved = message
            return [Warned(code="source", text=text) for text in message.warnings]
        if self._resolved is None:
            raise JobFailed(silent("the fetcher named no revision"))
        facts = self._reuse.resolved(self._resolved, message.data_sha256)
        self._stale = self._job.work_hash not in {None, facts.work_hash}
        return [facts]

    def _upload(self, done: Done) -> dict[str, str]:
        store, prefix = self._services.store, f"{self._prefix}a{self._job.fence}/"
        artifact, check = self._workspace / "artifact", self._holder.check
        return commit.upload(store, prefix, artifact, done.files, recorder=self._recorder, check=check)

    def _publish(self, done: Done, resolved: Resolved) -> list[Published]:
        """Send the result to every target of the spec, one after the other."""
        files = publishing.local_files(self._workspace / "artifact", done.files)
        lineage = publishing.lineage_of(self._job, resolved, self._reuse.work_hash)
        database, settings, spec = self._services.database, self._services.settings, resolved.parsed_spec
        todo = publishing.requests(database, settings, self._job, spec, files, self._workspace, lineage=lineage)
        return publishing.in_run(todo, self._recorder, lambda one: self._supervise("publish", one))

    def _discard(self, keys: list[str]) -> None:
        """Delete checkpoints that newer ones replaced; what stays behind is collected a day later."""
        try:
            for key in keys:
                self._services.store.delete(key)
        except StorageError as error:
            log.warning("a superseded checkpoint stays for now", error=error.detail)

    def _tidy(self) -> None:
        """Delete the checkpoints of a job that needs them no more; best effort."""
        try:
            self._services.store.delete_prefix(f"{self._prefix}checkpoints/")
        except StorageError as error:
            log.warning("checkpoints stay for now", error=error.detail)
