"""What the command line's fixture gives: a run of `espalier`, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Outcome:
    status: int
    out: str
    err: str


Espalier = Callable[..., Outcome]
