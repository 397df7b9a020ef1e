"""Sources: made, renamed, deleted; their secrets shown once, encrypted, rotated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from app.bodies.hooks import SecretRotation, SourceChange, SourceRequest
from app.db.hook import HookSource
from app.db.queries.connections import hooks
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.errors import InvalidRequest, NotFound
from app.integrations.shared.hooks import Receiver
from app.platform.ids import new_id
from app.services import idempotency
from app.services.hooks.receivers import receiver_of
from app.services.idempotency import Key
from app.services.resources import Resources
from app.services.tenancy.encryption import DecryptionError, decrypt, encrypt
from app.settings import Settings
from espalier.errors import Problem

log = structlog.get_logger(__name__)


def create(
    resources: Resources, project_id: str, request: SourceRequest, *, key: Key | None = None
) -> tuple[HookSource, str]:
    """Make a source and return it with its secret."""
    secret = _secret(receiver_of(request.kind), request.secret)
    with resources.database.unit_of_work() as session:
        now = clock(session)
        row = HookSource(
            id=new_id("src"),
            project_id=project_id,
            kind=request.kind,
            name=request.name,
            secret=encrypt(resources.settings, secret),
            old_secret=None,
            old_secret_until=None,
            cursor=None,
            created_at=now,
            updated_at=now,
        )
        idempotency.once(session, key, row.id, now=now)
        session.add(row)
        audit.record(session, "hook_source.create", row.id, now=now, kind=row.kind, name=row.name)
    return row, secret


def again(resources: Resources, project_id: str, source_id: str) -> tuple[HookSource, str]:
    """Return what an equal call has made, with its secret; raises NotFound."""
    row = get(resources, project_id, source_id)
    return row, decrypt(resources.settings, row.secret) if row.secret else ""


def _secret(receiver: Receiver, given: str | None) -> str:
    if given is None:
        return receiver.new_secret()
    try:
        receiver.check_secret(given)
    except ValueError as error:
        raise InvalidRequest(
            "This cannot be the secret.", items=[Problem("/secret", "bad-secret", str(error))]
        ) from None
    return given


def get(resources: Resources, project_id: str, source_id: str) -> HookSource:
    """Return a source; raises NotFound."""
    with resources.database.reading() as session:
        return _require(session, project_id, source_id)


def page(resources: Resources, project_id: str, *, before: str | None = None, limit: int) -> Sequence[HookSource]:
    """Return the sources of a project, newest first."""
    with resources.database.reading() as session:
        return hooks.page(session, HookSource, project_id, before=before, limit=limit)


def change(resources: Resources, project_id: str, source_id: str, request: SourceChange) -> HookSource:
    """Rename a source."""
    with _changing(resources, project_id, source_id, "change") as (_, row, _now):
        row.name = request.name
    return row


def delete(resources: Resources, project_id: str, source_id: str) -> None:
    """Remove a source with its rules, deliveries and proposals."""
    with _changing(resources, project_id, source_id, "delete") as (session, row, _now):
        session.delete(row)


def rotate(resources: Resources, project_id: str, source_id: str, request: SecretRotation) -> tuple[HookSource, str]:
    """Give a source a new secret; the old one is accepted beside it for a while."""
    with _changing(resources, project_id, source_id, "rotate_secret") as (_, row, now):
        secret = _secret(receiver_of(row.kind), request.secret)
        row.old_secret, row.old_secret_until = row.secret, now + timedelta(seconds=request.overlap_seconds)
        if request.overlap_seconds == 0:
            row.old_secret = row.old_secret_until = None
        row.secret = encrypt(resources.settings, secret)
    return row, secret


def secrets_of(settings: Settings, row: HookSource, *, now: datetime) -> list[str]:
    """Return the secrets that a delivery may be made with; none where none can be opened."""
    sealed = [row.secret]
    if row.old_secret_until is not None and now < row.old_secret_until:
        sealed.append(row.old_secret)
    try:
        return [decrypt(settings, one) for one in sealed if one]
    except DecryptionError:
        log.warning("a hook's secret cannot be opened: ESPALIER_CREDENTIALS_KEY has changed", source_id=row.id)
        return []


def _require(session: Session, project_id: str, source_id: str) -> HookSource:
    """Return a source of a project; raises NotFound."""
    row = hooks.source(session, source_id)
    if row is None or row.project_id != project_id:
        raise NotFound
    return row


@contextmanager
def _changing(
    resources: Resources, project_id: str, source_id: str, verb: str
) -> Iterator[tuple[Session, HookSource, datetime]]:
    with resources.database.unit_of_work() as session:
        now = clock(session)
        row = _require(session, project_id, source_id)
        yield session, row, now
        if verb != "delete":
            row.updated_at = now
        audit.record(session, f"hook_source.{verb}", source_id, now=now)
