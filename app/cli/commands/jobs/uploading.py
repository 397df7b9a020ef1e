"""The verb that sends models and texts from this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from app.cli.connection import connect
from app.cli.output import Json, err, out, print_json

commands = typer.Typer()


@commands.command()
def upload(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE", help="A model's folder, or one file of text: *.txt, *.jsonl, *.parquet and the like."
        ),
    ],
    name: Annotated[str, typer.Option(help="For people; default: the name of the folder or file.")] = "",
    json: Json = False,
) -> None:
    """Send a model or a text and print its id; a second call goes on where the first was cut."""
    bar = Progress(
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=json or not err.is_terminal,
    )
    with connect() as client, bar:
        task = bar.add_task("upload", total=None)
        uploaded = client.upload(
            path, name=name, sent=lambda there, total: bar.update(task, completed=there, total=total)
        )
    if json:
        print_json(uploaded)
    else:
        out.print(uploaded["id"])
