"""Verbs for operators: queues, workers, drain, undrain."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from app.cli.connection import connect
from app.cli.output import Json, out, print_json, size
from espalier.client.models import Worker

commands = typer.Typer()

WorkerId = Annotated[str, typer.Argument(metavar="WORKER", help="The worker's id.", show_default=False)]


@commands.command()
def queues(json: Json = False) -> None:
    """List the queues, one per worker class."""
    with connect() as client:
        rows = client.queues()
    if json:
        print_json([queue.model_dump(mode="json") for queue in rows])
        return
    table = Table("class", "queued", "delayed", "oldest", "running", "workers", box=None)
    for queue in rows:
        oldest = "" if queue.oldest_age_seconds is None else f"{queue.oldest_age_seconds:.0f} s"
        counts = (str(number) for number in (queue.running, queue.workers))
        table.add_row(queue.worker_class, str(queue.depth), str(queue.delayed), oldest, *counts)
    out.print(table)


@commands.command()
def workers(json: Json = False) -> None:
    """List the workers and their jobs."""
    with connect() as client:
        rows = client.workers()
    if json:
        print_json([worker.model_dump(mode="json") for worker in rows])
        return
    table = Table("worker", "class", "state", "host", "device", "memory", "job", "seen", box=None)
    for worker in rows:
        table.add_row(
            worker.id,
            worker.worker_class,
            worker.state,
            worker.host or "",
            worker.device,
            size(worker.memory_bytes),
            worker.job_id or "",
            f"{worker.heartbeat_age_seconds:.0f} s ago",
        )
    out.print(table)


@commands.command()
def drain(worker: WorkerId, json: Json = False) -> None:
    """Let a worker claim nothing more and give its job back."""
    with connect() as client:
        _tell(client.drain(worker), json=json)


@commands.command()
def undrain(worker: WorkerId, json: Json = False) -> None:
    """Let a worker that was to drain claim jobs again."""
    with connect() as client:
        _tell(client.undrain(worker), json=json)


def _tell(answer: Worker, *, json: bool) -> None:
    if json:
        print_json(answer.model_dump(mode="json"))
    else:
        out.print(f"{answer.id} is {answer.state}")
