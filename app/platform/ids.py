"""Opaque, prefixed, time-sorted identifiers."""

from __future__ import annotations

import os
import threading
import time

from ulid import ULID

_RANDOM_BYTES = 10


class _Ids:
    """The last id of a process: the next one is greater, even within a millisecond or behind a clock set back."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Reset: a forked process must not continue its parent's ids."""
        self._lock = threading.Lock()
        self._milliseconds, self._rest = 0, 0

    def next(self) -> int:
        """Return 128 bits: 48 of time, 80 of chance; within a millisecond chance is asked once and counted on."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._milliseconds:
                # Half of the room is left to count.
                self._milliseconds, self._rest = now, int.from_bytes(os.urandom(_RANDOM_BYTES)) >> 1
            else:
                self._rest += 1
            return self._milliseconds << 80 | self._rest


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.forget)


def new_id(prefix: str) -> str:
    """Return `<prefix>_<ULID>`; ids of one prefix sort by creation time."""
    return f"{prefix}_{ULID.from_int(_ids.next())}"
