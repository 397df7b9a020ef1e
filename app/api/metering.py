"""Metrics for Prometheus: gauges read from the database, and a histogram of request times."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics_registry import MetricsRegistry
from app.db.lifecycle import STATES
from app.db.queries.connections.webhooks import count_pending
from app.db.queries.jobs.jobs import count_by_state
from app.db.queries.queue import measures
from app.db.session import Database, clock

FRESH_SECONDS = 15.0
"""The database is asked at most so often, however many scrape."""
Family = tuple[str, str, list[str], list[tuple[list[str], float]]]
"""Name, help, labels, and samples: their values of the labels and their number."""
CLIENT_LEFT = 499
"""The status, in the series alone, of a request whose client left before there was an answer."""
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class RequestMeter:
    """Middleware that times requests by method, route and status."""

    def __init__(self, app: ASGIApp, *, registry: MetricsRegistry) -> None:
        self.app = app
        self._seconds = Histogram(
            "espalier_http_request_seconds",
            "Time to the end of an answer.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=registry.local,
        )

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
        except ClientDisconnect:
            status = CLIENT_LEFT
            raise
        finally:
            # Routes, not paths: ids would make a series of every job.
            route = getattr(scope.get("route"), "path", "none")
            self._seconds.labels(scope["method"], route, str(status)).observe(time.perf_counter() - started)


class DatabaseCollector(Collector):
    """Queues, jobs, workers, phases, memory, failures and webhooks, read from the database.

    All server processes of a service expose one reading: two, seconds apart, would make every gauge jump.
    """

    def __init__(self, database: Database, registry: MetricsRegistry, worker_classes: Iterable[str] = ()) -> None:
        self._database, self._registry, self._classes = database, registry, list(worker_classes)
        self._reading: list[Family] = []
        self._read_at = float("-inf")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families, fresh enough."""
        families: list[Family] | None = self._registry.read("database", fresh_seconds=FRESH_SECONDS)
        if families is None and (self._registry.folder is not None or time.monotonic() - self._read_at > FRESH_SECONDS):
            families, self._read_at = self._read(), time.monotonic()
            self._registry.write("database", families)
        self._reading = families or self._reading
        for name, help_, labels, samples in self._reading:
            family = GaugeMetricFamily(name, help_, labels=labels)
            for values, number in samples:
                family.add_metric(values, number)
            yield family

    def _read(self) -> list[Family]:
        with self._database.reading() as session:
            now = clock(session)
            return [*_of_queues(session, now), *self._of_workers(session, now), *_of_the_last_day(session, now)]

    def _of_workers(self, session: Session, now: datetime) -> Iterator[Family]:
        workers = dict.fromkeys(self._classes, 0) | measures.live_workers(session, now)
        lost = dict.fromkeys(workers, 0) | measures.lost_devices(session, now)
        yield (
            "espalier_workers",
            "Workers that were seen within two minutes.",
            ["worker_class"],
            [([name], count) for name, count in workers.items()],
        )
        yield (
            "espalier_devices_lost",
            "Live workers whose device does not answer: they claim nothing.",
            ["worker_class"],
            [([name], count) for name, count in lost.items()],
        )
        yield (
            "espalier_device_memory_bytes",
            "Memory of the devices of all live workers.",
            ["worker_class", "device"],
            [([class_, kind], total) for class_, kind, total in measures.device_memory(session, now)],
        )


def _of_queues(session: Session, now: datetime) -> Iterator[Family]:
    states, queues = count_by_state(session), measures.queues(session)
    yield "espalier_jobs", "Jobs by state.", ["state"], [([state], states.get(state, 0)) for state in STATES]
    yield (
        "espalier_queue_depth",
        "Queued jobs by worker class.",
        ["worker_class"],
        [([name], count) for name, count, _ in queues],
    )
    yield (
        "espalier_queue_oldest_seconds",
        "Age of the oldest queued job.",
        ["worker_class"],
        [([name], max((now - oldest).total_seconds(), 0.0)) for name, _, oldest in queues],
    )
    pending, swept_at = count_pending(session), measures.last_sweep(session)
    yield "espalier_webhooks_pending", "Webhook deliveries that wait.", [], [([], pending)]
    yield (
        "espalier_reconciler_last_sweep_seconds",
        "Since the reconciler last went over everything.",
        [],
        [([], max((now - swept_at).total_seconds(), 0.0))] if swept_at else [],
    )


def _of_the_last_day(session: Session, now: datetime) -> Iterator[Family]:
    yield (
        "espalier_phase_seconds",
        "Mean seconds of a phase over the last day.",
        ["phase"],
        [([name], mean) for name, mean in measures.phases_of_the_last_day(session, now)],
    )
    yield (
        "espalier_phase_peak_memory_bytes",
        "Most that a phase held on its device in a day.",
        ["worker_class", "phase"],
        [([class_, name], peak) for class_, name, peak in measures.peaks_of_the_last_day(session, now)],
    )
    yield (
        "espalier_failures",
        "Jobs that failed within the last day, by class.",
        ["class"],
        [([class_], count) for class_, count in measures.failures_of_the_last_day(session, now)],
    )
