"""`espalier keys create`: the first API key, made by the database itself."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.modules import become
from app.cli.output import Json

commands = typer.Typer(name="keys", help="API keys.", no_args_is_help=True)


@commands.callback()
def keys() -> None:
    """Manage API keys; with one of the scope admin, /v1/api-keys makes all others."""


@commands.command()
def create(
    name: Annotated[str, typer.Option(help="For people.")] = "bootstrap",
    project: Annotated[str, typer.Option(help="Whose key it is.")] = "prj_default",
    scope: Annotated[list[str] | None, typer.Option(help="What it may do, repeatable; default: admin.")] = None,
    days: Annotated[float | None, typer.Option(help="Its life; default: without end.")] = None,
    json: Json = False,
) -> None:
    """Make an API key with the database that ESPALIER_DATABASE_URL names, and print it."""
    scopes = [word for value in scope or [] for word in ("--scope", value)]
    life = ["--days", str(days)] if days is not None else []
    become(
        "app.services.bootstrap", "--name", name, "--project", project, *scopes, *life, *(["--json"] if json else [])
    )
