"""Writing a finished block's file while the next block is computed: one file at a time, reported when it is whole."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

Write = Callable[[], str]
"""Writes a file and returns its sha256."""
Report = Callable[[str], None]
"""Reports a file that is finished, by its sha256."""


class CheckpointWriter:
    """Writes files in a thread of its own, one after the other; what a write raises, the next call raises."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[Future[str], Report] | None = None

    def begin(self, write: Write, report: Report) -> None:
        """Write a file soon, once the one before it is finished and reported."""
        self.flush()
        self._pending = self._pool.submit(write), report

    def flush(self) -> None:
        """Wait for the file that is being written, and report it in the caller's thread."""
        if self._pending is not None:
            (future, report), self._pending = self._pending, None
            report(future.result())

    def poll(self) -> None:
        """Report the file that is being written if it is finished."""
        if self._pending is not None and self._pending[0].done():
            self.flush()
