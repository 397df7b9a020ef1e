"""Fair queueing: what waits for a shared resource waits behind its own project's, and the projects take turns."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import Message, Send

from app.errors import TooManyRequests

LATELY_SECONDS = 1.0

_T = TypeVar("_T")


class FairQueue(Generic[_T]):
    """A bounded queue in memory with one lane per project, whose lanes are served round robin.

    Several may serve; whoever takes from a lane holds it until he releases it, so what it holds stays in order.
    """

    def __init__(self, max_items: int) -> None:
        """`max_items`: how many items one lane holds."""
        self._max_items = max_items
        self.lanes: OrderedDict[str, deque[_T]] = OrderedDict()
        self._held: set[str] = set()
        self.idle = 0
        """How many wait for a lane."""
        self._changed = threading.Condition()
        self._closed = False
        self._latest: str | None = None
        self._another = -math.inf
        """When an item came of another lane than the one before."""

    def put(self, lane: str, item: _T) -> None:
        """Queue an item behind those of its lane; raises TooManyRequests when the lane is full."""
        with self._changed:
            waiting = self.lanes.setdefault(lane, deque())
            if len(waiting) >= self._max_items:
                raise full()
            waiting.append(item)
            if lane != self._latest:
                self._another = -math.inf if self._latest is None else time.monotonic()
                self._latest = lane
            if lane not in self._held:
                self._changed.notify()

    def take(self, held: set[str], *, wait: bool = True) -> _T | None:
        """Return the next item, its lane added to those that the caller holds.

        None when there is none to be had and nobody waits for one, or for ever after `close`.
        """
        with self._changed:
            while (lane := self._next(held, leave=not wait)) is None:
                if not wait or self._closed:
                    return None
                self.idle += 1
                self._changed.wait()
                self.idle -= 1
            waiting = self.lanes.pop(lane)
            item = waiting.popleft()
            if waiting:
                self.lanes[lane] = waiting  # at the end: the others come first
            held.add(lane)
            self._held.add(lane)
            return item

    def _next(self, held: set[str], *, leave: bool) -> str | None:
        """Return the first lane that nobody else holds; with `leave`, others' lanes are left to idle threads."""
        for lane in self.lanes:
            if lane in held or (lane not in self._held and not (leave and self.idle)):
                return lane
        return None

    def release(self, held: set[str]) -> None:
        """Let others take from the lanes that the caller held."""
        with self._changed:
            self._held -= held
            held.clear()
            self._changed.notify_all()

    @property
    def shared(self) -> bool:
        """Whether items of more than one lane arrived lately."""
        return time.monotonic() - self._another < LATELY_SECONDS

    def close(self) -> None:
        """Let nobody wait any more; what is queued is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class FairSemaphore:
    """Limits the requests that an event loop works on at a time; lanes that wait are served round robin."""

    def __init__(self, at_once: int, *, seconds: float) -> None:
        """`seconds`: after so long a turn ends by itself, for the request may be waiting for something."""
        self.free, self._seconds = at_once, seconds
        """`free`: how many turns nobody has."""
        self.lanes: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def acquire(self, lane: str) -> AsyncIterator[Callable[[], None]]:
        """Wait for the turn of a lane; yields a function that releases it early."""
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
        if self.free:
            self.free -= 1
            return
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lanes.setdefault(lane, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self.lanes:
            lane, waiting = self.lanes.popitem(last=False)
            called = waiting.popleft()
            if waiting:
                self.lanes[lane] = waiting  # at the end: the others come first
            if not called.done():
                called.set_result(None)
                return
        self.free += 1


class KeyedLimiter:
    """Limits how many things each lane does at once: more of them wait, and take nothing from other lanes."""

    def __init__(self, per_lane: int) -> None:
        self._per_lane = per_lane
        self.lanes: dict[str, tuple[CapacityLimiter, int]] = {}

    @asynccontextmanager
    async def acquire(self, lane: str) -> AsyncIterator[Callable[[], None]]:
        """Wait for a permit of a lane; yields a function that releases it early."""
        limiter, inside = self.lanes.get(lane) or (CapacityLimiter(self._per_lane), 0)
        self.lanes[lane] = limiter, inside + 1
        place, held = object(), False

        def end() -> None:
            nonlocal held
            if held:
                held = False
                limiter.release_on_behalf_of(place)

        try:
            await limiter.acquire_on_behalf_of(place)
            held = True
            yield end
        finally:
            end()
            inside = self.lanes[lane][1] - 1
            if inside:
                self.lanes[lane] = limiter, inside
            else:
                del self.lanes[lane]


def until_start(send: Send, end: Callable[[], None]) -> Send:
    """Return what sends an answer, and ends something when the answer begins: the work is done by then."""

    async def ending(message: Message) -> None:
        if message["type"] == "http.response.start":
            end()
        await send(message)

    return ending


class ProjectThreads:
    """Threads for calls that wait for somebody else's server: few for each project, none of those of the API."""

    def __init__(self, threads: int, *, per_project: int, waiting: int) -> None:
        """`per_project`: calls of a project at once; `waiting`: further ones that wait for these."""
        self._threads, self._per_project, self._waiting = threads, per_project, waiting
        self._limiter: CapacityLimiter | None = None
        self.lanes: dict[str, tuple[CapacityLimiter, int]] = {}

    async def run(self, project_id: str, call: Callable[[], _T]) -> _T:
        """Call in a thread when it is the project's turn; raises TooManyRequests when too many wait already."""
        lane, inside = self.lanes.get(project_id) or (CapacityLimiter(self._per_project), 0)
        if inside >= self._per_project + self._waiting:
            raise full()
        self.lanes[project_id] = lane, inside + 1
        self._limiter = self._limiter or CapacityLimiter(self._threads)
        try:
            async with lane:
                return await to_thread.run_sync(call, limiter=self._limiter)
        finally:
            inside = self.lanes[project_id][1] - 1
            if inside:
                self.lanes[project_id] = lane, inside
            else:
                del self.lanes[project_id]


def full() -> TooManyRequests:
    """Return the refusal of a call of a project that has too many waiting."""
    return TooManyRequests("The project has too many such calls waiting; ask again.", headers={"Retry-After": "1"})
