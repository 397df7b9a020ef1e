"""Secrets of other services, per project: encrypted at rest, decrypted for the fetcher and the publisher only."""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog
from pydantic import BaseModel

from app.db.queries.tenancy import audit, credentials, projects
from app.db.session import Database, clock
from app.db.tenancy import Credential
from app.errors import NotFound
from app.integrations.shared.logins import Doing
from app.integrations.systems import LOGINS
from app.services.tenancy.encryption import DecryptionError, decrypt, encrypt
from app.settings import Settings

log = structlog.get_logger(__name__)


def put(
    database: Database, settings: Settings, project_id: str, kind: str, secret: BaseModel, *, hint: str
) -> Credential:
    """Encrypt a secret and store it in place of the one before."""
    sealed = encrypt(settings, secret.model_dump_json())
    with database.unit_of_work() as session:
        now = clock(session)
        row = credentials.put(session, project_id, kind, sealed=sealed, hint=hint, now=now)
        audit.record(session, "credential.store", kind, now=now)
    return row


def every(database: Database, project_id: str) -> Sequence[Credential]:
    """Return the sealed secrets of a project."""
    with database.reading() as session:
        return credentials.every(session, project_id)


def delete(database: Database, project_id: str, kind: str) -> None:
    """Forget a secret; raises NotFound."""
    with database.unit_of_work() as session:
        row = credentials.find(session, project_id, kind)
        if row is None:
            raise NotFound
        session.delete(row)
        audit.record(session, "credential.delete", kind, now=clock(session))


def opened(database: Database, settings: Settings, project_id: str, kind: str) -> dict[str, str]:
    """Return a project's secret; empty when it has none, or when none of our keys opens it."""
    with database.reading() as session:
        row = credentials.find(session, project_id, kind)
    if row is None:
        return {}
    try:
        secrets: dict[str, str] = json.loads(decrypt(settings, row.sealed))
    except DecryptionError:
        log.warning("a credential cannot be opened: ESPALIER_CREDENTIALS_KEY has changed", kind=kind)
        return {}
    return secrets


def access(database: Database, settings: Settings, project_id: str, kind: str, doing: Doing) -> dict[str, str]:
    """Return a system's address, and how a project logs in there: as itself, or as the operator where it may."""
    login = LOGINS.get(kind)
    if login is None:
        return {}
    own = {key: value for key, value in opened(database, settings, project_id, kind).items() if value}
    if not own and doing in login.lent and _shares(database, project_id, kind):
        own = login.operators(settings)
    return {**login.server(settings), **own}


def _shares(database: Database, project_id: str, kind: str) -> bool:
    """Tell whether a project may use the operator's login at a service."""
    with database.reading() as session:
        project = projects.get(session, project_id)
    return project is not None and kind in project.shared_logins
