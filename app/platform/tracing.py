"""Traces across API and worker, where a collector is named; otherwise nothing of OpenTelemetry is loaded.

The context of the request travels with the job's row (`traceparent`), so that claim, phases and upload are spans of the
trace that the request began.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from app.settings import Settings

SCOPE: Final = "espalier"
MISSING: Final = (
    "ESPALIER_OTEL_ENDPOINT is set, and OpenTelemetry is not installed: install the extra `otel` "
    "(from the checkout: pip install '.[otel]'), or unset it."
)
_tracer: Any = None
"""OpenTelemetry's tracer; None while nobody asked for traces."""


def setup_traces(settings: Settings, service: str) -> None:
    """Send the spans of this process to the collector that the settings name; refuses to go on without the extra."""
    if not settings.otel_endpoint:
        return
    try:
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError:
        raise SystemExit(MISSING) from None
    exporter = otlp.OTLPSpanExporter(endpoint=f"{settings.otel_endpoint.rstrip('/')}/v1/traces")
    use(export.BatchSpanProcessor(exporter), service)


def use(processor: Any, service: str) -> None:  # noqa: ANN401 - OpenTelemetry is optional
    """Give every span of this process to a processor of OpenTelemetry."""
    global _tracer  # noqa: PLW0603 - one per process, like the log
    sdk = importlib.import_module("opentelemetry.sdk.trace")
    resources = importlib.import_module("opentelemetry.sdk.resources")
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": service}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer(SCOPE)


def stop() -> None:
    """Trace nothing any more; for tests."""
    global _tracer  # noqa: PLW0603
    _tracer = None


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | float | None) -> Iterator[Any]:
    """Open a span around the block; `parent` is a traceparent from elsewhere. Yields None where nothing is traced."""
    if _tracer is None:
        yield None
        return
    known = {key: value for key, value in attributes.items() if value is not None}
    with _tracer.start_as_current_span(name, context=_context(parent), attributes=known) as made:
        yield made


def note(name: str, parent: str | None, *, since: int, **attributes: str) -> None:
    """Add a span that began at `since` (nanoseconds of the epoch) and ends now."""
    if _tracer is not None:
        _tracer.start_span(name, context=_context(parent), start_time=since, attributes=attributes).end()


def traceparent() -> str | None:
    """Return the current span as a W3C traceparent; None where nothing is traced."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent")


class Phases:
    """Spans of the phases of one attempt, inside of its span: each lasts until the next one begins."""

    def __init__(self) -> None:
        self._open: Any = None

    def begin(self, name: str) -> None:
        """End the phase that runs, and begin another."""
        self.end()
        if _tracer is not None:
            self._open = _tracer.start_span(f"phase {name}")

    def end(self) -> None:
        """End the phase that runs, if one does."""
        if self._open is not None:
            self._open.end()
            self._open = None


def _context(parent: str | None) -> Any:  # noqa: ANN401
    return _propagator().extract({"traceparent": parent}) if parent else None


def _propagator() -> Any:  # noqa: ANN401
    module = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    return module.TraceContextTextMapPropagator()


def from_headers(headers: Mapping[str, str]) -> str | None:
    """Return the caller's traceparent, where it sends one."""
    return headers.get("traceparent") if _tracer is not None else None
