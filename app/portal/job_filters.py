"""The filters of the list of jobs, as they stand in an address that people make with a form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from app.db.lifecycle import STATES
from app.db.queries.jobs.jobs import Filters

_LABEL = re.compile(r"[A-Za-z0-9][\w./-]{0,62}=.{0,255}", re.DOTALL)
_JOB = re.compile(r"job_[0-9A-Z]{26}")


@dataclass(frozen=True)
class JobFilters:
    """The filters of an address, and the error of each that is invalid."""

    states: tuple[str, ...] = ()
    label: str = ""
    model: str = ""
    method: str = ""
    after: str = ""
    """Day of creation, from here on."""
    before: str = ""
    """Day of creation, up to here."""
    cursor: str | None = None
    """The job that the page comes behind."""
    wrong: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, query: QueryParams) -> JobFilters:
        """Parse an address; invalid filters are noted and left out of the search."""
        states = tuple(state for state in dict.fromkeys(query.getlist("state")) if state in STATES)
        texts = {name: query.get(name, "").strip()[:300] for name in ("label", "model", "method", "after", "before")}
        wrong = {}
        if texts["label"] and not _LABEL.fullmatch(texts["label"]):
            wrong["label"] = "Write key=value."
        for name in ("after", "before"):
            if texts[name] and _day(texts[name]) is None:
                wrong[name] = "Write a day as 2026-11-21."
        cursor = query.get("cursor", "")
        return cls(states, **texts, cursor=cursor if _JOB.fullmatch(cursor) else None, wrong=wrong)

    def filters(self) -> Filters:
        """Return the filters of the statement."""
        key, _, value = self.label.partition("=")
        until = _day(self.before)
        return Filters(
            self.states,
            [(key, value)] if self.label and "label" not in self.wrong else [],
            self.model or None,
            self.method or None,
            _day(self.after),
            until + timedelta(days=1) if until else None,
        )

    @property
    def active(self) -> bool:
        """Whether anything is left out of the list."""
        return bool(self.states or self.label or self.model or self.method or self.after or self.before)

    def url(self, *, cursor: str | None = None, **changed: str | tuple[str, ...]) -> str:
        """Return the address of these filters with changes, from another place of the list."""
        now = replace(self, **changed)  # type: ignore[arg-type]
        pairs = [("state", state) for state in now.states]
        pairs += [(name, getattr(now, name)) for name in ("label", "model", "method", "after", "before")]
        pairs += [("cursor", cursor or "")]
        query = urlencode([(name, value) for name, value in pairs if value])
        return f"/portal/jobs?{query}" if query else "/portal/jobs"


def _day(text: str) -> datetime | None:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return day if 1970 < day.year < 9999 else None
