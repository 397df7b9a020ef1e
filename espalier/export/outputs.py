"""Recognise models that Espalier made: a rule refuses them, or it would run in circles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from espalier.errors import OwnOutput

OUTPUT_TAG: Final = "espalier"
"""Stands in the card of every result (espalier.export.card), and begins the tags of a version at MLflow."""
_CARD: Final = "README.md"
_HEAD_BYTES: Final = 2**16
_DEEPEST: Final = 16
"""Levels of lists and maps; the parser takes time by the square of them."""
_MARK: Final = re.compile(r"^[ \t\ufeff]*---[ \t]*\r?$", re.MULTILINE)
"""A line of its own: names within may hold as many dashes."""


def refuse_tagged(what: str, tags: Iterable[str]) -> None:
    """Raise OwnOutput where one of a model's tags is ours."""
    for tag in tags:
        if tag == OUTPUT_TAG or tag.startswith(f"{OUTPUT_TAG}."):
            raise OwnOutput(f"{what} is an output of Espalier: it has the tag `{tag}`.")


def refuse_by_card(folder: Path) -> None:
    """Raise OwnOutput where the card among a model's files has our tag: copies keep it wherever they lie."""
    tags = front_matter(folder / _CARD).get("tags", [])
    refuse_tagged("The model", (tag for tag in (tags if isinstance(tags, list) else [tags]) if isinstance(tag, str)))


def front_matter(card: Path) -> dict[str, Any]:
    """Return what a card says before its text; nothing where there is none, or none that can be read.

    Aliases count as unreadable: spelled out, a hundred lines of them are more than any memory. So does what nests
    deeply.
    """
    try:
        with card.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode(errors="replace")
        mark, front, _ = _MARK.split(head, 2)
        if mark.strip() or not _is_plain(front):
            return {}
        parsed = yaml.safe_load(front)
    except Exception:  # noqa: BLE001 (whatever the parser's constructors stumble over: a card is a stranger's)
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _is_plain(front: str) -> bool:
    """Tell whether nothing in it stands for something else, and nothing nests deeply."""
    depth = 0
    for event in yaml.parse(front):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
            return False
    return True
