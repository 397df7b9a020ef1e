"""Write the training states of a retraining, seldom enough to cost little, and beside it where that takes no copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from safetensors.torch import save_file

from espalier.model.safetensors_writer import sha256_of

SAVE_SECONDS: Final = 30.0
"""Seconds between training states, at least: the work that a killed run loses."""
COST_RATIO: Final = 10.0
"""Of the seconds between two states to those that the last one took, at least."""


Report = Callable[[str], object]
"""Hears of a file that does not change any more: its sha256."""


def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a file of tensors, there whole or not at all; return its sha256."""
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), partial)
    partial.replace(path)
    return sha256_of(path)[0]


@dataclass(frozen=True)
class _Write:
    began: float
    report: Report
    sha256: Future[str]


class StateWriter:
    """One state at a time; whoever trains hears of a finished one, and of what went wrong, in its own thread.

    `beside`: states are copies, as those of a GPU are, and are written in a thread. Those of a CPU are not, for a copy
    would be as much memory again.
    """

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training-state") if beside else None
        self._running: _Write | None = None
        self._ended = time.monotonic()
        self._cost = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True, cancel_futures=True)

    def is_due(self) -> bool:
        """Tell whether another state is to be written; a finished one is reported first."""
        if self._running is not None and self._running.sha256.done():
            self._finish()
        since, cost = self._ended, self._cost
        if self._running is not None:
            since, cost = self._running.began, time.monotonic() - self._running.began
        return time.monotonic() - since >= max(SAVE_SECONDS, COST_RATIO * cost)

    def write(self, path: Path, state: Callable[[], Mapping[str, torch.Tensor]], report: Report) -> None:
        """Take a state and write it; `report` hears of the file once it is there."""
        self._finish()
        began, tensors = time.monotonic(), state()
        if self._thread is not None:
            self._running = _Write(began, report, self._thread.submit(save, path, tensors))
        else:
            self._report(began, report, save(path, tensors))

    def _finish(self) -> None:
        """Wait for the state that is being written, and report it."""
        if self._running is None:
            return
        running, self._running = self._running, None
        self._report(running.began, running.report, running.sha256.result())

    def _report(self, began: float, report: Report, sha256: str) -> None:
        self._ended = time.monotonic()
        self._cost = self._ended - began
        report(sha256)
