"""Verbs about jobs: each is a call or two of the HTTP client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.connection import JobId, SpecFile, connect, fetch_all, finish, follow
from app.cli.output import Json, out, print_json
from app.cli.report import print_report
from app.cli.spec_file import read_body

commands = typer.Typer()


@commands.command()
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


@commands.command()
def ps(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
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


@commands.command()
def watch(job: JobId, json: Json = False) -> None:
    """Follow a job to its end."""
    with connect() as client:
        finish(follow(client, job, json=json), json=json)


@commands.command()
def logs(job: JobId, json: Json = False) -> None:
    """Print what the job's processes wrote."""
    with connect() as client:
        for line in client.logs(job):
            if json:
                print_json(line)
            else:
                out.print(f"[dim]{line.get('time')}[/] {line.get('level', ''):7} {escape(str(line.get('text')))}")


@commands.command()
def report(job: JobId, json: Json = False) -> None:
    """Compare the dense and the compressed model."""
    with connect() as client:
        document = client.report(job)
    if json:
        print_json(document)
    else:
        print_report(document)


@commands.command()
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
