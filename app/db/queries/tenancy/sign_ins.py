"""Statements about sign-ins to the portal."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.db.tenancy import PortalSession


def find(session: Session, digest: str) -> PortalSession | None:
    """Return the sign-in of a cookie, by its digest."""
    return session.get(PortalSession, digest)


def end(session: Session, digest: str) -> None:
    """Delete the sign-in of a cookie."""
    session.execute(delete(PortalSession).where(PortalSession.digest == digest))


def forget(session: Session, *, now: datetime) -> None:
    """Delete sign-ins whose time is over."""
    session.execute(delete(PortalSession).where(PortalSession.expires_at <= now))
