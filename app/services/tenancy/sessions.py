"""Sign-ins to the portal: opaque cookies, ended by sign-out, by time, and by the end of the key that opened them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from datetime import timedelta

from app.db.queries.tenancy import audit, keys, projects, sign_ins
from app.db.session import Database, clock
from app.db.tenancy import PortalSession
from app.errors import NotFound
from app.platform.actor import DEFAULT_PROJECT, Actor, acting
from app.services.tenancy.actor_cache import MAX_CACHED, ActorCache
from app.services.tenancy.keys import UNKNOWN
from app.settings import Settings

REFUSED_EVERY_SECONDS = 60.0


def new_token() -> str:
    """Return a value for a cookie: 256 random bits."""
    return secrets.token_urlsafe(32)


class Sessions:
    """The sessions of the portal, with a cache of a few seconds per process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._cache = ActorCache()
        self._refused: dict[str, float] = {}

    def digest(self, token: str) -> str:
        """Return what is stored of a cookie."""
        return self._hmac("session", token)

    def csrf(self, token: str) -> str:
        """Return what a form must carry that a browser with this cookie posts."""
        return self._hmac("csrf", token)

    def open(self, actor: Actor) -> str:
        """Let somebody stay signed in; return the value of the cookie. Raises NotFound without a project."""
        token = new_token()
        with acting(actor), self._database.unit_of_work() as session:
            now = clock(session)
            if projects.get(session, actor.project_id) is None:
                raise NotFound("There is no project with this id.")
            sign_ins.forget(session, now=now)
            session.add(
                PortalSession(
                    digest=self.digest(token),
                    project_id=actor.project_id,
                    subject=actor.id,
                    key_id=actor.id if actor.type == "api_key" else None,
                    scopes=sorted(actor.scopes),
                    created_at=now,
                    expires_at=now + timedelta(hours=self._settings.portal_session_hours),
                )
            )
            audit.record(session, "portal.sign_in", actor.id, now=now)
        return token

    def note_refusal(self, who: str | None, why: str) -> None:
        """Write down, to the minute, that a person whom the identity provider sent was not let in."""
        name = who or UNKNOWN
        last = self._refused.get(name)
        if last is not None and time.monotonic() - last < REFUSED_EVERY_SECONDS:
            return
        if len(self._refused) > MAX_CACHED:
            self._refused.clear()
        self._refused[name] = time.monotonic()
        with self._database.unit_of_work() as session:
            audit.add(
                session,
                "portal.sign_in_refused",
                name,
                project_id=DEFAULT_PROJECT,
                by={"type": "user", "id": name},
                now=clock(session),
                data={"why": why},
            )

    def known(self, token: str) -> Actor | None:
        """Return who is signed in with a cookie, if that was read a moment ago; reads no database."""
        return self._cache.get(token)

    def find(self, token: str) -> Actor | None:
        """Return who is signed in with a cookie; None when the session, its key or its project has ended."""
        with self._database.reading() as session:
            now = clock(session)
            row = sign_ins.find(session, self.digest(token))
            project = projects.get(session, row.project_id) if row else None
            key = keys.get(session, row.key_id, project_id=None) if row and row.key_id else None
        if row is None or project is None or row.expires_at <= now:
            return None
        if row.key_id and (key is None or key.revoked_at or (key.expires_at and key.expires_at <= now)):
            return None
        actor = Actor(
            "api_key" if row.key_id else "user", row.subject, row.project_id, frozenset(row.scopes), project.quotas
        )
        self._cache.put(token, actor)
        return actor

    def close(self, token: str) -> None:
        """Sign out."""
        self._cache.drop(token)
        with self._database.unit_of_work() as session:
            sign_ins.end(session, self.digest(token))

    def _hmac(self, purpose: str, token: str) -> str:
        pepper = self._settings.api_key_pepper.get_secret_value().encode()
        return hmac.new(pepper, f"portal-{purpose}:{token}".encode(), hashlib.sha256).hexdigest()
