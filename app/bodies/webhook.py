"""Request bodies of outgoing webhooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.platform.signing import secret_key
from espalier.recipe.base import Spec

EventType = Literal[
    "*",
    "job.created",
    "job.queued",
    "job.started",
    "job.phase_started",
    "job.phase_completed",
    "job.warning",
    "job.paused",
    "job.resumed",
    "job.cancel_requested",
    "job.attempt_failed",
    "job.retry_scheduled",
    "job.gate_evaluated",
    "job.artifact_ready",
    "job.published",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
]
"""`*` is all of these. What comes many times a second (progress, metrics, layers, checkpoints) is for streams."""


def _is_secret(value: str) -> str:
    try:
        secret_key(value)
    except ValueError as error:
        raise PydanticCustomError("bad_secret", "{why}", {"why": str(error)}) from None
    return value


Url = Annotated[
    str, Field(min_length=1, max_length=2000, description="https (or http) URL; see ESPALIER_WEBHOOK_ALLOWED_CIDRS.")
]
Secret = Annotated[str, Field(max_length=200), AfterValidator(_is_secret)]


class EndpointRequest(Spec):
    """A receiver of events."""

    url: Url
    events: list[EventType] = Field(["*"], min_length=1, max_length=20)
    description: str = Field("", max_length=500)
    secret: Secret | None = Field(None, description="`whsec_` and base64 of 24 to 64 bytes; default: a fresh one.")


class EndpointChange(Spec):
    """Changes of an endpoint; fields left out stay."""

    url: Url | None = None
    events: list[EventType] | None = Field(None, min_length=1, max_length=20)
    description: str | None = Field(None, max_length=500)
    enabled: bool | None = None
