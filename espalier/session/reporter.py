"""Report a job's phases to a listener: their start, progress, metrics, warnings, checkpoints and end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from espalier.checkpoint_names import RESULT, CheckpointName, RepetitionName
from espalier.messages import (
    Checkpoint,
    Layer,
    Message,
    Metric,
    PhaseCompleted,
    PhaseStarted,
    Progress,
    StoredCheckpoint,
    Warned,
)
from espalier.model import numerics
from espalier.model.safetensors_writer import sha256_of
from espalier.progress import count_step
from espalier.recipe.phases import Phase
from espalier.recipe.steps.retrain import Retrain
from espalier.session.checkpoint_writer import CheckpointWriter, Write
from espalier.session.results import Results

PROGRESS_SECONDS = 0.4
"""Shortest time between two progress messages."""


class Listener(Protocol):
    """Receiver of a job's messages: a pipe to the supervisor, a list, a progress bar."""

    def __call__(self, message: Message, /) -> object:
        """Take one message; what it raises ends the job."""


@dataclass(frozen=True)
class Repetition:
    """One repetition of phases inside a job: a cycle of pruning and recovery, or a member of a soup."""

    name: RepetitionName = field(default_factory=RepetitionName)
    """The name that checkpoints, series and report rows carry."""
    sparsity: float | None = None
    """The sparsity at the end of this repetition, in the place of the spec's."""
    retrain: Retrain | None = None
    """In the place of the spec's."""

    def member(self, number: int, retrain: Retrain) -> Repetition:
        """Return one retraining of a soup in this repetition."""
        return replace(self, name=replace(self.name, member=number), retrain=retrain)


@dataclass
class Reporter:
    """Sends messages to the listener, and collects the results that the report needs."""

    send: Listener
    results: Results
    workspace: Path
    stored_checkpoints: Mapping[tuple[Phase, str], StoredCheckpoint]
    """The checkpoints of earlier attempts, by phase and name."""
    device: torch.device
    """The device whose peak memory a phase reports."""
    writes: bool = True
    """Whether this process writes checkpoints: of several ranks, the first."""
    repetition: Repetition = field(default_factory=Repetition)
    """The repetition whose phases run: metrics, rows and checkpoints carry its name."""
    phase_now: Phase | None = None
    """The phase that runs, or that was the last to run."""
    _writer: CheckpointWriter = field(default_factory=CheckpointWriter)

    def warn(self, code: str, text: str) -> None:
        """Warn the user, once; the warning also stands in the report."""
        warning = {"code": code, "text": text}
        if warning not in self.results.warnings:
            self.results.add_warnings([warning])
            self.send(Warned(code=code, text=text))

    def layer(self, row: Layer) -> None:
        """Report a pruned matrix."""
        self.results.layers[row.name] = row
        self.send(row)

    @contextmanager
    def phase(self, name: Phase, *, total: int = 1, unit: str = "step") -> Iterator[PhaseRun]:
        """Run one phase: its start, its time, its memory and its end are reported."""
        self.phase_now = name
        numerics.reset_peak_memory(self.device)
        self.send(PhaseStarted(phase=name, total=total, unit=unit, turn=str(self.repetition.name)))
        run = PhaseRun(name, self, total, unit)
        yield run
        self.flush()
        done = run.completed()
        numerics.release_device_memory(self.device)
        self.results.phases.append(done)
        self.send(done)

    def stored(self, phase: Phase, name: CheckpointName) -> StoredCheckpoint | None:
        """Return what an earlier attempt stored under a name in this repetition; None when it did not get so far."""
        return self.stored_checkpoints.get((phase, str(name.of(self.repetition.name))))

    def checkpoint_path(
        self, phase: Phase, name: CheckpointName, *, version: str = "", suffix: str = ".safetensors"
    ) -> Path:
        """Return where the file of a checkpoint goes, in a folder that exists.

        Each `version` has a file of its own where a name is used again while the file before may still be read.
        """
        folder = self.workspace / "checkpoints" / phase
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name.of(self.repetition.name)}{version and f'-{version}'}{suffix}"

    def checkpoint(
        self,
        phase: Phase,
        name: CheckpointName,
        path: Path,
        data: dict[str, Any] | None = None,
        *,
        sha256: str | None = None,
    ) -> None:
        """Report that a file of the workspace is finished; it must not change any more.

        `sha256`: of the file, from who wrote it; None reads the file once more.
        """
        if not self.writes:
            return
        self.flush()  # a checkpoint follows those that it was computed from
        digest = sha256 or sha256_of(path)[0]
        self._send_checkpoint(phase, str(name.of(self.repetition.name)), path, data or {}, digest)

    def checkpoint_later(
        self, phase: Phase, name: CheckpointName, path: Path, data: dict[str, Any], *, write: Write
    ) -> None:
        """Write a file of the workspace in a thread, and report it when it is finished: at the next call, or `poll`.

        `write` returns its sha256; what it raises is raised by the next call, or when the phase ends.
        """
        full_name = str(name.of(self.repetition.name))
        self._writer.begin(write, partial(self._send_checkpoint, phase, full_name, path, data))

    def flush(self) -> None:
        """Wait for the file that is being written, and report it."""
        self._writer.flush()

    def poll(self) -> None:
        """Report the file that is being written if it is finished."""
        self._writer.poll()

    def _send_checkpoint(self, phase: Phase, name: str, path: Path, data: dict[str, Any], sha256: str) -> None:
        where = str(path.relative_to(self.workspace))
        size = path.stat().st_size
        self.send(Checkpoint(phase=phase, name=name, path=where, sha256=sha256, bytes=size, data=data))


