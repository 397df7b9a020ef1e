"""Numbers for Prometheus: what the database tells, and how long requests of this process took."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.queries import measures
from app.db.session import Database, clock
from app.specs.lifecycle import STATES

FRESH_SECONDS = 15.0
"""The database is asked at most so often, however many scrape."""
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class RequestMeter:
    """Middleware that times requests by method, route and status."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self.app = app
        self._seconds = Histogram(
            "espalier_http_request_seconds", "Time to the end of an answer.", ["method", "route", "status"],
            buckets=_BUCKETS, registry=registry,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and note how long it took."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            # Routes, not paths: ids would make a series of every job.
            route = getattr(scope.get("route"), "path", "none")
            self._seconds.labels(scope["method"], route, str(status)).observe(time.perf_counter() - started)


class Fleet(Collector):
    """Queues, jobs, phases, memory, failures and webhooks, as the database tells them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._families: list[GaugeMetricFamily] = []
        self._read_at = float("-inf")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families, fresh enough."""
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._families, self._read_at = self._read(), time.monotonic()
        yield from self._families

    def _read(self) -> list[GaugeMetricFamily]:
        with self._database.reading() as session:
            now = clock(session)
            states = measures.jobs_by_state(session)
            queues = measures.queues(session)
            phases = measures.phases_of_the_last_day(session, now)
            peaks = measures.peaks_of_the_last_day(session, now)
            memory = measures.device_memory(session, now)
            failures = measures.failures_of_the_last_day(session, now)
            pending = measures.pending_deliveries(session)
        jobs = _family("espalier_jobs", "Jobs by state.", ["state"])
        for state in STATES:
            jobs.add_metric([state], states.get(state, 0))
        depth = _family("espalier_queue_depth", "Queued jobs by worker class.", ["worker_class"])
        age = _family("espalier_queue_oldest_seconds", "Age of the oldest queued job.", ["worker_class"])
        for worker_class, count, oldest in queues:
            depth.add_metric([worker_class], count)
            age.add_metric([worker_class], max((now - oldest).total_seconds(), 0.0))
        seconds = _family("espalier_phase_seconds", "Mean seconds of a phase over the last day.", ["phase"])
        for name, mean in phases:
            seconds.add_metric([name], mean)
        peak = _family(
            "espalier_phase_peak_memory_bytes", "Most that a phase held on its device in a day.",
            ["worker_class", "phase"],
        )  # fmt: skip
        for worker_class, name, most in peaks:
            peak.add_metric([worker_class, name], most)
        device = _family(
            "espalier_device_memory_bytes", "Memory of the devices of all live workers.", ["worker_class", "device"]
        )
        for worker_class, kind, total in memory:
            device.add_metric([worker_class, kind], total)
        failed = _family("espalier_failures", "Jobs that failed within the last day, by class.", ["class"])
        for class_, count in failures:
            failed.add_metric([class_], count)
        webhooks = _family("espalier_webhooks_pending", "Webhook deliveries that wait.", [])
        webhooks.add_metric([], pending)
        return [jobs, depth, age, seconds, peak, device, failed, webhooks]


def _family(name: str, help_: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, labels=labels)
