"""The inbox of deliveries: verified, parsed and recorded once; evaluated later, by the reconciler."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.hook import HookDelivery, HookSource, HookVerdict
from app.db.queries.connections import hooks
from app.db.queries.tenancy import audit
from app.db.session import Database, clock
from app.errors import HookForbidden, HookUnauthenticated, InvalidRequest, NotFound
from app.integrations.shared.hooks import NoCredential, Receiver, RegistryEvent, WrongCredential
from app.platform.ids import new_id
from app.services.hooks.receivers import RECEIVERS
from app.services.hooks.sources import secrets_of
from app.services.resources import Resources
from espalier.errors import Problem
from espalier.recipe.base import fingerprint
from espalier.recipe.refusals import pointers

MAX_EVENT_BYTES = 256 * 1024
"""Of what is understood of a delivery, tags included: lists show 200 of them."""
Via = Literal["webhook", "reconciliation"]


@dataclass(frozen=True)
class Recorded:
    """Where an event is written down, and whether it was there before."""

    delivery_id: str
    duplicate: bool


def verified(resources: Resources, source_id: str, headers: Mapping[str, str], body: bytes) -> HookSource:
    """Return the source that sent a body; raises NotFound, HookUnauthenticated, HookForbidden."""
    with resources.database.reading() as session:
        row = hooks.source(session, source_id)
        now = clock(session)
    receiver = RECEIVERS.get(row.kind) if row is not None else None
    if row is None or receiver is None:
        raise NotFound
    secrets = secrets_of(resources.settings, row, now=now)
    try:
        receiver.verify(secrets, headers, body, now=time.time())
    except NoCredential as error:
        raise HookUnauthenticated(str(error)) from None
    except WrongCredential:
        raise HookForbidden from None
    if not secrets:  # whatever a receiver makes of nothing to compare with
        raise HookForbidden
    return row


def read(kind: str, headers: Mapping[str, str], document: object) -> RegistryEvent:
    """Read a document of a registry; raises InvalidRequest, with pointers into it."""
    receiver: Receiver = RECEIVERS[kind]
    if not isinstance(document, dict):
        raise InvalidRequest("A delivery is a JSON object.", items=[Problem("", "object", "give an object")])
    try:
        return receiver.read(headers, document)
    except ValidationError as error:
        raise InvalidRequest(
            f"This is no delivery of {receiver.title}.", items=pointers.problems_of(error, document)
        ) from None


def receive(
    resources: Resources, source: HookSource, headers: Mapping[str, str], document: object, body: bytes
) -> Recorded:
    """Write down a verified delivery."""
    event = read(source.kind, headers, document)
    if len(event.model_dump_json()) > MAX_EVENT_BYTES:
        raise InvalidRequest(f"What the delivery says of its model is longer than {MAX_EVENT_BYTES >> 10} KiB.")
    with resources.database.unit_of_work() as session:
        if hooks.source(session, source.id) is None:  # deleted meanwhile
            raise NotFound
        return record_event(session, source, event, via="webhook", body=body.decode())


def record_event(
    session: Session, source: HookSource, event: RegistryEvent, *, via: Via, body: str | None = None
) -> Recorded:
    """Write down an event of a source, once however often it is heard of; its rules are evaluated after the commit.

    Of events with a subject only a change counts: an alias that points where it pointed last is no news.
    """
    now, key, subject = clock(session), event.dedupe_key, None
    if event.subject is not None:
        subject = fingerprint(event.subject)
        last = hooks.latest_about(session, source.id, subject)
        if last is not None and last.event["dedupe_key"] == event.dedupe_key:
            return Recorded(last.id, duplicate=True)
        # Two that hear of it at once make the same key, and the constraint decides.
        key = f"{event.subject} {key} after {last.id if last else 'nothing'}"
    row = {
        "id": new_id("dlv"),
        "project_id": source.project_id,
        "source_id": source.id,
        "via": via,
        "dedupe_key": fingerprint(key),
        "subject": subject,
        "event": event.model_dump(mode="json"),
        "body": body,
        "state": "pending",
        "attempts": 0,
        "next_at": now,
        "error": None,
        "received_at": now,
        "evaluated_at": None,
    }
    if hooks.add_delivery(session, row):
        return Recorded(str(row["id"]), duplicate=False)
    first = hooks.delivery_of(session, source.id, str(row["dedupe_key"]))
    assert first is not None
    return Recorded(first.id, duplicate=True)


def delivery(database: Database, project_id: str, delivery_id: str) -> HookDelivery:
    """Return a delivery; raises NotFound."""
    with database.reading() as session:
        return _require(session, project_id, delivery_id)


def page(
    database: Database,
    project_id: str,
    *,
    before: str | None = None,
    limit: int,
    source_id: str | None = None,
    state: str | None = None,
) -> tuple[Sequence[HookDelivery], Sequence[HookVerdict]]:
    """Return the deliveries of a project, of one source or state, newest first, and what rules made of them."""
    with database.reading() as session:
        rows = hooks.page(
            session, HookDelivery, project_id, before=before, limit=limit, source_id=source_id, state=state
        )
        return rows, hooks.verdicts_of(session, [row.id for row in rows])


def verdicts(database: Database, delivery_id: str) -> Sequence[HookVerdict]:
    """Return what rules made of a delivery."""
    with database.reading() as session:
        return hooks.verdicts_of(session, [delivery_id])


def replay(database: Database, project_id: str, delivery_id: str) -> HookDelivery:
    """Hold a delivery against the rules as they are now; a rule that made a job or a proposal of it makes no other."""
    with database.unit_of_work() as session:
        row = _require(session, project_id, delivery_id)
        now = clock(session)
        row.state, row.attempts, row.next_at, row.error = "pending", 0, now, None
        audit.record(session, "hook_delivery.replay", row.id, now=now)
    return row


def event_of(row: HookDelivery) -> RegistryEvent:
    """Return the event of a delivery."""
    fields: dict[str, Any] = row.event
    return RegistryEvent.model_validate(fields)


def _require(session: Session, project_id: str, delivery_id: str) -> HookDelivery:
    row = hooks.delivery(session, delivery_id)
    if row is None or row.project_id != project_id:
        raise NotFound
    return row
