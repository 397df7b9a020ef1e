"""Which documents are made from the code, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.docs import commands, errors, methods

ROOT: Final = Path(__file__).parents[2]
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/cli.md": commands.page,
    "docs/errors.md": errors.page,
    "docs/methods.md": methods.page,
}
