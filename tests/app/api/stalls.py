"""What holds up a process: hostile requests of every kind, and how long nobody else came to do anything meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

Headers = list[tuple[bytes, bytes]]
STALL_SECONDS = 0.05
CPU_SECONDS = 1.0
TICK_SECONDS = 0.005
KIB = 1024
BODY = 256 * KIB - 64
"""Bytes of the largest legal body of JSON, and of the largest form."""
VALUES = 4990
"""Of the most that such a body may have."""


@dataclass
class Seen:
    """What one request did to the process."""

    status: int = 0
    stall: float = 0.0
    """Longest stretch in which the process computed, and neither its event loop nor another thread came to its turn."""
    cpu: float = 0.0


class Watch:
    """A thread that wants to do something every 5 ms, and the event loop that does: the longest gap between any two."""

    def __init__(self, client: TestClient) -> None:
        self._client, self._app = client, client.app
        self._worst = 0.0
        self._last = (0.0, 0.0)
        self._lock = threading.Lock()

    def call(self, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> Seen:
        """Make a request at the application itself, on its own event loop."""
        portal = self._client.portal
        assert portal is not None
        with self._ticking():
            began = time.process_time()
            status = portal.call(self._ask, method, path, query, headers, body)
            cpu = time.process_time() - began
        return Seen(status, self._worst, cpu)

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        ended = threading.Event()
        self._worst, self._last = 0.0, (time.perf_counter(), time.process_time())

        def tick() -> None:
            while not ended.wait(TICK_SECONDS):
                self._live()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _live(self) -> None:
        with self._lock:
            now = (time.perf_counter(), time.process_time())
            # A machine that gives its cores to others stops us, too: then no CPU is spent.
            self._worst = max(self._worst, min(now[0] - self._last[0], now[1] - self._last[1]))
            self._last = now

    async def _ask(self, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> int:
        status, sent = 0, False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.sleep(3600)
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            self._live()
            status = message.get("status", status)

        async def beat() -> None:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self._live()

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(b"host", b"testserver"), *headers],
            "scheme": "http",
            "root_path": "",
            "server": ("testserver", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        beating = asyncio.create_task(beat())
        try:
            async with asyncio.timeout(120):
                await self._app(scope, receive, send)
        finally:
            beating.cancel()
        return status


def routes(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every (method, path) that an application serves, whatever is mounted below it."""
    for route in app.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from routes(inner, prefix + getattr(route, "path", ""))
        for method in sorted(getattr(route, "methods", None) or ()):
            yield method, prefix + route.path


def _repeat(unit: bytes, start: bytes = b"", end: bytes = b"", size: int = BODY) -> bytes:
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def _document(value: object) -> bytes:
    return json.dumps(value).encode()


