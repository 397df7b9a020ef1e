"""The registries that this version knows."""

from __future__ import annotations

from typing import Final

from app.discovery import discover
from app.errors import InvalidRequest, Problem
from app.registries.base import Receiver

RECEIVERS: Final[dict[str, Receiver]] = {
    kind: found.model_validate({"kind": kind})
    for kind, found in discover("app.registries", Receiver, tag="kind").items()  # type: ignore[type-abstract]
}  # fmt: skip


def receiver_of(kind: str) -> Receiver:
    """Return the receiver of a kind that a request names; raises InvalidRequest."""
    found = RECEIVERS.get(kind)
    if found is None:
        known = Problem("/kind", "no-such-kind", f"give one of {', '.join(RECEIVERS)}")
        raise InvalidRequest("There is no such kind of registry.", items=[known])
    return found
