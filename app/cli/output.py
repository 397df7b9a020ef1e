"""Output of all commands: results on stdout, errors on stderr, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from espalier.client import ServiceError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_WIDE = 200
"""Columns where the output is no terminal: a table in a pipe must not be folded."""

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """Print one document on one line."""
    typer.echo(json.dumps(document, ensure_ascii=False, default=str))


def print_problem(error: ServiceError) -> None:
    """Show a problem document: what, where in the request, and what to do."""
    problem = error.problem
    err.print(f"[bold red]{escape(str(problem.get('title') or 'refused'))}[/]: {escape(str(error.args[0]))}")
    items = problem.get("errors")
    for item in items if isinstance(items, list) else []:
        detail = str(item.get("detail"))
        suffix = "" if detail == problem.get("detail") else f"  {escape(detail)}"  # once is enough
        err.print(f"  [yellow]{escape(str(item.get('pointer')) or '/')}[/]{suffix}")
    if hint := problem.get("hint") or _hint(problem):
        err.print(f"  hint: {escape(str(hint))}")
    extras = [str(problem[name]) for name in ("code", "request_id") if problem.get(name)]
    err.print(f"  [dim]({error.status}{', ' if extras else ''}{escape(', '.join(extras))})[/]")


def _hint(problem: Mapping[str, Any]) -> str | None:
    """Return the command that helps; the service, which answers to others too, names none."""
    of_job = str(problem.get("instance")).startswith("/v1/jobs/")
    return "`espalier ps` lists the ids of jobs" if of_job and problem.get("code") == "not-found" else None


def print_job_error(error: Mapping[str, Any]) -> None:
    """Show why a job failed."""
    where = ", ".join(str(error[name]) for name in ("phase", "module") if error.get(name))
    message = str(error.get("message") or error.get("hint") or "")
    what = escape(f"{error.get('class')} in {where}" if where else str(error.get("class")))
    err.print(f"[bold red]{what}[/]: {escape(message)}")
    if error.get("hint") and error["hint"] != message:
        err.print(f"  hint: {escape(str(error['hint']))}")


def size(count: float | None) -> str:
    """Render a number of bytes for people, in decimal units."""
    if count is None:
        return "-"
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if count >= scale), ("bytes", 1))
    return f"{count / scale:,.2f} {unit}" if scale > 1 else f"{count:,.0f} bytes"
