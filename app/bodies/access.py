"""Request bodies of scopes, API keys, projects and their quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

from pydantic import AwareDatetime, BeforeValidator, Field

from app.integrations.systems import LOGINS
from espalier.recipe.base import Spec

Scope = Literal[
    "jobs:read",  # read jobs, presets, sweeps, queues, usage
    "jobs:write",  # create and change jobs, plans, presets, sweeps
    "jobs:cancel",  # cancel, pause, resume
    "artifacts:read",  # list and download results
    "models:write",  # upload models and text, publish results
    "hooks:manage",  # sources of registry events, rules
    "webhooks:manage",  # endpoints that events are sent to
    "admin",  # all of these; keys, credentials, projects, audit
]
SCOPES: tuple[Scope, ...] = get_args(Scope)

Name = Annotated[str, Field(min_length=1, max_length=200)]
# JSON knows no times: a strict model would take none.
Time = Annotated[AwareDatetime, BeforeValidator(lambda value: value), Field(strict=False)]


class Quotas(Spec):
    """Bounds of a project; null for none."""

    max_queued_jobs: int | None = Field(None, ge=0, le=10**9, description="Beyond: 429.")
    max_running_jobs: int | None = Field(None, ge=0, le=10**6, description="Beyond: jobs wait, `wait_reason` quota.")
    max_stored_bytes: int | None = Field(None, ge=0, le=2**60, description="Artifacts and uploads; beyond: 429.")
    max_gpu_seconds: int | None = Field(None, ge=0, le=10**12, description="In a calendar month (UTC); beyond: 429.")
    max_requests_per_second: int | None = Field(
        None, ge=1, le=10**6, description="Of each key at each API process; beyond: 429."
    )


LENT: Final = tuple(kind for kind, login in LOGINS.items() if login.lent)
"""Systems where the operator may have a login for projects that have none."""
if TYPE_CHECKING:
    Lent = str
else:
    Lent = Literal[LENT]
SharedLogins = Annotated[
    list[Lent],
    Field(max_length=len(LENT), description="What it may reach with the operator's login, having none of its own."),
]


class ProjectRequest(Spec):
    """A tenant."""

    name: Name
    quotas: Quotas = Quotas()
    shared_logins: SharedLogins = []
    allow_high_priority: bool = Field(False, description="Whether its jobs may ask for priority `high`.")


class ProjectChange(Spec):
    """Changes of a project; fields left out stay."""

    name: Name | None = None
    quotas: Quotas | None = Field(None, description="All of them: what is left out of it has no bound.")
    shared_logins: SharedLogins | None = None
    allow_high_priority: bool | None = Field(None, description="Whether its jobs may ask for priority `high`.")


class KeyRequest(Spec):
    """An API key; its secret is in the answer and never again."""

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=len(SCOPES))
    expires_at: Time | None = Field(None, description="RFC 3339; null: never.")
    project_id: str | None = Field(
        None, max_length=64, description="Default: the caller's. Another one takes an admin of the default project."
    )


class KeyChange(Spec):
    """Changes of a key; fields left out stay."""

    name: Name | None = None
    expires_at: Time | None = None
