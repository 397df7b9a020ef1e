"""The worker loop: claims jobs and runs an attempt at each; woken by the wake-up signal, and polling without it."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace

import structlog

from app.db.job import Job
from app.db.queries.queue import leases, workers
from app.db.queries.queue.leases import WorkerIdentity
from app.platform import loops, tracing
from app.platform.ids import new_id
from app.platform.loops import OUTAGE
from espalier.recipe.spec import ENGINE_VERSION
from workers.processes.device import Device
from workers.processes.placement import Placement
from workers.processes.workspace import remove_leftovers
from workers.supervisor.attempt import run_attempt
from workers.supervisor.services import Services

IDLE_SECONDS = 2.0
"""Interval of polling: the delay that a lost wake-up signal costs at most."""

log = structlog.get_logger(__name__)


class WorkerLoop:
    """Runs in a thread of its own; `notify` and `drain` may be called from any other."""

    def __init__(
        self, services: Services, *, worker_class: str = "default", placement: Placement | None = None
    ) -> None:
        self._wake_up = threading.Event()
        self._draining = threading.Event()
        self._ending = threading.Event()
        self._registered = False
        placement = placement or Placement.of(services.settings, worker_class)
        # Decided once: a child that is promised a GPU and finds none does not fall back to the CPU.
        settings = placement.settings(services.settings)
        self._services = replace(services, settings=settings)
        self.device = Device(settings, services.commands, placement.cards)
        self.identity = WorkerIdentity(
            id=new_id("wrk"),
            worker_class=worker_class,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=placement.device,
            engine_version=ENGINE_VERSION,
            memory_bytes=placement.memory_bytes,
        )

    @property
    def ready(self) -> bool:
        """Whether its device has answered: before that nothing is claimed."""
        return self.device.ready

    def notify(self) -> None:
        """Wake the loop: there may be work."""
        self._wake_up.set()

    def drain(self) -> None:
        """Claim nothing more, release the current job, and end."""
        self._ending.set()
        self._draining.set()
        self._wake_up.set()

    def run(self, *, once: bool = False) -> None:
        """Run attempts until drained; with `once`, at most one.

        A worker that an operator drains stays, idle and seen, until it may work again or its process is ended.
        """
        loops.each("slot", [self._services.settings.scratch], remove_leftovers, spoiled=lambda _: None)
        if once:
            self._run_once()
            return
        try:
            loops.run("slot", self._ending, self._round, idle_seconds=IDLE_SECONDS, pause=self._wake_up.wait)
        finally:
            self.close()

    def _run_once(self) -> None:
        try:
            if not self.device.prove(self._ending) and self.device.lost:
                raise SystemExit("the GPU does not answer, so no job is claimed: see the log above, and `nvidia-smi`")
            self.work_once()
        finally:
            self.close()

    def close(self) -> None:
        """End what the loop starts beside its jobs."""
        self.device.close()

    def _round(self) -> bool:
        # Cleared before the claim: a signal that arrives during the claim is seen after it.
        self._wake_up.clear()
        return self.work_once()

    def work_once(self) -> bool:
        """Claim a job and work on it; False when there was none, or no device to work on."""
        try:
            self.device.poll()
            job = self.claim()
        except OUTAGE as error:
            log.warning("the database is out of reach", error=type(error).__name__)
            return False
        except Exception:
            # Not migrated yet, say: a loop that ended here would leave a worker that receives signals and does nothing.
            log.exception("no job could be claimed")
            return False
        if job is None:
            return False
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            log.info("job claimed", fence=job.fence)
            try:
                with tracing.span("attempt", job.traceparent, job_id=job.id, attempt=job.attempt):
                    ended = run_attempt(self._services, job, self.identity, self._draining)
                if ended.computed_by is not None:
                    self.device.await_release(ended.computed_by)
                if ended.error is not None and ended.error.class_ == "device_lost" and self.identity.device == "cuda":
                    self.device.mark_lost()
            except Exception:  # a fault of ours must not end the loop; the lease runs out and the attempt is charged
                log.exception("the attempt broke")
                time.sleep(1)
        return True

    def claim(self) -> Job | None:
        """Claim the next job that this worker may run; None where there is none."""
        with self._services.database.unit_of_work() as session:
            if not self._registered:
                leases.register(session, self.identity)
            if self.device.facts is not None and self.device.facts.memory_bytes != self.identity.memory_bytes:
                self.identity = replace(self.identity, memory_bytes=self.device.facts.memory_bytes)
                leases.set_memory(session, self.identity.id, self.device.facts.memory_bytes)
            job = None
            began = time.time_ns()
            if not self._draining.is_set() and self.device.ready:
                job = leases.claim(session, self.identity, lease_seconds=self._services.settings.lease_seconds)
            if job is not None:
                tracing.note("claim", job.traceparent, since=began, job_id=job.id, worker_id=self.identity.id)
            if job is None:
                leases.seen(session, self.identity.id, job_id=None, device_lost=self.device.lost)
                if workers.drain_requested(session, self.identity.id):
                    self._draining.set()
                elif not self._ending.is_set():  # an operator has thought better of it
                    self._draining.clear()
        self._registered = True
        return job
