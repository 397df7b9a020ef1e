"""Lookup of a source: its facts, as far as they are known without running a job."""

from __future__ import annotations

from typing import Any

from app.bodies.job import JobRequest
from app.db.session import clock
from app.errors import ModelRefused
from app.integrations.shared.sources import ModelSource, SourceInspection
from app.services import uploads
from app.services.admission import bounded, source_cache
from app.services.admission.admit import admit
from app.services.resources import Resources
from espalier.errors import SourceRefused
from espalier.families import family_of
from espalier.probe.config import why_not
from espalier.recipe.spec import CompressionSpec

_ANY = CompressionSpec.model_validate({"prune": []})
_UNKNOWN: dict[str, Any] = dict.fromkeys(
    (
        "revision",
        "architecture",
        "model_type",
        "parameters",
        "bytes",
        "dtype",
        "max_positions",
        "num_blocks",
        "licence",
    )
)


def resolve(resources: Resources, project_id: str, source: ModelSource) -> dict[str, Any]:
    """Describe a source: read where it lies here, remembered at a commit that was met, or asked for at the Hub."""
    with resources.database.reading() as session:
        met = source_cache.model(session, project_id, source.model_dump(mode="json"))
    facts, revision = (met.facts, met.revision) if met else (None, None)
    try:
        if facts is None and (inspection := inspect(resources, project_id, source)) is not None:
            facts, revision = inspection.facts, inspection.revision
            if facts is None:
                return {**_UNKNOWN, **inspection.shown, "revision": revision, **_as_unsupported(inspection)}
        if facts is None:
            request = JobRequest(source=source, spec=_ANY)
            facts = admit(
                request,
                resources.settings,
                lambda id_, kind: uploads.finished(resources.database, project_id, id_, kind),
            ).facts
    except (SourceRefused, ModelRefused) as error:
        return {**_UNKNOWN, "resolved": True, "supported": False, "why_not": error.detail, "warnings": []}
    if facts is None:
        why = "Only a job looks into such a source, with its project's login; it is resolved when one runs."
        warning = {"code": "source_not_seen", "text": why}
        return {**_UNKNOWN, "resolved": False, "supported": None, "why_not": why, "warnings": [warning]}
    shown = {name: getattr(facts, name) for name in _UNKNOWN if name != "revision"}
    return {**shown, "revision": revision, "resolved": True, "supported": True, "why_not": None, "warnings": []}


def inspect(resources: Resources, project_id: str, source: ModelSource) -> SourceInspection | None:
    """Ask what a model is, and remember it at its revision; raises SourceRefused for what no job can work on."""
    inspection = source.inspect(resources.settings, bounded, owner=project_id)
    if inspection is not None and inspection.facts is not None and inspection.revision is not None:
        key = source_cache.source_key(source.at(inspection.revision).model_dump(mode="json"))
        assert key is not None, "what can be looked at without a login is pinned by its revision"
        document = {"revision": inspection.revision, "facts": inspection.facts.model_dump(mode="json")}
        with resources.database.unit_of_work() as session:
            source_cache.remember(session, project_id, {key: document}, now=clock(session))
    return inspection


def _as_unsupported(inspection: SourceInspection) -> dict[str, Any]:
    kind = inspection.shown.get("model_type")
    refused = kind is not None and family_of(kind) is None
    return {
        "resolved": False,
        "supported": False if refused else None,
        "why_not": f"{why_not(kind).detail} {inspection.why}" if refused else inspection.why,
        "warnings": [{"code": inspection.code, "text": inspection.why}],
    }
