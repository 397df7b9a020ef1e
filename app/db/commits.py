"""Group commit: what many callers want to write at one moment goes into one transaction."""

from __future__ import annotations

import contextvars
import queue
import threading
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

MOST_AT_ONCE = 64
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
    """One thread that writes for all; nobody is told before the commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: queue.SimpleQueue[_Waiting[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="group commit", daemon=True)
        self._thread.start()

    def put(self, write: Write[_T]) -> Future[_T]:
        """Write soon; the future ends after the commit, or with what kept it from happening."""
        waiting = _Waiting(write, Future(), contextvars.copy_context())
        self._waiting.put(waiting)
        return waiting.done

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, ending = [first], False
            while len(group) < MOST_AT_ONCE and not self._waiting.empty():
                if (more := self._waiting.get()) is None:
                    ending = True
                    break
                group.append(more)
            self._commit(group)
            if ending:
                return

    def _commit(self, group: list[_Waiting[Any]]) -> None:
        try:
            with self._database.unit_of_work() as session, deferring(session):
                now = clock(session)
                for waiting in group:
                    waiting.refusal = None
                    self._write(waiting, session, now)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
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

    def _fail(self, group: list[_Waiting[Any]], error: Exception) -> None:
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


def _state(error: Exception) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlstate", None)
