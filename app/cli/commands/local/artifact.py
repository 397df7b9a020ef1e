"""`espalier unpack` and `espalier inspect`: what can be done with an artifact directory, without a service."""

from __future__ import annotations

import importlib.util
import json as json_module
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.modules import module_command
from app.cli.output import Json, err, out, print_json, size

commands = typer.Typer()

Directory = Annotated[Path, typer.Argument(help="A downloaded artifact.", exists=True, file_okay=False)]


@commands.command()
def unpack(
    directory: Directory,
    output: Annotated[Path | None, typer.Option(help="Folder for the dense model; default: the same folder.")] = None,
    json: Json = False,
) -> None:
    """Write the dense safetensors files of a packed artifact, bit for bit; stock transformers loads the folder then."""
    for item in _run("unpack", str(directory), *([str(output)] if output else [])):
        if json:
            print_json(item)
        else:
            out.print(f"{escape(item['path'])}  {size(item['bytes'])}")


@commands.command()
def inspect(directory: Directory, json: Json = False) -> None:
    """Show what an artifact holds: parameters, zeros, patterns, bytes, and whether every file is intact."""
    facts = _run("inspect", str(directory))[0]
    damaged = [item["path"] for item in facts["files"] if not item["verified"]]
    if json:
        print_json(facts)
    else:
        out.print(_table(facts, damaged))
    if damaged:
        err.print(f"[red]not intact[/]: {escape(', '.join(damaged))}")
        raise typer.Exit(1)


def _run(*arguments: str) -> list[dict[str, Any]]:
    if importlib.util.find_spec("numpy") is None:
        err.print("this verb needs numpy: install espalier with the extra `worker`")
        raise typer.Exit(2)
    command = module_command("espalier.packing", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        err.print(f"[bold red]error[/]: {escape(done.stderr.strip().splitlines()[-1])}")
        raise typer.Exit(1)
    return [json_module.loads(line) for line in done.stdout.splitlines()]


def _table(facts: dict[str, Any], damaged: list[str]) -> Table:
    table = Table(show_header=False, box=None)
    sparse = ", ".join(f"{count} {name}" for name, count in sorted(facts["sparse_tensors"].items())) or "none"
    sparsity = facts["sparsity_of_sparse_tensors"]
    files = len(facts["files"])
    for name, value in (
        ("architecture", str(facts["architecture"] or "unknown")),
        ("parameters", f"{facts['parameters']:,} in {facts['tensors']} tensors"),
        ("non-zero", f"{facts['nonzero_parameters']:,}"),
        ("sparse tensors", f"{sparse}, {sparsity:.2%} zeros" if facts["sparse_tensors"] else sparse),
        ("dense", size(facts["dense_bytes"])),
        ("packed", size(facts["packed_bytes"])),
        ("files", f"{files - len(damaged)} of {files} as the manifest has them" if files else "no manifest"),
    ):
        table.add_row(name, value)
    return table
