"""Command lines of our modules as processes: the service, its parts, the compute child."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import NoReturn


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of one of our modules; -P, so that a folder `workers` here cannot stand in for ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def want_torch() -> None:
    """Refuse what computes here, by name, where the extra that brings torch is not installed."""
    if find_spec("torch") is None:
        raise RuntimeError("this computes, and torch is not installed: `pip install 'espalier-service[worker]'`")


def become(module: str, *arguments: str) -> NoReturn:
    """Go on as one of our modules, in the place of this process."""
    command = module_command(module, *arguments)
    os.environ["PYTHONSAFEPATH"] = "1"  # as -P does, for the processes that it starts
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted
