"""What was done in a project, and by whom; written by `queries/tenancy/audit` in the transactions that do it."""

from __future__ import annotations

from collections.abc import Sequence

from app.db.queries.tenancy import audit
from app.db.session import Database
from app.db.tenancy import AuditEvent


def page(
    database: Database, project_id: str, *, before: str | None, limit: int, action: str = "", actor: str = ""
) -> Sequence[AuditEvent]:
    """Return what was done, newest first: all of it, or what an action begins with and somebody did."""
    with database.reading() as session:
        return audit.page(session, project_id, before=before, limit=limit, action=action, actor=actor)
