"""The registries that this version knows."""

from __future__ import annotations

from typing import Final

from app.errors import InvalidRequest
from app.integrations.shared.hooks import Receiver
from app.integrations.shared.polling import PolledReceiver
from app.integrations.systems import LOGINS
from app.settings import Settings
from espalier.discovery import discover
from espalier.errors import Problem

RECEIVERS: Final[dict[str, Receiver]] = {
    kind: receiver.model_validate({"kind": kind})
    for kind, receiver in discover(
        "app.integrations",
        Receiver,  # type: ignore[type-abstract]
        tag="kind",
        nested=True,
    ).items()
}


def receiver_of(kind: str) -> Receiver:
    """Return the receiver of a kind that a request names; raises InvalidRequest."""
    receiver = RECEIVERS.get(kind)
    if receiver is None:
        known = Problem("/kind", "no-such-kind", f"give one of {', '.join(RECEIVERS)}")
        raise InvalidRequest("There is no such kind of registry.", items=[known])
    return receiver


def polled(settings: Settings) -> dict[str, PolledReceiver]:
    """Return the registries that are asked for what was lost: those of which the operator says where they are."""
    return {
        kind: receiver
        for kind, receiver in RECEIVERS.items()
        if isinstance(receiver, PolledReceiver) and kind in LOGINS and LOGINS[kind].server(settings)
    }
