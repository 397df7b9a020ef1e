"""A pretend accelerator: its memory, its faults, and books of what costs on a card."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final
from weakref import WeakValueDictionary

import torch

from espalier.progress import steps_counted

ROOT: Final = Path(__file__).parents[2]
MEMORY: Final = 80 * 10**9
"""Bytes of a card that no test bounds."""


@dataclass
class Books:
    """What a stretch of work cost."""

    launches: int = 0
    waits: int = 0
    to_device: int = 0
    """Bytes."""
    to_host: int = 0
    """Bytes."""
    host_casts: int = 0
    """Copies to the device whose numbers the host had to widen first."""
    sorted_scatters: int = 0
    peak: int = 0
    """Bytes that were allocated at once."""
    longest_stretch: int = 0
    """Operators that ran without a step being counted, at most."""
    places: dict[str, Counter[str]] = field(default_factory=dict)
    """Kind of cost -> lines of the library that caused it."""

    def note(self, kind: str, count: int = 1) -> None:
        """Count a cost, and the line of the library that caused it."""
        setattr(self, kind, getattr(self, kind) + count)
        self.places.setdefault(kind, Counter())[_line()] += 1


def _line() -> str:
    """The innermost line of the library on the stack."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(f"{ROOT}/espalier/"):
            return f"{path.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class Allocation:
    """A piece of the card's memory, until the last tensor in it is gone."""

    def __init__(self, card: Card, size: int) -> None:
        self._card, self._size = card, 0
        card.allocate(size)
        self._size = size

    def __del__(self) -> None:
        self._card.live -= self._size


class Card:
    """One pretend accelerator; its books are those of the process."""

    def __init__(self) -> None:
        self.capacity = MEMORY
        self.fraction = 1.0
        """Of the capacity, what this process may take."""
        self.live = 0
        self.reserved = 0
        """What the allocator keeps: live bytes, and those that were, until it gives them back."""
        self.books = Books()
        self.fault: Callable[[str], None] = lambda _: None
        """Called with the name of every operator that runs; may raise what a card raises."""
        self._stretch = (0, 0)
        """Steps counted at the last operator, and operators since the last of them."""
        self._late: Exception | None = None
        """What was raised in a thread of autograd."""
        self._lock = threading.RLock()
        self._allocations: WeakValueDictionary[int, Allocation] = WeakValueDictionary()

    def allocate(self, size: int) -> None:
        """Take memory, or raise what torch raises where there is none."""
        with self._lock:
            room = int(self.fraction * self.capacity)
            if self.live + size > room:
                self._raise(
                    torch.OutOfMemoryError(
                        f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                        f"{self.capacity / 2**30:.2f} GiB of which {(room - self.live) / 2**20:.2f} MiB is free. Of "
                        f"the allocated memory {self.live / 2**30:.2f} GiB is allocated by PyTorch, and "
                        f"{(self.reserved - self.live) / 2**20:.2f} MiB is reserved by PyTorch but unallocated."
                    )
                )
            self.live += size
            self.reserved = max(self.reserved, self.live)
            self.books.peak = max(self.books.peak, self.live)

    def _raise(self, error: Exception) -> None:
        """Raise an error; from a thread of autograd at the next operator of the job's own.

        What Python raises in an operator there ends the process: torch's guard of a Python device cannot be unwound.
        """
        try:
            if threading.current_thread() is threading.main_thread():
                raise error
            self._late = self._late or error
        finally:
            del error  # its traceback holds this frame, and so what the operator was given

    def launch(self) -> None:
        """Count an operator, and how many ran since a step was counted; raise what a thread of autograd could not."""
        if self._late is not None and threading.current_thread() is threading.main_thread():
            try:
                self._raise(self._late)
            finally:
                self._late = None
        steps, since = self._stretch
        now = steps_counted()
        self._stretch = (now, 1 if now != steps else since + 1)
        self.books.launches += 1
        self.books.longest_stretch = max(self.books.longest_stretch, self._stretch[1])

    def allocation_of(self, tensor: torch.Tensor) -> Allocation:
        """Return the piece of memory that a tensor lies in."""
        storage = tensor.untyped_storage()
        with self._lock:
            found = self._allocations.get(storage.data_ptr())
            if found is None or not storage.nbytes():
                found = Allocation(self, storage.nbytes())
                if storage.nbytes():
                    self._allocations[storage.data_ptr()] = found
            return found

    @contextmanager
    def account(self) -> Iterator[Books]:
        """Open new books for a while."""
        before, self.books = self.books, Books(peak=self.live)
        try:
            yield self.books
        finally:
            self.books = before

    def release(self) -> None:
        """Give back what the allocator keeps and nothing lies in."""
        self.reserved = self.live

    @contextmanager
    def bounded(self, capacity: int) -> Iterator[None]:
        """Let the card have so many bytes."""
        self.release()
        before, self.capacity = self.capacity, capacity
        try:
            yield
        finally:
            self.capacity, self._late = before, None

    @contextmanager
    def failing(self, error: Exception, *, after: int) -> Iterator[list[int]]:
        """Raise an error of the card at an operator, once; yield how many operators are left until then."""
        left = [after]

        def fault(_: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                self._raise(error)

        before, self.fault = self.fault, fault
        try:
            yield left
        finally:
            self.fault, self._late = before, None


CARD: Final = Card()