@dataclass
class PhaseRun:
    """One phase while it runs."""

    name: Phase
    reporter: Reporter
    total: int
    unit: str
    began: float = field(default_factory=time.monotonic)
    reused_seconds: float = 0.0
    """Seconds that earlier attempts spent on work that this attempt did not repeat."""
    peak_memory_bytes: int = 0
    perplexity: dict[str, float] | None = None
    reused_from: str | None = None
    _last_progress: float = 0.0

    @property
    def seconds(self) -> float:
        """Time spent so far, reused work included."""
        return self.reused_seconds + time.monotonic() - self.began

    def progress(self, current: int) -> None:
        """Report how far the phase is; dropped when the last report was a moment ago, except for the end."""
        count_step()
        now = time.monotonic()
        if current < self.total and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        self.reporter.send(Progress(phase=self.name, current=current, total=self.total, unit=self.unit))

    def metric(self, name: str, step: int, value: float) -> None:
        """Report one point of a series; every repetition has its own."""
        series = self.reporter.repetition.name.series(name)
        self.reporter.send(Metric(phase=self.name, name=series, step=step, value=value))

    def reuse(self, stored: StoredCheckpoint) -> dict[str, Any]:
        """Count a finished piece of an earlier attempt as ours and return what was written with it."""
        self.reused_seconds += float(stored.data.get("seconds", 0.0))
        self.peak_memory_bytes = max(self.peak_memory_bytes, int(stored.data.get("peak_memory_bytes", 0)))
        self.reused_from = self.reused_from or stored.origin
        return stored.data

    def finished(self) -> dict[str, Any] | None:
        """Return what `finish` was given by an earlier attempt; None when the phase has yet to be done."""
        stored = self.reporter.stored(self.name, RESULT)
        if stored is None:
            return None
        self.reused_seconds = 0.0  # the result's are the whole phase's: blocks before it must not count twice
        data = self.reuse(stored)
        self.perplexity = data.get("perplexity")
        return data

    def finish(self, data: dict[str, Any] | None = None) -> None:
        """Write the phase's result, so that no later attempt repeats it."""
        if not self.reporter.writes:
            return
        whole = {**(data or {}), **self.completed().model_dump(exclude={"kind", "phase", "reused_from"})}
        path = self.reporter.checkpoint_path(self.name, RESULT, suffix=".json")
        path.write_text(json.dumps(whole, sort_keys=True))
        self.reporter.checkpoint(self.name, RESULT, path, whole)

    def completed(self) -> PhaseCompleted:
        """Return the phase's figures as they stand."""
        return PhaseCompleted(
            phase=self.name,
            seconds=self.seconds,
            peak_memory_bytes=max(self.peak_memory_bytes, numerics.peak_memory_bytes(self.reporter.device)),
            perplexity=self.perplexity,
            reused_from=self.reused_from,
            turn=str(self.reporter.repetition.name),
        )
