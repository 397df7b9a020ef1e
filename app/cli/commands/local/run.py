"""`espalier run`: one job without a service; the same children, their messages shown as events."""

from __future__ import annotations

import json as json_module
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.connection import SpecFile
from app.cli.modules import module_command, want_torch
from app.cli.output import Json, err, out, print_job_error, print_json
from app.cli.progress import display
from app.cli.report import print_report
from app.cli.spec_file import read_body
from espalier.client import Event
from espalier.recipe.reading import located

commands = typer.Typer()

AS_EVENTS = {
    "phase_started": "job.phase_started",
    "phase_completed": "job.phase_completed",
    "progress": "job.progress",
    "layer": "job.layer_completed",
    "metric": "job.metric",
    "warning": "job.warning",
}
"""Kind of a child's message -> type of the event that the service would write."""


@commands.command()
def run(
    spec: SpecFile,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path("espalier-output"),
    json: Json = False,
) -> None:
    """Run one job here, without a service."""
    want_torch()
    body = json_module.dumps(located(read_body(spec), spec.parent))
    command = module_command("workers.local_run", "--output", str(output))
    shown = display(out, json=json)
    last: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(body)
        process.stdin.close()
        with shown.running():
            for line in process.stdout:
                message = json_module.loads(line)
                if message.get("kind") in {"done", "failed"}:
                    last = message
                elif json:
                    print_json(message)
                elif message.get("kind") in AS_EVENTS:
                    shown.show(as_event(message))
    if json and last:
        print_json(last)
    raise typer.Exit(_verdict(last, output, quiet=json))


def as_event(message: dict[str, Any]) -> Event:
    """Convert a message of the child to the event that the service would write."""
    return Event(
        seq=0, type=AS_EVENTS[message["kind"]], time=datetime.now(UTC), phase=message.get("phase"), data=message
    )


def _verdict(last: dict[str, Any], output: Path, *, quiet: bool) -> int:
    if last.get("kind") != "done":
        if not quiet:
            print_job_error(last.get("error") or {"class": "internal", "message": "the run ended without a result"})
        return 1
    if not quiet:
        print_report(last["report"])
        out.print(f"artifact     {output}")
    rejected = (last.get("gate") or {}).get("verdict") == "rejected"
    if rejected:
        err.print("[red]the gate was rejected[/]: the result does not keep the limits that the spec sets")
    return 1 if rejected else 0
