"""Group commit: what many callers want to write at one moment goes into one transaction."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db.session import Database, clock, deferring
from app.errors import AppError
from app.platform import loops
from app.platform.fairness import FairQueue

MOST_AT_ONCE = 64
THREADS = 2
"""One commits a project's group while the other writes for those who come meanwhile."""
GROUP_SECONDS = 0.01
"""After so long a group is committed, and what still waits comes with the next one: nobody waits for a long group."""
SHARED_SECONDS = 0.005
"""The same where several projects come: the group of one is in the other's way even where it is not waited for."""
MOST_WAITING = 1000
"""Of one lane: a project with more of them waiting is asked to come again."""
_DEADLOCK = "40P01"
_T = TypeVar("_T")
Write = Callable[[Session, datetime], _T]
"""Raises an AppError only before its first write: the others go on."""

log = structlog.get_logger(__name__)


@dataclass
class _Waiting(Generic[_T]):
    """One caller's write, in the context of the caller."""

    write: Write[_T]
    done: Future[_T]
    context: contextvars.Context
    result: Any = None
    refusal: AppError | None = None


class GroupCommit:
    """Threads that commit the writes of all callers, lanes round robin; a caller returns after its commit."""

    def __init__(self, database: Database) -> None:
        """SQLite has one writer at a time, and so one thread."""
        self._database = database
        self._waiting: FairQueue[_Waiting[Any]] = FairQueue(MOST_WAITING)
        number = 1 if database.engine.dialect.name == "sqlite" else THREADS
        self._threads = [
            threading.Thread(target=self._run, args=(threading.Event(),), name="group commit", daemon=True)
            for _ in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, write: Write[_T], *, lane: str = "") -> Future[_T]:
        """Write soon; the future ends after the commit, or with what kept it from happening.

        `lane`: the project; it raises TooManyRequests when too many writes of the project wait already.
        """
        waiting = _Waiting(write, Future(), contextvars.copy_context())
        self._waiting.put(lane, waiting)
        return waiting.done

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.close()
        for thread in self._threads:
            thread.join(5)

    def _run(self, over: threading.Event) -> None:
        loops.run("group commit", over, lambda: self._round(over), idle_seconds=0)

    def _round(self, over: threading.Event) -> bool:
        held: set[str] = set()
        first = self._next(held, wait=True)
        if first is None:
            over.set()
            return False
        try:
            self._commit([first], held)
        finally:
            self._waiting.release(held)
        return True

    def _next(self, held: set[str], *, wait: bool) -> _Waiting[Any] | None:
        """Take the next write whose caller still waits for it."""
        while (waiting := self._waiting.take(held, wait=wait)) is not None:
            if waiting.done.set_running_or_notify_cancel():
                return waiting
            if wait:
                self._waiting.release(held)  # nobody is at work on what is held
        return None

    def _commit(self, group: list[_Waiting[Any]], held: set[str] | None = None) -> None:
        """Write and commit a group; what comes meanwhile joins it for a moment, where lanes are held for it."""
        began, longest = time.monotonic(), SHARED_SECONDS if self._waiting.shared else GROUP_SECONDS
        try:
            with self._database.unit_of_work() as session, deferring(session):
                now = clock(session)
                for waiting in group:  # which grows
                    waiting.refusal = None
                    self._write(waiting, session, now)
                    if held is None or len(group) >= MOST_AT_ONCE or time.monotonic() - began > longest:
                        continue
                    if (another := self._next(held, wait=False)) is not None:
                        group.append(another)
        except BaseException as error:  # noqa: BLE001 - it is the callers' to handle
            self._fail(group, error)
            return
        for waiting in group:
            if waiting.refusal is not None:
                waiting.done.set_exception(waiting.refusal)
            else:
                waiting.done.set_result(waiting.result)

    @staticmethod
    def _write(waiting: _Waiting[Any], session: Session, now: datetime) -> None:
        try:
            waiting.result = waiting.context.run(waiting.write, session, now)
        except AppError as refusal:
            waiting.refusal = refusal

    def _fail(self, group: list[_Waiting[Any]], error: BaseException) -> None:
        """Try each alone when one of them, or their order, may be at fault; else fail them all."""
        out_of_reach = isinstance(error, DBAPIError) and (error.connection_invalidated or _state(error) is None)
        if len(group) > 1 and not out_of_reach:
            log.warning("a group of writes is taken apart", error=type(error).__name__, size=len(group))
            for waiting in group:
                self._commit([waiting])
            return
        if _state(error) == _DEADLOCK:
            self._commit(group)
            return
        for waiting in group:
            waiting.done.set_exception(error)


def _state(error: BaseException) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlstate", None)
