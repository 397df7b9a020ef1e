"""Verbs that become another process: the service, its parts, the migrations."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line of one of our modules; -P, so that a folder named `workers` here cannot stand in for ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def become(module: str, *arguments: str) -> NoReturn:
    """Go on as one of our modules, in the place of this process."""
    command = module_command(module, *arguments)
    os.environ["PYTHONSAFEPATH"] = "1"  # what -P says, for the processes that it starts in turn
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def serve(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API, as ESPALIER_PORT; 0 takes a free one.")
    ] = None,
) -> None:
    """Run the API, one worker and the reconciler; state lies in ESPALIER_HOME."""
    if port is not None:
        os.environ["ESPALIER_PORT"] = str(port)
    become("workers.service")


def worker(
    once: Annotated[bool, typer.Option("--once", help="Work on one job and end.")] = False,
    worker_class: Annotated[str, typer.Option(help="Which jobs to claim.")] = "default",
) -> None:
    """Run one worker."""
    become("workers.main", *(["--once"] if once else []), "--worker-class", worker_class)


def reconciler() -> None:
    """Run the process that heals what was missed."""
    become("workers.reconciler")


def migrate() -> None:
    """Bring the database to the newest schema."""
    become("app.db.migrate")
