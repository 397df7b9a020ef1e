"""A typed HTTP client of the service: retries, idempotent submits, event polling, downloads that resume."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict
from ulid import ULID

from app.specs.lifecycle import TERMINAL

ATTEMPTS = 6
"""Tries of one call; with the delays below, a service that restarts within ten seconds is not noticed."""
FIRST_ATTEMPTS = 3
"""Tries to connect to a service that never answered: a wrong address is told within a second."""
FIRST_DELAY_SECONDS = 0.3
MAX_DELAY_SECONDS = 30.0
BUSY = frozenset({429, 503})
PAGE = 200
CHUNK_BYTES = 2**20
ENDINGS = frozenset(f"job.{state}" for state in TERMINAL)


class View(BaseModel):
    """What the service answers; a newer service may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PhaseProgress(View):
    """How far the current phase is."""

    current: int
    total: int
    unit: str


class Job(View):
    """One job as the service shows it."""

    id: str
    name: str
    state: str
    phase: str | None = None
    phase_progress: PhaseProgress | None = None
    progress: float = 0.0
    wait_reason: str | None = None
    queue_position: int | None = None
    attempt: int = 0
    source: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    created_at: datetime

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL

    @property
    def good(self) -> bool:
        """Whether there is a result that kept its gate."""
        return self.state == "succeeded" and (self.gate or {}).get("verdict") != "rejected"


class Event(View):
    """One fact about a job."""

    seq: int
    type: str
    time: datetime
    attempt: int = 0
    phase: str | None = None
    data: dict[str, Any] = {}


class Artifact(View):
    """One file of a result."""

    id: str
    name: str
    kind: str
    bytes: int
    sha256: str


class ServiceError(Exception):
    """The service refused; `problem` is its problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))


class Unreachable(Exception):
    """No service answers at this address."""


class BadDownload(Exception):
    """What came is not the file that the service promised."""


class Client:
    """One service; use it as a context manager."""

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
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=proxied
        )
        self._sleep = sleep
        self._met = False
        """Whether the service has answered this client."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def submit(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Create a job; a lost answer is asked for again with the same key, so there is never a second job."""
        headers = {"Idempotency-Key": idempotency_key or str(ULID())}
        return Job.model_validate(self._call("POST", "/v1/jobs", json=body, headers=headers))

    def get(self, job: str) -> Job:
        """Return one job."""
        return Job.model_validate(self._call("GET", f"/v1/jobs/{job}"))

    def jobs(self, *, state: str | None = None, limit: int = 50) -> list[Job]:
        """Return the newest jobs."""
        params = {"limit": str(limit)} | ({"state": state} if state else {})
        return [Job.model_validate(item) for item in self._call("GET", "/v1/jobs", params=params)["items"]]

    def cancel(self, job: str) -> Job:
        """Ask a job to end."""
        return Job.model_validate(self._call("POST", f"/v1/jobs/{job}/cancel"))

    def report(self, job: str) -> dict[str, Any]:
        """Return the report of a succeeded job."""
        return self._call("GET", f"/v1/jobs/{job}/report")

    def logs(self, job: str) -> Iterator[dict[str, Any]]:
        """Yield the log lines of a job, oldest first."""
        yield from self._pages(f"/v1/jobs/{job}/logs")

    def artifacts(self, job: str) -> list[Artifact]:
        """Return the files of a result."""
        return [Artifact.model_validate(item) for item in self._pages(f"/v1/jobs/{job}/artifacts")]

    def events(self, job: str, *, after: int = 0, poll_seconds: float = 0.5) -> Iterator[Event]:
        """Yield the events of a job as they come, and end after the one that ends the job."""
        while True:
            page = self._call("GET", f"/v1/jobs/{job}/events", params={"after": str(after), "limit": str(PAGE)})
            events = [Event.model_validate(item) for item in page["items"]]
            yield from events
            if events:
                after = events[-1].seq
                if events[-1].type in ENDINGS:
                    return
            if len(events) < PAGE:
                self._sleep(poll_seconds)

    def download(self, artifact: Artifact, folder: Path) -> Path:
        """Fetch one file into a folder, going on where an earlier try was cut; its sha256 is checked."""
        name = PurePosixPath(artifact.name)
        if name.is_absolute() or ".." in name.parts:
            raise BadDownload(f"the service names a file outside the folder: {artifact.name}")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and _sha256(target) == artifact.sha256:
            return target
        part = target.with_name(f"{target.name}.part")
        for attempt in range(ATTEMPTS):
            try:
                self._stream(artifact, part)
            except httpx.TransportError:
                self._sleep(_delay(attempt, None))
                continue
            except ServiceError as error:
                if error.status not in BUSY:
                    raise
                self._sleep(_delay(attempt, None))
                continue
            if _sha256(part) == artifact.sha256:
                return part.replace(target)
            part.unlink()
        raise BadDownload(f"{artifact.name} did not arrive whole in {ATTEMPTS} tries")

    def _stream(self, artifact: Artifact, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        url = f"/v1/artifacts/{artifact.id}/download"
        with self._http.stream("GET", url, headers=headers, follow_redirects=True) as answer:
            if answer.status_code == 416:  # nothing is left to fetch, or the part is not of this file
                return
            if answer.is_error:
                answer.read()
                raise ServiceError(answer.status_code, _problem(answer))
            with part.open("ab" if answer.status_code == 206 else "wb") as stream:
                for chunk in answer.iter_bytes():
                    stream.write(chunk)

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            params = {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
            page = self._call("GET", path, params=params)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request that is safe to send again, and again while the service is away or busy."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._http.request(method, path, json=json, params=params, headers=headers)
            except httpx.TransportError as error:
                unmet = isinstance(error, httpx.ConnectError) and not self._met and attempt == FIRST_ATTEMPTS - 1
                if last or unmet:
                    raise Unreachable(f"no service answers at {self._http.base_url}: {error}") from error
                self._sleep(_delay(attempt, None))
                continue
            self._met = True
            if answer.status_code in BUSY and not last:
                self._sleep(_delay(attempt, answer.headers.get("Retry-After")))
                continue
            if answer.is_error:
                raise ServiceError(answer.status_code, _problem(answer))
            body: dict[str, Any] = answer.json()
            return body
        raise AssertionError("unreachable: the last attempt returns or raises")


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in {"http", "https"} or not address.host:
        raise Unreachable(f"{url} is no address of a service: give one like http://127.0.0.1:8000")
    return address


def _delay(attempt: int, retry_after: str | None) -> float:
    """Seconds until the next try: what the service asks for, or twice as long each time."""
    asked = float(retry_after) if retry_after and retry_after.isdecimal() else FIRST_DELAY_SECONDS * 2**attempt
    return min(asked, MAX_DELAY_SECONDS)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem document, or what can be said when something before the service answered."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"detail": f"HTTP {answer.status_code} {answer.reason_phrase}"}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
