"""The page of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from app.cli.main import app

HEAD: Final = """\
# Command line

Every command of `espalier`, made from the commands by `python -m tests.docs`; `espalier COMMAND --help` says the same.
`ESPALIER_URL` names the service that a command calls (else: the loopback), `ESPALIER_API_KEY` the key it shows. Exit
status: 0 only when it went well, which for a job means that it succeeded and its gate held; 2 for a spec that cannot be
read; else 1.
"""


def commands() -> dict[str, Any]:
    """Return every command by its words: `keys create`."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(_commands(root, ""))


def page() -> str:
    """Return docs/cli.md."""
    return "\n".join((HEAD, *(_about(command, f"espalier {name}") for name, command in commands().items())))


def _commands(group: TyperGroup, above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _about(command: Any, name: str) -> str:
    arguments = [item for item in command.params if isinstance(item, TyperArgument)]
    options = [item for item in command.params if isinstance(item, TyperOption) and "--help" not in item.opts]
    usage = " ".join((name, *(_shown(item) for item in arguments)))
    rows = [
        *((_shown(item), item.help or "") for item in arguments),
        *((", ".join((*item.opts, *item.secondary_opts)), item.help or "") for item in options),
    ]
    listed = "".join(f"- `{left}`{f': {right}' if right else ''}\n" for left, right in rows)
    about = " ".join((command.help or "").split())
    return f"## {name}\n\n{about}\n\n```\n{usage}\n```\n" + (f"\n{listed}" if listed else "")


def _shown(argument: TyperArgument) -> str:
    name = (argument.metavar or argument.name or "").strip("{}[]").upper()
    return name if argument.required else f"[{name}]"
