"""API keys: made once, shown once, checked at every request, gone within five seconds of their revocation."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from app.bodies.access import KeyChange, KeyRequest
from app.db.queries.tenancy import audit, keys, projects
from app.db.session import Database, clock
from app.db.tenancy import ApiKey, Project
from app.errors import Forbidden, InvalidRequest, NotFound, TooManyRequests, Unauthenticated
from app.platform.actor import DEFAULT_PROJECT, Actor
from app.platform.ids import new_id
from app.services import idempotency
from app.services.idempotency import Key
from app.services.tenancy.actor_cache import MAX_CACHED, ActorCache
from app.settings import Settings
from espalier.errors import Problem

_TOKEN = re.compile(r"esp_([0-9A-HJKMNP-TV-Z]{26})_([0-9a-f]{48})")
_USED_EVERY = timedelta(minutes=1)
UNKNOWN = "unknown"
"""What the audit log calls a key that is not there."""


def digest(token: str, settings: Settings) -> str:
    """Return what is stored of a key."""
    pepper = settings.api_key_pepper.get_secret_value().encode()
    return hmac.new(pepper, token.encode(), hashlib.sha256).hexdigest()


class ApiKeyAuthenticator:
    """Verifies API keys, with a cache of a few seconds per process, and counts the requests of each key."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._cache = ActorCache()
        self._buckets: dict[str, tuple[float, float]] = {}
        self._refused: dict[str, float] = {}

    def known(self, token: str) -> Actor | None:
        """Return who a key belongs to, if that was verified a moment ago; reads no database."""
        return self._cache.get(token)

    def verify(self, token: str) -> Actor:
        """Return who a key belongs to; raises Unauthenticated."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise Unauthenticated
        with self._database.reading() as session:
            now = clock(session)
            row = keys.with_project(session, f"key_{match[1]}")
        # The HMAC is computed for an unknown key too: the answer takes as long either way.
        stored = row[0].digest if row else "0" * 64
        if not hmac.compare_digest(stored, digest(token, self._settings)) or row is None:
            self._note_refusal(row, "wrong secret" if row else "unknown key")
            raise Unauthenticated
        key, project = row
        if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
            self._note_refusal(row, "expired" if key.revoked_at is None else "revoked")
            raise Unauthenticated("The API key is revoked or has expired.")
        if key.last_used_at is None or now - key.last_used_at > _USED_EVERY:
            with self._database.unit_of_work() as session:
                keys.note_use(session, key.id, now=now)
        actor = Actor("api_key", key.id, key.project_id, frozenset(key.scopes), project.quotas)
        self._cache.put(token, actor)
        return actor

    def _note_refusal(self, row: tuple[ApiKey, Project] | None, why: str) -> None:
        """Write down that a key was refused, to the minute like its use; keys that nobody knows count as one."""
        key_id = row[0].id if row else UNKNOWN
        last = self._refused.get(key_id)
        if last is not None and time.monotonic() - last < _USED_EVERY.total_seconds():
            return
        self._refused[key_id] = time.monotonic()
        project_id, by = row[0].project_id if row else DEFAULT_PROJECT, {"type": "api_key", "id": key_id}
        with self._database.unit_of_work() as session:
            audit.add(
                session, "api_key.refused", key_id, project_id=project_id, by=by, now=clock(session), data={"why": why}
            )

    def take(self, actor: Actor) -> None:
        """Take a token from the key's bucket, which holds one second's worth; raises TooManyRequests when it is empty.

        Buckets are of this process: behind n API processes a key may make n times as many requests.
        """
        rate = actor.limits.get("max_requests_per_second")
        if not rate:
            return
        now = time.monotonic()
        tokens, filled = self._buckets.get(actor.id, (float(rate), now))
        tokens = min(tokens + (now - filled) * rate, float(rate))
        if tokens < 1:
            raise TooManyRequests(headers={"Retry-After": "1"})
        if len(self._buckets) > MAX_CACHED:
            self._buckets.clear()
        self._buckets[actor.id] = (tokens - 1, now)


def create(
    database: Database, settings: Settings, request: KeyRequest, project_id: str, *, key: Key | None = None
) -> tuple[ApiKey, str]:
    """Make a key of a project and return it with its token, which nobody can read again."""
    key_id = new_id("key")
    token = _token(key_id, settings, key) if key else f"esp_{key_id.removeprefix('key_')}_{secrets.token_hex(24)}"
    with database.unit_of_work() as session:
        now = clock(session)
        if projects.get(session, project_id) is None:
            raise NotFound("There is no project with this id.")
        _refuse_past(request.expires_at, now)
        idempotency.once(session, key, key_id, now=now)
        row = ApiKey(
            id=key_id,
            project_id=project_id,
            name=request.name,
            scopes=sorted(set(request.scopes)),
            digest=digest(token, settings),
            created_at=now,
            expires_at=request.expires_at,
            last_used_at=None,
            revoked_at=None,
        )
        session.add(row)
        audit.record(
            session, "api_key.create", row.id, now=now, project_id=project_id, name=row.name, scopes=row.scopes
        )
    return row, token


def again(
    database: Database, settings: Settings, actor: Actor, key_id: str, key: Key | None
) -> tuple[ApiKey, str | None]:
    """Return what an equal call has made, and its token if the pepper is still the one of then; raises NotFound."""
    assert key is not None
    row, token = get(database, actor, key_id), _token(key_id, settings, key)
    return row, token if hmac.compare_digest(row.digest, digest(token, settings)) else None


def _token(key_id: str, settings: Settings, key: Key) -> str:
    """Derive the token of a call with an Idempotency-Key: a replay returns it again, and nobody can guess it."""
    message = "\n".join(("api key", key_id, key.project_id, key.path, key.key, key.body_sha256))
    return f"esp_{key_id.removeprefix('key_')}_{digest(message, settings)[:48]}"


def project_of_new_key(actor: Actor, wanted: str | None) -> str:
    """Return the project that a new key is for; raises Forbidden when the caller may not make keys there."""
    if wanted is not None and wanted != actor.project_id and not actor.is_operator:
        raise Forbidden("Only an admin of the default project makes keys for other projects.")
    return wanted or actor.project_id


def change(database: Database, actor: Actor, key_id: str, request: KeyChange) -> ApiKey:
    """Rename a key, or let it end at another time; raises NotFound."""
    with database.unit_of_work() as session:
        now = clock(session)
        key = _require(keys.get(session, key_id, project_id=scope(actor)))
        if request.name is not None:
            key.name = request.name
        if "expires_at" in request.model_fields_set:
            _refuse_past(request.expires_at, now)
            key.expires_at = request.expires_at
        audit.record(session, "api_key.change", key.id, now=now, project_id=key.project_id)
    return key


def revoke(database: Database, actor: Actor, key_id: str) -> None:
    """End a key for good; twice is as good as once."""
    with database.unit_of_work() as session:
        now = clock(session)
        key = _require(keys.get(session, key_id, project_id=scope(actor)))
        if key.revoked_at is None:
            key.revoked_at = now
            audit.record(session, "api_key.revoke", key.id, now=now, project_id=key.project_id)


def get(database: Database, actor: Actor, key_id: str) -> ApiKey:
    """Return a key; raises NotFound."""
    with database.reading() as session:
        return _require(keys.get(session, key_id, project_id=scope(actor)))


def page(database: Database, actor: Actor, *, before: str | None, limit: int) -> Sequence[ApiKey]:
    """Return the keys that an actor administers, newest first."""
    with database.reading() as session:
        return keys.page(session, scope(actor), before=before, limit=limit)


def scope(actor: Actor) -> str | None:
    """Return the project whose rows an actor administers; None for all of them."""
    return None if actor.is_operator else actor.project_id


def _require(key: ApiKey | None) -> ApiKey:
    if key is None:
        raise NotFound
    return key


def _refuse_past(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        item = Problem("/expires_at", "in-the-past", "give a time to come")
        raise InvalidRequest("The key would have expired already.", items=[item])
