"""Delete stale uploads, parts without an upload, and everything of deleted projects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import groupby
from typing import Final

import structlog

from app.db.queries.requests import uploads
from app.db.queries.tenancy import projects
from app.db.session import Database, clock
from app.storage.base import ObjectStore

STALE_AGE: Final = timedelta(days=1)
"""After its last part an open upload is kept so long."""

log = structlog.get_logger(__name__)


def abort_uploads(database: Database, store: ObjectStore) -> int:
    """Remove open uploads that stand still, and their parts; return how many."""
    with database.unit_of_work() as session:
        rows = uploads.stale(session, clock(session) - STALE_AGE)
        for row in rows:
            session.delete(row)
    # The rows go first: parts that are left behind are collected as garbage.
    for row in rows:
        store.delete_prefix(row.prefix)
        log.info("upload aborted", upload_id=row.id, project_id=row.project_id)
    return len(rows)


def end_ownerless(database: Database) -> int:
    """Delete rows of projects that no longer exist; return how many projects."""
    with database.reading() as session:
        project_ids = projects.ownerless(session)
    for project_id in sorted(project_ids):
        with database.unit_of_work() as session:
            if projects.get(session, project_id, lock=True) is None:
                projects.delete_owned(session, project_id)
        log.warning("rows of a deleted project removed", project_id=project_id)
    return len(project_ids)


def collect_ownerless(database: Database, store: ObjectStore, keys: Iterable[str]) -> set[str]:
    """Delete files below the prefix of projects that are not there, however young, and return their keys.

    The keys were listed before: a project that was made since has none among them.
    """
    with database.reading() as session:
        there = projects.ids(session)
    gone = {key for key in keys if key.split("/")[1] not in there}
    for key in gone:
        store.delete(key)
    return gone


def collect_parts(database: Database, store: ObjectStore, old: Iterable[str]) -> int:
    """Delete old parts of uploads that are not there; return how many."""
    removed = 0
    parts = [key for key in old if key.split("/")[2:3] == ["uploads"]]
    for upload_id, keys in groupby(parts, key=lambda key: key.split("/")[3]):
        with database.reading() as session:
            there = uploads.existing(session, [upload_id])
        for key in keys if not there else ():
            store.delete(key)
            removed += 1
    return removed
