"""HTTP transport of one service: idempotent calls are retried while it is away or busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

ATTEMPTS = 6
"""Tries of one call; with the delays below, a service that restarts within ten seconds is not noticed."""
FIRST_ATTEMPTS = 3
"""Attempts to connect to a service that never answered: a wrong address fails within a second."""
FIRST_DELAY_SECONDS = 0.3
MAX_DELAY_SECONDS = 30.0
BUSY = frozenset({429, 503})


class ServiceError(Exception):
    """The service refused; `problem` is its problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any], *, repeated: bool = False) -> None:
        self.status = status
        self.problem = problem
        self.repeated = repeated
        """Whether an answer to the same call was lost before: the refusal may come from its success."""
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))

    def __str__(self) -> str:
        """Return the refusal with every pointer: a traceback shows nothing else."""
        items = self.problem.get("errors")
        errors = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        return "; ".join([str(self.args[0]), *(f"{item.get('pointer')} {item.get('detail')}" for item in errors)])


class Unreachable(Exception):
    """No service answers at this address."""


class BadDownload(Exception):
    """What came is not the file that the service promised."""


class Transport:
    """Sends requests to one service."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"User-Agent": "espalier-client"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        timeout = httpx.Timeout(60, connect=5)
        # A proxy of the environment must not see loopback traffic, nor break it.
        proxied = _address(url).host not in {"127.0.0.1", "::1", "localhost"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=proxied)
        self.sleep = sleep
        self._met = False
        """Whether the service has answered this client."""

    def close(self) -> None:
        """Close every connection."""
        self.http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
    ) -> dict[str, Any]:
        """Send one request that is safe to send again, and again while the service is away or busy; or `once`."""
        lost = False
        for attempt in range(ATTEMPTS):
            last = once or attempt == ATTEMPTS - 1
            try:
                answer = self.http.request(method, path, json=json, params=params, headers=headers)
            except httpx.TransportError as error:
                unmet = isinstance(error, httpx.ConnectError) and not self._met and attempt == FIRST_ATTEMPTS - 1
                if last or unmet:
                    raise Unreachable(f"no service answers at {self.http.base_url}: {error}") from error
                lost = True
                self.sleep(delay(attempt, None))
                continue
            self._met = True
            if answer.status_code in BUSY and not last:
                self.sleep(delay(attempt, answer.headers.get("Retry-After")))
                continue
            if answer.is_error:
                raise ServiceError(answer.status_code, problem_of(answer), repeated=lost)
            body: dict[str, Any] = answer.json() if answer.content else {}
            return body
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Open an answer that is read as it comes; raises ServiceError when it is a refusal."""
        with self.http.stream("GET", path, headers=headers, follow_redirects=True) as answer:
            if answer.is_error:
                answer.read()
                raise ServiceError(answer.status_code, problem_of(answer))
            yield answer


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in {"http", "https"} or not address.host:
        raise Unreachable(f"{url} is no address of a service: give one like http://127.0.0.1:8000")
    return address


def delay(attempt: int, retry_after: str | None) -> float:
    """Return the seconds until the next try: what the service asks for, or twice as long each time."""
    asked = float(retry_after) if retry_after and retry_after.isdecimal() else FIRST_DELAY_SECONDS * 2**attempt
    return min(asked, MAX_DELAY_SECONDS)


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the problem document, or a substitute when a proxy before the service answered."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"detail": f"HTTP {answer.status_code} {answer.reason_phrase}"}
