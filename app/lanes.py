"""Lanes: what waits for a shared resource waits behind its own project's, and the projects take turns."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

from app.errors import TooManyRequests

_T = TypeVar("_T")


class Lanes(Generic[_T]):
    """A queue in memory with one lane per project, bounded, from which the lanes are served by turns."""

    def __init__(self, most: int) -> None:
        """`most`: how many items one lane holds."""
        self._most = most
        self._lanes: OrderedDict[str, deque[_T]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, lane: str, item: _T) -> None:
        """Queue an item behind those of its lane; raises TooManyRequests when the lane is full."""
        with self._changed:
            waiting = self._lanes.setdefault(lane, deque())
            if len(waiting) >= self._most:
                raise full()
            waiting.append(item)
            self._changed.notify()

    def take(self, *, wait: bool = True) -> _T | None:
        """Return the next item; None when there is none and nobody waits for one, or for ever after `close`."""
        with self._changed:
            while wait and not self._lanes and not self._closed:
                self._changed.wait()
            if not self._lanes:
                return None
            lane, waiting = self._lanes.popitem(last=False)
            item = waiting.popleft()
            if waiting:
                self._lanes[lane] = waiting  # at the end: the others come first
            return item

    @property
    def shared(self) -> bool:
        """Whether more than one lane waits."""
        return len(self._lanes) > 1

    def close(self) -> None:
        """Let nobody wait any more; what is queued is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Turns:
    """Lets an event loop work on few requests at a time, by turns of their lanes, and soon on one that comes late."""

    def __init__(self, at_once: int, *, seconds: float) -> None:
        """`seconds`: after so long a turn ends by itself, for whoever works on may be waiting for something."""
        self._free, self._seconds = at_once, seconds
        self._lanes: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, lane: str) -> AsyncIterator[Callable[[], None]]:
        """Wait for a turn of a lane; what is given ends it early."""
        await self._wait(lane)
        over = False

        def end() -> None:
            nonlocal over
            if not over:
                over = True
                self._pass_on()

        timer = asyncio.get_running_loop().call_later(self._seconds, end)
        try:
            yield end
        finally:
            timer.cancel()
            end()

    async def _wait(self, lane: str) -> None:
        if self._free:
            self._free -= 1
            return
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lanes.setdefault(lane, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._lanes:
            lane, waiting = self._lanes.popitem(last=False)
            called = waiting.popleft()
            if waiting:
                self._lanes[lane] = waiting  # at the end: the others come first
            if not called.done():
                called.set_result(None)
                return
        self._free += 1


class Rooms:
    """Threads for calls that wait for somebody else's server: few for each project, none of those of the API."""

    def __init__(self, threads: int, *, per_project: int, waiting: int) -> None:
        """`per_project`: calls of a project at once; `waiting`: further ones that wait for these."""
        self._threads, self._per_project, self._waiting = threads, per_project, waiting
        self._limiter: CapacityLimiter | None = None
        self._lanes: dict[str, tuple[CapacityLimiter, int]] = {}

    async def run(self, project_id: str, call: Callable[[], _T]) -> _T:
        """Call in a thread when it is the project's turn; raises TooManyRequests when too many wait already."""
        lane, inside = self._lanes.get(project_id) or (CapacityLimiter(self._per_project), 0)
        if inside >= self._per_project + self._waiting:
            raise full()
        self._lanes[project_id] = lane, inside + 1
        self._limiter = self._limiter or CapacityLimiter(self._threads)
        try:
            async with lane:
                return await to_thread.run_sync(call, limiter=self._limiter)
        finally:
            inside = self._lanes[project_id][1] - 1
            if inside:
                self._lanes[project_id] = lane, inside
            else:
                del self._lanes[project_id]


def full() -> TooManyRequests:
    """The refusal of one more of what a project has waiting already."""
    return TooManyRequests("The project has too many such calls waiting; ask again.", headers={"Retry-After": "1"})
