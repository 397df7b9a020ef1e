"""Cache of resolved sources and texts: pinned ones that a job has read keep their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.queries.jobs import reuse
from app.db.queries.jobs.results import upsert
from app.db.reuse import KnownContent
from app.integrations.shared.sources import ModelSource, TextSource
from app.integrations.systems import read_source, read_text
from espalier.probe import ModelFacts
from espalier.recipe.base import fingerprint
from espalier.recipe.steps.dataset import Dataset


@dataclass(frozen=True)
class CachedModel:
    """The revision and the facts of a resolved source."""

    revision: str
    facts: ModelFacts


def source_key(document: Mapping[str, Any]) -> str | None:
    """Return the cache key of a pinned source; None for a mutable reference, such as a branch."""
    try:
        return _key("model", document, read_source(document))
    except (KeyError, ValidationError):  # written by another version
        return None


def text_key(document: Mapping[str, Any], *, evaluates: bool) -> str | None:
    """Return the cache key of a pinned text; what a data set without a split means depends on its use."""
    try:
        key = _key("text", document, read_text(document))
    except (KeyError, ValidationError):
        return None
    return f"{key}-{'evaluation' if evaluates else 'train'}" if key else None


def _key(role: str, document: Mapping[str, Any], declared: ModelSource | TextSource) -> str | None:
    parts = declared.unchanging()
    return fingerprint([role, dict(document), *parts]) if parts is not None else None


def texts_of(datasets: Mapping[str, Dataset]) -> dict[str, str]:
    """Return fingerprint -> cache key of data sets, by place in their spec; those that are not pinned are left out."""
    keys = {}
    for place, dataset in datasets.items():
        document = dataset.model_dump(mode="json")
        if key := text_key(document, evaluates=place.startswith("evaluate/")):
            keys[fingerprint(document)] = key
    return keys


def remember(session: Session, project_id: str, documents: Mapping[str, Mapping[str, Any]], *, now: datetime) -> None:
    """Store what keys were resolved to."""
    rows = [
        {"project_id": project_id, "key": key, "document": dict(document), "seen_at": now}
        for key, document in documents.items()
    ]
    upsert(session, KnownContent, rows)


def recall(session: Session, project_id: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the cached documents of keys."""
    return reuse.known_content(session, project_id, list(keys))


def model(session: Session, project_id: str, source: Mapping[str, Any]) -> CachedModel | None:
    """Return the cached model of a pinned source."""
    key = source_key(source)
    document = recall(session, project_id, [key]).get(key) if key else None
    try:
        return CachedModel(document["revision"], ModelFacts.model_validate(document["facts"])) if document else None
    except (ValidationError, KeyError):  # written by another version
        return None


def data_of(session: Session, project_id: str, datasets: Mapping[str, Dataset]) -> dict[str, str] | None:
    """Return the sha256 of data sets by fingerprint, given by place; None while one of them is not known."""
    keys = texts_of(datasets)
    known = recall(session, project_id, keys.values())
    data = {name: known[key]["sha256"] for name, key in keys.items() if key in known}
    named = {fingerprint(dataset.model_dump(mode="json")) for dataset in datasets.values()}
    return data if named == set(data) else None
