"""Event streams: one loop per process polls the database for all watchers, and hands each its new events."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Literal, TypeVar
from weakref import WeakSet

from anyio import CapacityLimiter, to_thread
from sqlalchemy.orm import Session

from app.db.job import Event
from app.db.queries.jobs import event_stream as queries
from app.db.queries.jobs.event_stream import JobCursor, Position
from app.db.queries.tenancy import keys
from app.db.session import Database, clock
from app.errors import TooManyRequests
from app.platform import loops

POLL_SECONDS = 0.3
PASSES_SECONDS = 2.0
"""Between two checks that the keys and sessions of the streams are still valid."""
PAGE = 500
MAX_WAITING = 1000
"""Batches that a slow client may lag behind; then its stream ends, and it comes again with its last id."""
THREADS = 4
"""Database calls of the streams at one time: they must leave room for everybody else."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Pass:
    """The credential that opened a stream and ends with it: the id of a key, or the digest of a session."""

    kind: Literal["key", "session"]
    id: str


class _Watcher:
    """One open stream: the events that it has yet to be sent, and whether it is closed."""

    def __init__(self, project_id: str, opened_with: Pass | None) -> None:
        self.project_id, self.opened_with = project_id, opened_with
        self._waiting: asyncio.Queue[tuple[list[Event], JobCursor | None]] = asyncio.Queue(MAX_WAITING)
        self.ready = asyncio.Event()
        """Set once everything after its first look at the database will be handed to it."""
        self.closed = False

    def tell(self, events: list[Event], head: JobCursor | None) -> None:
        try:
            self._waiting.put_nowait((events, head))
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        self.closed = True
        self.ready.set()
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait(([], None))

    async def next(self, seconds: float) -> tuple[list[Event], JobCursor | None] | None:
        """Return what comes next, or None after so many seconds of silence."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._waiting.get(), seconds)
        return None


class EventStreams:
    """All open streams of one process; `None` in a stream stands for a moment of silence."""

    def __init__(self, database: Database, *, silence_seconds: float = 15.0, most_per_project: int = 1000) -> None:
        """`most_per_project`: streams of one project; a process has so many connections, and others want some."""
        self._database, self._silence_seconds = database, silence_seconds
        self._most_per_project = most_per_project
        self._open: WeakSet[_Watcher] = WeakSet()
        """Those of every stream that was asked for, also of one whose client left before its first look."""
        self._jobs: dict[str, set[_Watcher]] = {}
        self._sent: dict[str, int] = {}
        """Job -> seq of the last event sent to its watchers; absent until the first poll."""
        self._all: set[_Watcher] = set()
        self._position: Position | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ending = False
        self._limiter: CapacityLimiter | None = None
        self._passes_at = 0.0
        self.queries = 0
        """Rounds that the loop has asked the database for."""

    def of_job(
        self, project_id: str, job_id: str, *, after: int, opened_with: Pass | None = None
    ) -> AsyncIterator[Event | None]:
        """Yield the events of a job beyond a seq as they come, and end after the one that ends the job.

        Raises TooManyRequests.
        """
        return self._of_job(self._admit(project_id, opened_with), job_id, after)

    def of_project(
        self, project_id: str, position: Position | None, *, opened_with: Pass | None = None
    ) -> AsyncIterator[Event | None]:
        """Yield the events of all jobs of a project from a position on, or from now on; raises TooManyRequests."""
        return self._of_project(self._admit(project_id, opened_with), position)

    def _admit(self, project_id: str, opened_with: Pass | None) -> _Watcher:
        if sum(watcher.project_id == project_id for watcher in self._open) >= self._most_per_project:
            detail = f"The project has {self._most_per_project} event streams open: close one."
            raise TooManyRequests(detail, headers={"Retry-After": "5"})
        watcher = _Watcher(project_id, opened_with)
        self._open.add(watcher)
        return watcher

    async def _of_job(self, watcher: _Watcher, job_id: str, after: int) -> AsyncIterator[Event | None]:
        watchers = self._jobs.setdefault(job_id, set())
        watchers.add(watcher)
        try:
            await self._begin(watcher, known=job_id in self._sent)
            while True:
                head, page = await self._ask(
                    partial(queries.history, project_id=watcher.project_id, job_id=job_id, after=after, limit=PAGE)
                )
                for event in page:
                    yield event
                after = page[-1].seq if page else after
                if head is None or head.is_over(after) or watcher.closed:
                    return
                if len(page) < PAGE:
                    break
            async for events, head in self._live(watcher):
                for event in events:
                    if event.seq > after:
                        after = event.seq
                        yield event
                if head is None and not events:
                    yield None
                elif head is not None and head.is_over(after):
                    return
        finally:
            self._open.discard(watcher)
            watchers.discard(watcher)
            if not watchers and self._jobs.get(job_id) is watchers:
                del self._jobs[job_id]
                self._sent.pop(job_id, None)

    async def _of_project(self, watcher: _Watcher, position: Position | None) -> AsyncIterator[Event | None]:
        project_id = watcher.project_id
        self._all.add(watcher)
        try:
            await self._begin(watcher, known=self._position is not None)
            while position is not None:
                page = await self._ask(
                    partial(queries.all_new_events, position=position, project_id=project_id, limit=PAGE)
                )
                for event in page:
                    yield event
                if watcher.closed:
                    return
                position = queries.position_of(page[-1]) if page else position
                if len(page) < PAGE:
                    break
            async for events, _ in self._live(watcher):
                for event in events:
                    if event.project_id == project_id and (position is None or queries.position_of(event) > position):
                        yield event
                if not events:
                    yield None
        finally:
            self._open.discard(watcher)
            self._all.discard(watcher)

    def close(self) -> None:
        """End every stream: the process is about to end."""
        for watcher in self._watchers():
            watcher.close()

    async def finish(self) -> None:
        """End every stream, and wait for the query that is under way: its connection goes back first."""
        self.close()
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _live(self, watcher: _Watcher) -> AsyncIterator[tuple[list[Event], JobCursor | None]]:
        """Yield the events of a watcher, batch by batch; an empty one after a while of silence."""
        while not watcher.closed:
            yield await watcher.next(self._silence_seconds) or ([], None)

    async def _begin(self, watcher: _Watcher, *, known: bool) -> None:
        """Wait until the loop knows where the watcher stands, so that nothing falls between its look and the loop's."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if known:
            return
        self._wake.set()
        await watcher.ready.wait()

    async def _ask(self, query: Callable[[Session], _Result]) -> _Result:
        def read() -> _Result:
            with self._database.reading() as session:
                return query(session)

        self._limiter = self._limiter or CapacityLimiter(THREADS)
        return await to_thread.run_sync(read, limiter=self._limiter)

    async def _run(self) -> None:
        while (self._jobs or self._all) and not self._ending:
            try:
                self.queries += 1
                await self._poll()
                await self._look_at_passes()
            except Exception as error:  # noqa: BLE001 - the next look comes, and watchers wait for it
                loops.note("streams", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
            self._wake.clear()
        self._position = None

    async def _poll(self) -> None:
        if self._jobs:
            sent = {job_id: self._sent.get(job_id) for job_id in self._jobs}
            heads, new_events = await self._ask(partial(queries.new_events_beyond, sent=sent))
            for job_id in sent:
                self._tell_job(job_id, heads.get(job_id), new_events.get(job_id, []))
        if self._all:
            await self._look_at_all()

    async def _look_at_passes(self) -> None:
        """End the streams of keys that were revoked or have expired, and of people who signed out."""
        if time.monotonic() < self._passes_at:
            return
        passes = {watcher.opened_with for watcher in self._watchers() if watcher.opened_with is not None}
        ended = await self._ask(partial(_ended, passes)) if passes else set()
        for watcher in self._watchers():
            if watcher.opened_with in ended:
                watcher.close()
        self._passes_at = time.monotonic() + PASSES_SECONDS

    def _watchers(self) -> list[_Watcher]:
        return [*self._all, *(watcher for watchers in self._jobs.values() for watcher in watchers)]

    def _tell_job(self, job_id: str, head: JobCursor | None, new_events: list[Event]) -> None:
        watchers = self._jobs.get(job_id)
        if watchers is None:  # they left during the look
            return
        if head is None:  # deleted
            for watcher in watchers:
                watcher.close()
            return
        last = self._sent[job_id] = new_events[-1].seq if new_events else self._sent.get(job_id, head.seq)
        for watcher in watchers:
            watcher.ready.set()
            # The end of a job is sent apart from its last event, which may be read a moment before the state.
            if new_events or head.is_over(last):
                watcher.tell(new_events, head)

    async def _look_at_all(self) -> None:
        if self._position is None:
            self._position = await self._ask(queries.now)
        while page := await self._ask(partial(queries.all_new_events, position=self._position, limit=PAGE)):
            self._position = queries.position_of(page[-1])
            for watcher in list(self._all):
                watcher.tell(list(page), None)
        for watcher in self._all:
            watcher.ready.set()


@contextmanager
def ending_streams(streams: EventStreams) -> Iterator[None]:
    """End the streams as soon as the process is asked to: a server waits for its answers before it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(streams.close)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, before)


def _ended(passes: set[Pass], session: Session) -> set[Pass]:
    key_ids, session_ids = ([one.id for one in passes if one.kind == kind] for kind in ("key", "session"))
    over = keys.ended(session, key_ids, session_ids, now=clock(session))
    return {one for one in passes if one.id in over}
