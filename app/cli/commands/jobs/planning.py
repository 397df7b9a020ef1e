"""`espalier plan`: what a job would take, before there is one."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.connection import SpecFile, connect
from app.cli.output import Json, out, print_json, size
from app.cli.spec_file import read_body

commands = typer.Typer()


@commands.command()
def plan(spec: SpecFile, json: Json = False) -> None:
    """Show what a job would take: seconds, memory and disk by phase; makes none."""
    with connect() as client:
        document = client.plan(read_body(spec))
    if json:
        print_json(document)
        return
    table = Table("phase", "seconds", "memory", "disk")
    for phase in document["phases"]:
        table.add_row(phase["name"], f"{phase['seconds']:,.1f}", size(phase["memory_bytes"]), size(phase["disk_bytes"]))
    out.print(table)
    seconds = "unknown" if document["seconds"] is None else f"{document['seconds']:,.0f} s"
    out.print(
        f"{document['id']}  {seconds}, worker class {document['worker_class']}, place {document['queue_position']}"
    )
    if document["reusable_job_id"]:
        out.print(f"reuse      {document['reusable_job_id']} has done this: an equal job ends at once")
    for warning in document["warnings"]:
        out.print(f"note       {escape(warning['text'])}")
