"""Show the events of a job as they come: bars on a terminal, lines elsewhere, JSON for machines."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.cli.output import print_json
from espalier.client import ENDINGS, Event


class Lines:
    """One plain line per event that people read."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def running(self) -> AbstractContextManager[object]:
        """Show nothing but the lines while events come."""
        return nullcontext()

    def show(self, event: Event) -> None:
        """Show one event."""
        line = describe(event)
        if line:
            self.console.print(f"[dim]{event.time.astimezone():%H:%M:%S}[/] {line}")


class Bars(Lines):
    """A bar for the phase at work; finished phases stay as lines above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description:>15}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def running(self) -> AbstractContextManager[object]:
        """Show the bar while events come."""
        return self._progress

    def show(self, event: Event) -> None:
        """Show one event."""
        data = event.data
        if event.type == "job.phase_started":
            self._drop()
            unit = str(data.get("unit", ""))
            self._task = self._progress.add_task(str(data.get("phase")), total=data.get("total"), unit=unit)
            return
        if event.type == "job.progress":
            if self._task is not None:
                self._progress.update(self._task, completed=data.get("current", 0), total=data.get("total"))
            return
        if event.type != "job.layer_completed" and (line := describe(event)):
            self._drop()
            self.console.print(line)

    def _drop(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


class JsonLines(Lines):
    """The events themselves, one a line."""

    def show(self, event: Event) -> None:
        """Show one event."""
        print_json(event.model_dump(mode="json"))


def display(console: Console, *, json: bool) -> Lines:
    """Choose how events are shown."""
    if json:
        return JsonLines(console)
    return Bars(console) if console.is_terminal else Lines(console)


def describe(event: Event) -> str | None:
    """Return a line of rich markup about an event; None for those that only bars or machines need."""
    data = event.data
    phase = str(data.get("phase"))
    line: tuple[str, str] | None = None
    match event.type:
        case "job.phase_started":
            line = phase, "started"
        case "job.progress":
            line = phase, f"{data.get('current')}/{data.get('total')} {data.get('unit', '')}"
        case "job.phase_completed":
            line = phase, f"[green]done[/] in {data.get('seconds', 0.0):.1f} s{_scores(data)}"
        case "job.warning":
            line = "warning", f"[yellow]{escape(str(data.get('text')))}[/]"
        case "job.attempt_failed":
            line = "attempt failed", f"[red]{escape(_reason(data.get('error') or {}))}[/]"
        case "job.retry_scheduled":
            line = "retry", f"in {data.get('delay_seconds', 0)} s"
        case "job.gate_evaluated":
            line = "gate", str(data.get("verdict"))
        case "job.started" | "job.queued" | "job.cancel_requested":
            line = event.type.removeprefix("job.").replace("_", " "), ""
        case ending if ending in ENDINGS:
            line = ending.removeprefix("job."), ""
    return f"{line[0]:>15}  {line[1]}".rstrip() if line else None


def _reason(error: dict[str, Any]) -> str:
    return f"{error.get('class')}: {error.get('message') or error.get('hint') or ''}"


def _scores(data: dict[str, Any]) -> str:
    scores = data.get("perplexity") or {}
    return "".join(f", perplexity {escape(str(name))} {value:.2f}" for name, value in scores.items())
