"""Credentials for other services: taken, kept sealed, and never shown again."""

from __future__ import annotations

import re
from datetime import datetime

from fastapi import APIRouter

from app.api.paging import Page
from app.api.views import View
from app.dependencies import ProjectDep, ResourcesDep
from app.integrations.shared.logins import Login
from app.integrations.systems import LOGINS
from app.services.tenancy import credentials

router = APIRouter(prefix="/v1", tags=["tenancy"])


class CredentialView(View):
    """A secret of another service, of which only the end is shown."""

    kind: str
    hint: str
    updated_at: datetime


@router.get("/credentials")
def list_credentials(resources: ResourcesDep, project: ProjectDep) -> Page[CredentialView]:
    """List the kinds of credentials that the project has."""
    rows = credentials.every(resources.database, project)
    return Page(items=[CredentialView.model_validate(row) for row in rows], next_cursor=None)


def _store(kind: str, login: type[Login]) -> None:
    """Add the endpoint that stores a project's login at one system."""

    def put(body: Login, resources: ResourcesDep, project: ProjectDep) -> CredentialView:
        row = credentials.put(resources.database, resources.settings, project, kind, body, hint=body.hint())
        return CredentialView.model_validate(row)

    put.__annotations__["body"] = login
    put.__name__ = "put_" + re.sub(r"(?<!^)(?=[A-Z])", "_", login.__name__).lower()
    router.put(f"/credentials/{kind}", description=login.about)(put)


for _kind, _login in LOGINS.items():
    _store(_kind, _login)


@router.delete("/credentials/{kind}", status_code=204)
def delete_credential(kind: str, resources: ResourcesDep, project: ProjectDep) -> None:
    """Forget a credential."""
    credentials.delete(resources.database, project, kind)
