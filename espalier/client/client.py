"""The client: one method for each call of the service."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import httpx
from ulid import ULID

from espalier.client.hooks import Hooks
from espalier.client.models import ENDINGS, Artifact, Event, Job, Queue, Worker
from espalier.client.transport import ATTEMPTS, BUSY, BadDownload, ServiceError, Transport, delay
from espalier.client.uploads import Uploader

PAGE = 200
CHUNK_BYTES = 2**20
RANGE_ENDED = 416


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
        self._transport = Transport(url, api_key=api_key, transport=transport, sleep=sleep)
        self._call, self._sleep = self._transport.call, sleep
        self.hooks = Hooks(self._transport.call, self._pages)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._transport.close()

    def submit(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Create a job; a lost answer is asked for again with the same key, so there is never a second job."""
        headers = {"Idempotency-Key": idempotency_key or str(ULID())}
        return Job.model_validate(self._call("POST", "/v1/jobs", json=body, headers=headers))

    def plan(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a job would take, without making one."""
        plan: dict[str, Any] = self._call("POST", "/v1/plans", json=body)
        return plan

    def clone(self, job: str, changes: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None) -> Job:
        """Create a job from the body of another; `changes` is a JSON merge patch."""
        headers = {"Idempotency-Key": idempotency_key or str(ULID())}
        return Job.model_validate(self._call("POST", f"/v1/jobs/{job}/clone", json=changes or {}, headers=headers))

    def get(self, job: str) -> Job:
        """Return one job."""
        return Job.model_validate(self._call("GET", f"/v1/jobs/{job}"))

    def jobs(self, *, state: str | None = None, limit: int = 50) -> list[Job]:
        """Return the newest jobs."""
        params = {"limit": str(limit)} | ({"state": state} if state else {})
        return [Job.model_validate(item) for item in self._call("GET", "/v1/jobs", params=params)["items"]]

    def cancel(self, job: str) -> Job:
        """Cancel a job."""
        return self._act(job, "cancel", reached={"cancelling", "cancelled"})

    def pause(self, job: str) -> Job:
        """Pause a job; it keeps its checkpoints."""
        return self._act(job, "pause", reached={"pausing", "paused"})

    def resume(self, job: str) -> Job:
        """Queue a paused job again."""
        return self._act(job, "resume", reached={"queued", "running"})

    def retry(
        self, job: str, *, start: bool = False, limits: Mapping[str, float] | None = None, priority: str | None = None
    ) -> Job:
        """Queue a job that ended without success again, from its last checkpoint or from the start."""
        options = {"from": "start" if start else "failed_phase", "limits": limits, "priority": priority}
        body = {name: value for name, value in options.items() if value is not None}
        return self._act(job, "retry", reached={"queued", "running"}, body=body)

    def change(self, job: str, **fields: Any) -> Job:  # noqa: ANN401 - JSON
        """Change name, labels or priority of a job."""
        return Job.model_validate(self._call("PATCH", f"/v1/jobs/{job}", json=fields))

    def delete(self, job: str) -> None:
        """Forget a job that is over."""
        try:
            self._call("DELETE", f"/v1/jobs/{job}")
        except ServiceError as error:
            if not (error.repeated and error.status == 404):
                raise

    def queues(self) -> list[Queue]:
        """Return the queues, one per worker class."""
        return [Queue.model_validate(item) for item in self._call("GET", "/v1/queues")["items"]]

    def workers(self) -> list[Worker]:
        """Return the workers."""
        return [Worker.model_validate(item) for item in self._pages("/v1/workers")]

    def drain(self, worker: str) -> Worker:
        """Drain a worker: it claims nothing more."""
        return Worker.model_validate(self._call("POST", f"/v1/workers/{worker}/drain"))

    def undrain(self, worker: str) -> Worker:
        """Undo a drain: the worker claims jobs again."""
        return Worker.model_validate(self._call("DELETE", f"/v1/workers/{worker}/drain"))

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
        """Yield the events of a job as they come, and end after the one that ends the job.

        They come as a stream, taken up again where it broke; from a service or through a proxy without streams, by
        polling.
        """
        tries, ended = 0, False
        while tries < ATTEMPTS:
            try:
                with self._transport.stream(f"/v1/jobs/{job}/events/stream", {"Last-Event-ID": str(after)}) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    for data in _data_of(answer):
                        event = Event.model_validate_json(data)
                        after, tries, ended = event.seq, 0, event.type in ENDINGS
                        yield event
                if ended:
                    return
            except httpx.TransportError:
                self._sleep(delay(tries, None))
            except ServiceError as error:
                if error.status not in BUSY:
                    break
                self._sleep(delay(tries, None))
            tries += 1
        yield from self._polled(job, after, poll_seconds)

    def _polled(self, job: str, after: int, poll_seconds: float) -> Iterator[Event]:
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

    def upload(
        self, path: Path, *, name: str = "", sent: Callable[[int, int], None] = lambda _there, _total: None
    ) -> dict[str, Any]:
        """Send a model folder or a text file, or what is missing of it, and return the complete upload.

        Its id is a source (`{"kind": "upload", "upload_id": ...}`) or a data set; a folder that was sent within a day
        is found again. `sent` hears how many bytes of how many are there.
        """
        return Uploader(self._transport, path, name=name).run(sent)

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
                self._sleep(delay(attempt, None))
                continue
            except ServiceError as error:
                if error.status not in BUSY:
                    raise
                self._sleep(delay(attempt, None))
                continue
            if _sha256(part) == artifact.sha256:
                return part.replace(target)
            part.unlink()
        raise BadDownload(f"{artifact.name} did not arrive whole in {ATTEMPTS} tries")

    def _stream(self, artifact: Artifact, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        url = f"/v1/artifacts/{artifact.id}/download"
        try:
            with (
                self._transport.stream(url, headers) as answer,
                part.open("ab" if answer.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file,
            ):
                for chunk in answer.iter_bytes():
                    file.write(chunk)
        except ServiceError as error:
            if error.status != RANGE_ENDED:  # nothing is left to fetch, or the part is not of this file
                raise

    def _pages(self, path: str, filters: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            params = {"limit": str(PAGE), **(filters or {})} | ({"cursor": cursor} if cursor else {})
            page = self._call("GET", path, params=params)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _act(self, job: str, verb: str, *, reached: set[str], body: Mapping[str, Any] | None = None) -> Job:
        """Post an action on a job; a 409 on a repeated call counts as success when the job reached its state."""
        try:
            return Job.model_validate(self._call("POST", f"/v1/jobs/{job}/{verb}", json=body))
        except ServiceError as error:
            if not (error.repeated and error.status == 409):
                raise
            current = self.get(job)
            if current.state not in reached:
                raise
            return current


def _data_of(answer: httpx.Response) -> Iterator[str]:
    """Yield the data of each Server-Sent Event; comments and other fields are passed over."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
