"""Verbs about jobs: each is a call or two of the HTTP client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.output import Json, err, out, print_job_error, print_json, size
from app.cli.progress import display
from app.cli.report import print_report
from app.cli.spec_file import read_body
from app.settings import get_settings
from espalier.client import Client, Job

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML or JSON: the body of POST /v1/jobs.")]


@contextmanager
def connect() -> Iterator[Client]:
    """A client of the service that the settings name."""
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


def submit(
    spec: SpecFile,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    json: Json = False,
) -> None:
    """Create a job."""
    body: dict[str, Any] = read_body(spec) | ({"name": name} if name else {})
    with connect() as client:
        job = client.submit(body)
        if json and not watch:
            print_json(job.model_dump(mode="json"))
        elif not json:
            out.print(job.id)
        if watch:
            finish(follow(client, job.id, json=json), json=json)


def ps(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    json: Json = False,
) -> None:
    """List the newest jobs."""
    with connect() as client:
        jobs = client.jobs(state=state, limit=limit)
    if json:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    table = Table("job", "name", "state", "phase", "progress", "attempt", "created", box=None)
    for job in jobs:
        created = f"{job.created_at.astimezone():%Y-%m-%d %H:%M}"
        state_word = job.state if not job.wait_reason else f"{job.state} ({job.wait_reason})"
        table.add_row(
            job.id, escape(job.name), state_word, job.phase or "", f"{job.progress:.0%}", str(job.attempt), created
        )
    out.print(table)


def watch(job: JobId, json: Json = False) -> None:
    """Follow a job to its end."""
    with connect() as client:
        finish(follow(client, job, json=json), json=json)


def logs(job: JobId, json: Json = False) -> None:
    """Print what the job's processes wrote."""
    with connect() as client:
        for line in client.logs(job):
            if json:
                print_json(line)
            else:
                out.print(f"[dim]{line.get('time')}[/] {line.get('level', ''):7} {escape(str(line.get('text')))}")


def report(job: JobId, json: Json = False) -> None:
    """Compare the dense and the compressed model."""
    with connect() as client:
        document = client.report(job)
    if json:
        print_json(document)
    else:
        print_report(document)


def download(
    job: JobId,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Default: a folder named like the job.")] = None,
    json: Json = False,
) -> None:
    """Fetch the files of a result; a second call goes on where the first was cut."""
    target = folder or Path(job)
    with connect() as client:
        files = fetch_all(client, job, target)
    if json:
        print_json({"folder": str(target), "files": files})
    else:
        out.print(f"{len(files)} files in {target}")


def fetch_all(client: Client, job_id: str, folder: Path) -> list[str]:
    """Download every file of a result, the manifest last: where it lies, the folder is whole."""
    artifacts = sorted(client.artifacts(job_id), key=lambda item: (item.kind == "manifest", item.name))
    if not artifacts:
        raise typer.BadParameter(f"{job_id} has no result to download", param_hint="JOB")
    for artifact in artifacts:
        err.print(f"[dim]{escape(artifact.name)}  {size(artifact.bytes)}[/]")
        client.download(artifact, folder)
    return [artifact.name for artifact in artifacts]