def bodies(size: int = BODY) -> dict[str, bytes]:
    """Bodies that cost somebody much: to strip, to count, to parse, to check, to refuse, to tell why."""
    deep = b'{"a":' * 31 + b"1" + b"}" * 31
    count = VALUES // 2
    return {
        "quotes in an open string": _repeat(b'\\"', b"[" * 33 + b'"', size=size),
        "open brackets": b"[" * size,
        "many strings": _repeat(b'"a",', b"[", b'"a"]', size=size),
        "empty strings": _repeat(b'""', size=size),
        "backslashes": _repeat(b"\\", b'"', size=size),
        "escapes": _repeat(b"\\u00e9", b'{"name":"', b'"}', size=size),
        "deep objects": b"[" + b",".join([deep[6:-1]] * (size // len(deep) // 2)) + b"]",
        "unknown members": _document({f"m{number}": number for number in range(VALUES)}),
        "empty objects": _document([{}] * VALUES),
        "a list of lists": _document({"files": [[] for _ in range(VALUES - 1)], "axes": {}}),
        "long numbers": b"[" + b",".join([b"9" * 4290] * (size // 4300)) + b"]",
        "one long number": b"9" * size,
        "one long fraction": b'{"steps":0.' + b"1" * (size - 12) + b"}",
        "one long exponent": b'{"steps":1e' + b"9" * (size - 12) + b"}",
        "one long string": _document({"name": "x" * (size - 20)}),
        "a long name": _document({"x" * (size - 20): 1}),
        "spaces": b" " * size,
        "numbers without a bound": _document({"spec": {"objective": {"parameters": 10**400}}, "number": 10**400}),
        "broken text": b'{"a":"' + b"\xff" * (size - 8) + b'"}',
        "unknown in a spec": _document({"source": {"kind": "x"}, "spec": {f"m{n}": {} for n in range(VALUES - 10)}}),
        "labels": _document({"labels": {f"m {number}": number for number in range(VALUES - 2)}}),
        "axes": _document({"base": {}, "axes": {f"m{number}": [] for number in range(VALUES - 3)}}),
        "files": _document({"kind": "model", "files": [{}] * 1000}),
        "steps": _document({"source": {}, "spec": {"prune": [{"method": "wanda"}] * count}}),
        "tags": _document({"match": {"tags": {f"m{number}": number for number in range(VALUES - 3)}}}),
    }


def queries() -> dict[str, bytes]:
    """Queries that cost somebody much."""
    long = b"9" * 15_000
    return {
        "many parameters": b"&".join([b"a=1"] * 99),
        "one long value": b"cursor=" + long,
        "escapes": b"cursor=" + b"%41" * 5000,
        "plus signs": b"model=" + b"+" * 15_000,
        "labels": urlencode([("label", "k" * 60 + "=" + "v" * 99)] * 90).encode(),
        "numbers": b"limit=" + b"9" * 4000 + b"&after=" + b"9" * 4000 + b"&max_points=1e999",
        "times": urlencode({"created_after": "2026-01-01T00:00:00" + "0" * 8000 + "Z"}).encode(),
    }


def headers() -> dict[str, Headers]:
    """Headers that cost somebody much."""
    longest = b"a" * 30_000
    return {
        "many": [(b"x-%d" % number, b"v" * 300) for number in range(95)],
        "a long key": [(b"authorization", b"Bearer " + longest)],
        "ranges": [(b"range", b"bytes=" + b"0-1," * 7000)],
        "a long range": [(b"range", b"bytes=0-" + b"9" * 30_000)],
        "cookies": [(b"cookie", b"; ".join(b"c%d=v" % number for number in range(2500)))],
        "a quoted cookie": [(b"cookie", b'espalier_session="' + b"\\" * 30_000 + b'"')],
        "octal cookies": [(b"cookie", b'espalier_session="' + b"\\101" * 7000 + b'"')],
        "accept": [(b"accept", b"text/html," * 3000)],
        "an idempotency key": [(b"idempotency-key", longest)],
        "a trace": [(b"traceparent", b"00-" + longest), (b"tracestate", b"a=b," * 500)],
        "a request id": [(b"x-request-id", longest)],
        "a host": [(b"origin", b"http://" + longest)],
    }


def forms() -> dict[str, bytes]:
    """Forms that cost somebody much."""
    return {
        "many fields": urlencode([(f"f{number}", "x" * 100) for number in range(1990)]).encode(),
        "one long field": b"spec=" + b"a" * (BODY - 10),
        "escapes": b"spec=" + b"%41" * (BODY // 3 - 10),
        "ampersands": b"&" * BODY,
        "equal signs": b"=" * BODY,
        "plus signs": b"a=" + b"+" * (BODY - 10),
        "json in a field": urlencode({"extra": '{"a":' * 5000}).encode(),
    }


def worst(measure: Callable[[], Seen], tries: int = 3, *, cpu: float = CPU_SECONDS) -> Seen:
    """The least that a request does in a few tries: what it does always."""
    measured = measure()
    for _ in range(tries - 1):
        if measured.stall <= STALL_SECONDS and measured.cpu <= cpu:
            break
        again = measure()
        measured = Seen(again.status, min(measured.stall, again.stall), min(measured.cpu, again.cpu))
    return measured


def address(path: str, known: dict[str, str]) -> str:
    """The path of a route, with the ids of what is there; `known`: id by the part of a path before it."""
    parts, kind = path.split("/"), ""
    for index, part in enumerate(parts):
        if part.startswith("{"):
            parts[index] = "1" if "number" in part else "a.txt" if "file" in part else known.get(kind, "x_1")
        kind = part
    return "/".join(parts)


def served() -> list[tuple[str, str]]:
    """Every (method, path) of the whole service, its portal included, but for streams, which do not end."""
    served_routes = set(routes(create_app(Settings())))
    return sorted(
        (method, path)
        for method, path in served_routes
        if method != "HEAD" and not re.search(r"stream|/portal/events", path)
    )


RUNS_AWAY = [f"(?:(?:(?:.?){{10}}){{10}}){{9}}.{{{number}}}" for number in range(8)]
