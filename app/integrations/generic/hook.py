"""Anything else that can sign by Standard Webhooks: a script of a pipeline, or a registry of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.integrations.shared.hooks import (
    NoCredential,
    Payload,
    Receiver,
    RegistryEvent,
    Tags,
    Text,
    WrongCredential,
)
from app.platform import signing

EVENT = Field("model.updated", min_length=1, max_length=100, pattern=r"^[\w.-]+$")


class _HubModel(Payload):
    kind: Literal["huggingface"]
    repo: str = Text
    revision: str = Field("main", max_length=200)


class _S3Model(Payload):
    kind: Literal["s3"]
    uri: str = Field(max_length=1000)
    revision: str | None = Field(None, max_length=200)


class _Document(Payload):
    model: Annotated[_HubModel | _S3Model, Field(discriminator="kind")]
    event: str = EVENT
    tags: Tags = {}


class GenericHook(Receiver):
    """A delivery signed by Standard Webhooks 1.0.0."""

    title: ClassVar[str] = "Standard Webhooks"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "model": {"kind": "huggingface", "repo": "org/model", "revision": "main"},
        "event": "model.updated",
        "tags": {"stage": "release"},
    }

    kind: Literal["generic"] = "generic"

    def headers(self, secret: str, body: bytes, *, now: float) -> dict[str, str]:
        """Sign a body."""
        return {**signing.headers([secret], "msg_01", int(now), body), "content-type": "application/json"}

    def verify(self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: float) -> None:
        """Verify by Standard Webhooks."""
        if not headers.get("webhook-signature"):
            raise NoCredential("The header webhook-signature is missing.")
        try:
            signing.verify(secrets, headers, body, now=now)
        except signing.BadSignature:
            raise WrongCredential from None

    def read(self, headers: Mapping[str, str], document: dict[str, Any]) -> RegistryEvent:
        """Read the announcement of a model that is available now."""
        payload = _Document.model_validate(document)
        if isinstance(payload.model, _HubModel):
            name, source = payload.model.repo, {"kind": "huggingface", "repo": payload.model.repo}
            source["revision"] = payload.model.revision
        else:
            name, source = payload.model.uri, {"kind": "s3", "uri": payload.model.uri}
        revision = payload.model.revision
        return RegistryEvent(
            kind=self.kind,
            event=payload.event,
            what="version",
            model=name,
            source=source,
            tags=payload.tags,
            revision=revision,
            dedupe_key=headers.get("webhook-id", ""),
            references=(f"{name}@{revision}",) if revision else (),
        )

    def new_secret(self) -> str:
        """Return a `whsec_...`."""
        return signing.new_secret()

    def check_secret(self, secret: str) -> None:
        """Take `whsec_` and base64 of 24 to 64 bytes."""
        signing.secret_key(secret)
