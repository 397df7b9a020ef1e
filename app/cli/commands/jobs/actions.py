"""Verbs that do something to a job: cancel, pause, resume, retry, clone, delete."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any, Literal

import typer

from app.cli.connection import JobId, connect
from app.cli.output import Json, out, print_json
from espalier.client import Job

commands = typer.Typer()

Priority = Literal["low", "normal", "high"]


def _show(job: Job, *, json: bool) -> None:
    if json:
        print_json(job.model_dump(mode="json"))
    else:
        out.print(f"{job.id} is {job.state}")


@commands.command()
def cancel(job: JobId, json: Json = False) -> None:
    """Ask a job to end."""
    with connect() as client:
        _show(client.cancel(job), json=json)


@commands.command()
def pause(job: JobId, json: Json = False) -> None:
    """Pause a job; it keeps its checkpoints."""
    with connect() as client:
        _show(client.pause(job), json=json)


@commands.command()
def resume(job: JobId, json: Json = False) -> None:
    """Queue a paused job again."""
    with connect() as client:
        _show(client.resume(job), json=json)


@commands.command()
def retry(
    job: JobId,
    from_start: Annotated[bool, typer.Option("--from-start", help="Drop the checkpoints.")] = False,
    priority: Annotated[Priority | None, typer.Option(help="low, normal or high.")] = None,
    max_run_seconds: Annotated[float | None, typer.Option(help="Running time from now on.")] = None,
    max_pending_seconds: Annotated[float | None, typer.Option(help="Time in the queue.")] = None,
    json: Json = False,
) -> None:
    """Try a failed, expired or cancelled job again, from its last checkpoint."""
    given = {"max_run_seconds": max_run_seconds, "max_pending_seconds": max_pending_seconds}
    limits = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        _show(client.retry(job, start=from_start, limits=limits or None, priority=priority), json=json)


@commands.command()
def clone(
    job: JobId,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Like spec.prune.sparsity=0.6; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Create a job from the body of another, with changes."""
    patch: dict[str, Any] = {}
    for change in changes or []:
        path, equals, value = change.partition("=")
        if not equals or not all(path.split(".")):
            raise typer.BadParameter(f"{change!r} is not PATH=VALUE", param_hint="--set")
        *folders, name = path.split(".")
        place = patch
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = _value(value)
    with connect() as client:
        made = client.clone(job, patch)
    if json:
        print_json(made.model_dump(mode="json"))
    else:
        out.print(made.id)


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json_module.loads(text)
    except ValueError:
        return text


@commands.command()
def delete(job: JobId, json: Json = False) -> None:
    """Forget a job that is over, with its files."""
    with connect() as client:
        client.delete(job)
    if json:
        print_json({"id": job, "deleted": True})
    else:
        out.print(f"{job} is deleted")
