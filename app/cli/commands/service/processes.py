"""Verbs that become another process: the service, its parts, the migrations."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from app.cli.modules import become, want_torch

commands = typer.Typer()


@commands.command()
def serve(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API, as ESPALIER_PORT; 0 takes a free one.")
    ] = None,
) -> None:
    """Run the API, a worker for each GPU or one for the CPU, and the reconciler; state lies in ESPALIER_HOME."""
    want_torch()
    if port is not None:
        os.environ["ESPALIER_PORT"] = str(port)
    become("workers.service")


@commands.command()
def worker(
    once: Annotated[bool, typer.Option("--once", help="Work on one job and end.")] = False,
    worker_class: Annotated[str, typer.Option(help="Which jobs to claim.")] = "default",
    gpus: Annotated[
        str | None,
        typer.Option(help="A worker for each GPU: auto for all, a number, or UUIDs (MIG slices too) with commas."),
    ] = None,
) -> None:
    """Run one worker, or one for each of several GPUs."""
    want_torch()
    options = ["--once"] * once + ([] if gpus is None else ["--gpus", gpus])
    become("workers.main", *options, "--worker-class", worker_class)


@commands.command()
def reconciler() -> None:
    """Run the reconciler, which repairs what other processes missed."""
    become("workers.reconciler")


@commands.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    become("app.db.migrate")
