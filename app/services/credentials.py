"""Secrets of other services, per project: sealed at rest, opened for the fetcher and the publisher only."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.db.queries import tenancy
from app.db.session import Database, clock
from app.db.tenancy import Credential
from app.errors import NotFound
from app.services.resources import Resources
from app.settings import Settings

if TYPE_CHECKING:
    from pydantic import BaseModel

log = structlog.get_logger(__name__)


def box(settings: Settings) -> MultiFernet:
    """Return what seals and opens: the first of the comma-separated keys seals, all of them open."""
    keys = settings.credentials_key.get_secret_value().split(",")
    # Any text is a key: Fernet wants 32 bytes, and an operator's `openssl rand -hex 32` is 64 characters.
    derived = [hashlib.sha256(b"espalier credentials " + key.strip().encode()).digest() for key in keys if key.strip()]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])


def put(resources: Resources, project_id: str, kind: str, secret: BaseModel, *, hint: str) -> Credential:
    """Seal a secret and keep it in place of the one before."""
    sealed = box(resources.settings).encrypt(secret.model_dump_json().encode()).decode()
    with resources.database.unit_of_work() as session:
        now = clock(session)
        row = session.merge(Credential(project_id=project_id, kind=kind, sealed=sealed, hint=hint, updated_at=now))
        tenancy.audit(session, "credential.store", kind, now=now)
    return row


def delete(resources: Resources, project_id: str, kind: str) -> None:
    """Forget a secret; raises NotFound."""
    with resources.database.unit_of_work() as session:
        row = tenancy.credential(session, project_id, kind)
        if row is None:
            raise NotFound
        session.delete(row)
        tenancy.audit(session, "credential.delete", kind, now=clock(session))


def opened(database: Database, settings: Settings, project_id: str, kind: str) -> dict[str, str]:
    """Return a project's secret; empty when it has none, or when none of our keys opens it."""
    with database.reading() as session:
        row = tenancy.credential(session, project_id, kind)
    if row is None:
        return {}
    try:
        found: dict[str, str] = json.loads(box(settings).decrypt(row.sealed.encode()))
    except InvalidToken:
        log.warning("a credential cannot be opened: ESPALIER_CREDENTIALS_KEY has changed", kind=kind)
        return {}
    return found
