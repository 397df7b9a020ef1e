"""`espalier settings`: every knob, its meaning, its value and where that came from."""

from __future__ import annotations

import os
from collections.abc import Mapping

import typer
from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr
from rich.markup import escape

from app.cli.output import Json, out, print_json
from app.settings import Settings, get_settings
from app.settings_file import PREFIX
from app.settings_rules import shown

commands = typer.Typer()

DERIVED = {
    "database_url": "database",
    "broker_url": "broker",
    "store_url": "store",
    "cache_dir": "cache",
    "scratch_dir": "scratch",
}
"""Settings that, left empty, follow from others -> the property that holds the value in force."""


class Setting(BaseModel):
    """One line of the list."""

    name: str
    value: str
    origin: str
    meaning: str


def list_settings(settings: Settings, environment: Mapping[str, str], env_file: str | None) -> list[Setting]:
    """Describe every setting; secrets and passwords in URLs are masked."""
    set_here = {name.upper() for name, value in environment.items() if value}
    in_file = {name.upper() for name, value in dotenv_values(env_file).items() if value} if env_file else set()
    rows = []
    for field, info in Settings.model_fields.items():
        name = PREFIX + field.upper()
        origin = "environment" if name in set_here else str(env_file) if name in in_file else "default"
        value = getattr(settings, DERIVED.get(field, field))
        rows.append(Setting(name=name, value=_shown(value), origin=origin, meaning=info.description or ""))
    return rows


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    return shown(value)


@commands.command()
def settings(json: Json = False) -> None:
    """Print every setting, its meaning, its value and where that came from."""
    rows = list_settings(get_settings(), os.environ, os.environ.get(f"{PREFIX}ENV_FILE"))
    if json:
        print_json([row.model_dump() for row in rows])
        return
    for row in rows:
        out.print(f"[bold]{row.name}[/]={escape(row.value)}  [dim]({escape(row.origin)})[/]\n    {escape(row.meaning)}")
