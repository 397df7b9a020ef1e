"""The pipe of a child, both ends: one JSON line for each message, and a log of whatever else is printed."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import IO, Final, Generic, TypeVar

from pydantic import ValidationError

from espalier.messages import Log, Message, PhaseStarted
from espalier.recipe.phases import Phase

MAX_LINE: Final = 8 * 2**20
"""Bytes of a message, or of a line of the log; what is longer is cut."""
MAX_WAITING: Final = 4096
"""Messages held back while the database is away; then the pipe fills and the child waits."""
_TAIL_LINES: Final = 20
_NOBODY_LISTENS: Final = 3
"""Exit status of a child whose supervisor is gone."""
M = TypeVar("M")


def take_stdout() -> IO[bytes]:
    """Return the standard output, which is for messages now: what a library prints there goes to standard error."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stream


class MessageWriter:
    """The child's end."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Write to what `take_stdout` returns."""
        self._stream, self._lock = stream, threading.Lock()
        self.phase: Phase | None = None
        """The phase that runs, or was the last to run."""

    def send(self, message: Message) -> None:
        """Write a message, from any thread; ends the process where nobody listens: nothing more could be kept."""
        if isinstance(message, PhaseStarted):
            self.phase = message.phase
        try:
            with self._lock:
                self._stream.write(message.model_dump_json(by_alias=True).encode() + b"\n")
                self._stream.flush()
        except BrokenPipeError:
            os._exit(_NOBODY_LISTENS)

    def hand_over(self) -> None:
        """Let a process that this one starts take standard output over in its turn."""
        os.dup2(self._stream.fileno(), 1)


class MessageReader(Generic[M]):
    """The supervisor's end: two threads read a child's messages and its log, and hold back so many."""

    def __init__(self, messages: IO[bytes], log: IO[bytes], parse: Callable[[bytes], M]) -> None:
        """Begin to read; `parse` raises ValidationError for a line that is no message, which becomes one of the log."""
        self._parse = parse
        self._waiting: queue.Queue[M | Log] = queue.Queue(MAX_WAITING)
        self._abandoned = threading.Event()
        self.tail: list[str] = []
        """The last lines of the log, for the error of a child that dies without a word."""
        self._threads = [
            threading.Thread(target=self._read, args=(messages, self._message), daemon=True),
            threading.Thread(target=self._read, args=(log, self._log_line), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def drained(self) -> bool:
        """Whether the child has closed its ends and everything it said has been taken."""
        return not any(thread.is_alive() for thread in self._threads) and self._waiting.empty()

    def take(self, *, wait_seconds: float) -> list[M | Log]:
        """Return what was said since the last call, waiting a little when there is nothing."""
        taken: list[M | Log] = []
        with contextlib.suppress(queue.Empty):
            taken.append(self._waiting.get(timeout=wait_seconds))
            while len(taken) < MAX_WAITING:
                taken.append(self._waiting.get_nowait())
        return taken

    def abandon(self) -> None:
        """Read on, lest the child waits, and keep nothing more."""
        self._abandoned.set()

    def join(self, seconds: float) -> None:
        """Wait for the ends of both threads, so long for each."""
        for thread in self._threads:
            thread.join(seconds)

    def _read(self, stream: IO[bytes], read: Callable[[bytes], M | Log | None]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(MAX_LINE):
                message = read(line)
                while message is not None and not self._abandoned.is_set():
                    with contextlib.suppress(queue.Full):
                        self._waiting.put(message, timeout=0.1)
                        message = None

    def _message(self, line: bytes) -> M | Log:
        try:
            return self._parse(line)
        except ValidationError:
            return Log(level="warning", text=f"not a message: {line[:500].decode(errors='replace').rstrip()}")

    def _log_line(self, line: bytes) -> Log | None:
        text = line.decode(errors="replace").rstrip()
        if not text:
            return None
        self.tail.append(text)
        del self.tail[:-_TAIL_LINES]
        return Log(text=text)
