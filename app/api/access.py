"""Middleware that authenticates API keys and checks their scopes before a byte of the body is read."""

from __future__ import annotations

import re
from typing import Final

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.bodies.access import Scope as KeyScope
from app.errors import AppError, Forbidden, NotReady, Unauthenticated
from app.platform.actor import LOCAL, Actor, acting
from app.platform.loopback import require_loopback
from app.services.jobs import rights
from app.services.tenancy.keys import ApiKeyAuthenticator
from app.settings import Settings

_READ = frozenset({"GET", "HEAD"})
_RULES: Final[list[tuple[str, KeyScope | None, KeyScope]]] = [
    # path, scope to read (None: any key), scope to change; the first match counts. Some endpoints take more scopes
    # than one, by what comes in: see app.services.jobs.rights
    (r"/v1/(methods|spec-schema|usage)", None, "admin"),
    (r"/v1/jobs/[^/]+/publications.*", "jobs:read", "models:write"),
    (r"/v1/jobs/[^/]+/(cancel|pause|resume)", "jobs:read", "jobs:cancel"),
    (r"/v1/sweeps/[^/]+/cancel", "jobs:read", "jobs:cancel"),
    (r"/v1/(jobs/[^/]+/artifacts|artifacts/.+)", "artifacts:read", "admin"),
    (r"/v1/uploads.*", "models:write", "models:write"),
    (r"/v1/webhook-endpoints.*", "webhooks:manage", "webhooks:manage"),
    (r"/v1/(hook-sources|hook-deliveries|hook-proposals|rules).*", "hooks:manage", "hooks:manage"),
    (r"/v1/(projects|api-keys|credentials|audit-events).*", "admin", "admin"),
    (r"/v1/workers.*", "jobs:read", "admin"),
    (r"/v1/(jobs|events|plans|presets|sweeps|levels|models|queues).*", "jobs:read", "jobs:write"),
]
_PUBLIC = re.compile(r"/v1/hooks/[^/]+")
"""Registries bring credentials of their own."""


def required_scope(method: str, path: str) -> KeyScope | None:
    """Return the scope that a call takes; None where any key will do."""
    reading, changing = rule_of(path) or ("admin", "admin")
    return reading if method in _READ else changing


def rule_of(path: str) -> tuple[KeyScope | None, KeyScope] | None:
    """Return the scopes for reading and for changing; None for a path without a rule."""
    # DOTALL: a path may hold a line break, and must not slip through a rule with it.
    scopes = ((reading, changing) for rule, reading, changing in _RULES if re.fullmatch(rule, path, re.DOTALL))
    return next(scopes, None)


def takes_no_key(path: str) -> bool:
    """Tell whether a path is served without a key."""
    return not path.startswith("/v1/") or _PUBLIC.fullmatch(path) is not None


class AccessGuard:
    """Authenticates a call, refuses one without the scope, and binds the actor to the request and its log."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._authenticator: ApiKeyAuthenticator | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request if its key has the scope."""
        path = scope["path"] if scope["type"] == "http" else ""
        if takes_no_key(path):
            await self.app(scope, receive, send)
            return
        try:
            actor = await self._actor(scope)
            wanted = required_scope(scope["method"], path)
            if wanted and not rights.has(actor, wanted):
                raise Forbidden(f"This call needs an API key with the scope `{wanted}`.")
        except AppError as error:
            await problem_response(scope, error)(scope, receive, send)
            return
        except (OperationalError, PoolTimeout):
            refusal = NotReady("The database does not answer.", headers={"Retry-After": "2"})
            await problem_response(scope, refusal)(scope, receive, send)
            return
        scope["state"]["actor"] = actor
        named = {"project_id": actor.project_id, "actor_id": actor.id}
        with acting(actor), structlog.contextvars.bound_contextvars(**named):
            await self.app(scope, receive, send)

    async def _actor(self, scope: Scope) -> Actor:
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not scheme and self._settings.mode == "embedded":
            require_loopback(headers, self._settings.host)
            actor = LOCAL
        else:
            if scheme.lower() != "bearer":
                raise Unauthenticated
            authenticator = self._authenticator_of(scope)
            actor = await self._holder(authenticator, token)
            authenticator.take(actor)
        return Actor(
            actor.type, actor.id, actor.project_id, actor.scopes, actor.limits, scope["state"].get("request_id")
        )

    @staticmethod
    async def _holder(authenticator: ApiKeyAuthenticator, token: str) -> Actor:
        if cached := authenticator.known(token):
            return cached
        return await run_in_threadpool(authenticator.verify, token)

    def _authenticator_of(self, scope: Scope) -> ApiKeyAuthenticator:
        if self._authenticator is None:
            self._authenticator = ApiKeyAuthenticator(scope["app"].state.resources.database, self._settings)
        return self._authenticator
