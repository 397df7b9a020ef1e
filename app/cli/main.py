"""The `espalier` command: its verbs, and how their mistakes are shown."""

from __future__ import annotations

import platform
import signal
import sys
from typing import Annotated

import typer
from rich.markup import escape

from app.cli import commands
from app.cli.output import err, out, print_problem
from app.platform.discovery import offered
from espalier.client import BadDownload, NothingToUpload, ServiceError, Unreachable
from espalier.recipe.reading import RecipeError
from espalier.recipe.spec import ENGINE_VERSION
from espalier.version import VERSION


def _tell_version(asked: bool) -> None:
    if asked:
        out.print(f"espalier {VERSION} (engine {ENGINE_VERSION}, Python {platform.python_version()})", highlight=False)
        raise typer.Exit


app = typer.Typer(
    name="espalier",
    help="Compression as a service for transformer models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Compress transformer models: as a service, or on this machine."""


for _, verbs in offered(commands, "commands", typer.Typer):
    app.add_typer(verbs)


def main() -> None:
    """Run the command; known troubles end with a sentence and status 1 or 2, never with a trace."""
    # Asked to end, leave in order: the demo takes its service along, a run its children.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except ServiceError as error:
        print_problem(error)
        sys.exit(1)
    except RecipeError as error:
        err.print(f"[bold red]spec[/]: {escape(str(error))}")
        sys.exit(2)
    except Unreachable as error:
        err.print(f"[bold red]unreachable[/]: {escape(str(error))}")
        err.print("  hint: start one with `espalier serve`, or set ESPALIER_URL")
        sys.exit(1)
    except (BadDownload, NothingToUpload, RuntimeError, OSError) as error:
        err.print(f"[bold red]error[/]: {escape(str(error))}")
        sys.exit(1)
