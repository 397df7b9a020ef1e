"""The service that commands call: the client, a job that is followed, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli.output import err, out, print_job_error, size
from app.cli.progress import display
from app.settings import get_settings
from espalier.client import Client, Job

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML or JSON: the body of POST /v1/jobs.")]


@contextmanager
def connect() -> Iterator[Client]:
    """Return a client of the service that the settings name."""
    settings = get_settings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with Client(settings.service_url, api_key=key) as client:
        yield client


def follow(client: Client, job_id: str, *, json: bool = False) -> Job:
    """Show a job's events until it ends, and return it."""
    shown = display(out, json=json)
    with shown.running():
        for event in client.events(job_id):
            shown.show(event)
    return client.get(job_id)


def finish(job: Job, *, json: bool = False) -> None:
    """End the command with the job's exit status: 0 only for a success that kept its gate."""
    if job.error and not json:
        print_job_error(job.error)
    if job.state == "succeeded" and not job.good:
        err.print("[red]the gate was rejected[/]: the result does not keep the limits that the spec sets")
    raise typer.Exit(0 if job.good else 1)


def fetch_all(client: Client, job_id: str, folder: Path) -> list[str]:
    """Download every file of a result, the manifest last: where it lies, the folder is whole."""
    artifacts = sorted(client.artifacts(job_id), key=lambda item: (item.kind == "manifest", item.name))
    if not artifacts:
        raise typer.BadParameter(f"{job_id} has no result to download", param_hint="JOB")
    for artifact in artifacts:
        err.print(f"[dim]{escape(artifact.name)}  {size(artifact.bytes)}[/]")
        client.download(artifact, folder)
    return [artifact.name for artifact in artifacts]
