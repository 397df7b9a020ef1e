"""Round robin over the projects that have something due in a table: each comes before any comes twice."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from app.db.base import OfProject


class ProjectRoundRobin:
    """The project that was served last; per process, so that several go round independently."""

    def __init__(self) -> None:
        self.last = ""

    def round(self, session: Session, table: type[OfProject], due: ColumnElement[bool]) -> Iterator[str]:
        """Yield the projects with due rows, from the one after the last served; who takes one becomes the last."""
        start = at = self.last
        for bound in (None, start):
            while True:
                later = table.project_id > at
                if bound is not None:
                    later = and_(later, table.project_id <= bound)
                query = select(table.project_id).where(due, later).order_by(table.project_id).limit(1)
                project_id: str | None = session.scalar(query)
                if project_id is None:
                    break
                at = self.last = project_id
                yield project_id
            at = ""
