"""MLflow 3.15 and newer: signed deliveries of model versions, their aliases and their tags."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from app.integrations.mlflow import polling
from app.integrations.mlflow.events import alias_set, alias_subject, tag_set, version_created
from app.integrations.mlflow.polling import Registered
from app.integrations.shared.hooks import (
    NoCredential,
    Payload,
    RegistryEvent,
    Tags,
    Text,
    WrongCredential,
    fresh,
    same,
)
from app.integrations.shared.polling import PolledReceiver

SIGNATURE, TIMESTAMP, DELIVERY_ID = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class _Data(Payload):
    name: str = Text
    version: Annotated[str | None, BeforeValidator(_number_as_text), Field(max_length=40, pattern=r"^\w+$")] = None
    alias: str | None = Field(None, max_length=500)
    key: str | None = Field(None, max_length=500)
    value: str | None = Field(None, max_length=20_000)
    tags: Tags = {}


class _Document(Payload):
    entity: str = Text
    action: str = Text
    data: _Data


def sign(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a delivery: unlike Standard Webhooks, the secret's own bytes are the key."""
    message = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()


class MLflowHook(PolledReceiver):
    """A webhook of an MLflow model registry; deliveries can be lost, so the registry is swept as well."""

    title: ClassVar[str] = "MLflow"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "entity": "model_version",
        "action": "created",
        "timestamp": "2026-11-21T08:00:00+00:00",
        "data": {
            "name": "model",
            "version": "1",
            "source": "models:/m-abc",
            "run_id": "r1",
            "tags": {},
            "description": None,
        },
    }

    kind: Literal["mlflow"] = "mlflow"

    def headers(self, secret: str, body: bytes, *, now: float) -> dict[str, str]:
        """Sign a body."""
        delivery_id, stamp = "11111111-2222-3333-4444-555555555555", str(int(now))
        signature = sign(secret, delivery_id, stamp, body)
        return {SIGNATURE: signature, TIMESTAMP: stamp, DELIVERY_ID: delivery_id, "content-type": "application/json"}

    def verify(self, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: float) -> None:
        """Compare the signature with that of each secret; a delivery older than five minutes is refused."""
        given = headers.get(SIGNATURE, "")
        if not given:
            raise NoCredential(f"The header {SIGNATURE} is missing.")
        delivery_id, stamp = headers.get(DELIVERY_ID, ""), headers.get(TIMESTAMP, "")
        if not delivery_id or not fresh(stamp, now=now):
            raise WrongCredential
        if not same(given, [sign(secret, delivery_id, stamp, body) for secret in secrets]):
            raise WrongCredential

    def read(self, headers: Mapping[str, str], document: dict[str, Any]) -> RegistryEvent:
        """Read a model version that was created, or that an alias or a tag points to."""
        payload = _Document.model_validate(document)
        data, event = payload.data, f"{payload.entity}.{payload.action}"
        if data.version is not None:
            match event:
                case "model_version.created":
                    return version_created(data.name, data.version, data.tags)
                case "model_version_alias.created" if data.alias is not None:
                    return alias_set(data.name, data.alias, data.version)
                case "model_version_tag.set" if data.key is not None:
                    return tag_set(data.name, data.version, data.key, data.value or "")
        subject = None
        if event == "model_version_alias.deleted" and data.alias is not None:
            subject = alias_subject(data.name, data.alias)
        facts = (event, data.name, data.version or "", data.alias or "", data.key or "", headers.get(DELIVERY_ID, ""))
        return RegistryEvent(
            kind=self.kind,
            event=event,
            what="other",
            model=data.name,
            version=data.version,
            alias=data.alias,
            tags=data.tags,
            dedupe_key="deleted" if subject else " ".join(facts),
            subject=subject,
            why_not="this names no version that is new",
        )

    def poll(self, login: Mapping[str, str], cursor: Mapping[str, Any], *, made_at: datetime) -> Registered:
        """Read versions and aliases."""
        return polling.poll(login, cursor, made_at=made_at)
