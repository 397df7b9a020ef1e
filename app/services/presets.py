"""A project's presets: every change is a version, the newest counts, and what ships with the service is version 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.planning import Preset
from app.db.queries.requests import planning
from app.db.queries.tenancy import audit
from app.db.session import Database, clock
from app.errors import InvalidRequest, NotFound, QuotaExceeded
from app.services.admission.admit import refused
from app.services.jobs import rights
from espalier.errors import Problem
from espalier.recipe.base import canonical
from espalier.recipe.presets import BUILT_IN, Lookup, PresetVersion, shipped
from espalier.recipe.spec import CompressionSpec

MAX_PRESETS = 100
"""Of a project; every list shows all of them."""


def lookup(database: Database, project_id: str) -> Lookup:
    """Return how a project's own presets are found."""

    def find(name: str, version: int | None) -> PresetVersion | None:
        with database.reading() as session:
            row = planning.preset(session, project_id, name, version=version)
        return _of_row(row) if row is not None and row.spec is not None else None

    return find


def get(database: Database, project_id: str, name: str) -> PresetVersion:
    """Return a preset by `name` or `name@version`; raises NotFound."""
    base, _, version = name.partition("@")
    number = int(version) if version.isdecimal() and len(version) < 7 else None
    preset = lookup(database, project_id)(base, number) if not version or number else None
    if preset is None and (not version or number):
        preset = shipped(base, number)
    if preset is None:
        raise NotFound
    return preset


def every(database: Database, project_id: str) -> Sequence[PresetVersion]:
    """Return the newest version of every preset."""
    with database.reading() as session:
        own = {row.name: _of_row(row) for row in planning.newest_presets(session, project_id)}
    return sorted({**BUILT_IN, **own}.values(), key=lambda preset: preset.name)


def put(database: Database, project_id: str, name: str, *, description: str, spec: dict[str, Any]) -> PresetVersion:
    """Write the next version of a preset; raises InvalidRequest where the spec could never be a part of one."""
    _check(spec)
    rights.require_to_publish(rights.targets_in(spec))
    with database.unit_of_work() as session:
        row = _next(session, project_id, name, description, spec)
        audit.record(session, "preset.change", row.name, now=row.created_at, version=row.version)
    return _of_row(row)


def delete(database: Database, project_id: str, name: str) -> None:
    """Forget a project's own preset; its old versions can still be named. Raises NotFound."""
    with database.unit_of_work() as session:
        row = planning.preset(session, project_id, name)
        if row is None or row.spec is None:
            raise NotFound("There is no preset of your own with this name.")
        _next(session, project_id, name, "", None)
        audit.record(session, "preset.delete", name, now=clock(session))


def _next(session: Session, project_id: str, name: str, description: str, spec: dict[str, Any] | None) -> Preset:
    newest = planning.preset(session, project_id, name)
    if newest is None and planning.count_presets(session, project_id) >= MAX_PRESETS:
        raise QuotaExceeded(f"The project has {MAX_PRESETS} presets of its own, deleted ones included.")
    built_in = BUILT_IN.get(name)
    version = max((preset.version for preset in (newest, built_in) if preset), default=0)
    row = Preset(
        project_id=project_id,
        name=name,
        version=version + 1,
        description=description,
        spec=spec,
        created_at=clock(session),
    )
    session.add(row)
    session.flush()
    return row


def _of_row(row: Preset) -> PresetVersion:
    assert row.spec is not None
    return PresetVersion(row.name, row.version, row.description, row.spec)


def _check(spec: dict[str, Any]) -> None:
    if "preset" in spec:
        raise InvalidRequest(
            "A preset cannot reference another preset.",
            items=[Problem("/spec/preset", "nested-preset", "leave it out")],
        )
    whole = {"prune": {"method": "magnitude", "sparsity": 0.5}, **spec}
    try:
        read = CompressionSpec.model_validate_json(canonical(whole))
    except ValidationError as error:
        items = [
            Problem(
                "".join(f"/{part}" for part in ("spec", *item["loc"])), str(item["type"]).replace("_", "-"), item["msg"]
            )
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise InvalidRequest("The preset is not a valid partial spec.", items=items) from None
    if problems := refused(read):
        raise InvalidRequest("The spec cannot be used.", items=problems)
