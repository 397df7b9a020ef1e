"""What a source is, as far as that is known without running a job."""

from __future__ import annotations

from typing import Any

from app.bodies.job import JobRequest
from app.db.session import clock
from app.errors import ModelRefused
from app.integrations.shared.sources import Look, ModelSource
from app.services import uploads
from app.services.admission import bounded, known
from app.services.admission.admit import admit
from app.services.resources import Resources
from espalier.errors import SourceRefused
from espalier.families import FAMILIES
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
        met = known.model(session, project_id, source.model_dump(mode="json"))
    facts, revision = (met.facts, met.revision) if met else (None, None)
    try:
        if facts is None and (seen := look_up(resources, project_id, source)) is not None:
            facts, revision = seen.facts, seen.revision
            if facts is None:
                return {**_UNKNOWN, **seen.shown, "revision": revision, **_unseen(seen)}
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


def look_up(resources: Resources, project_id: str, source: ModelSource) -> Look | None:
    """Ask what a model is, and remember it at its revision; raises SourceRefused for what no job can work on."""
    seen = source.look(resources.settings, bounded, owner=project_id)
    if seen is not None and seen.facts is not None and seen.revision is not None:
        key = known.source_key(source.at(seen.revision).model_dump(mode="json"))
        assert key is not None, "what can be looked at without a login is pinned by its revision"
        document = {"revision": seen.revision, "facts": seen.facts.model_dump(mode="json")}
        with resources.database.unit_of_work() as session:
            known.remember(session, project_id, {key: document}, now=clock(session))
    return seen


def _unseen(seen: Look) -> dict[str, Any]:
    kind = seen.shown.get("model_type")
    refused = kind is not None and kind not in FAMILIES
    return {
        "resolved": False,
        "supported": False if refused else None,
        "why_not": f"{why_not(kind).detail} {seen.why}" if refused else seen.why,
        "warnings": [{"code": seen.code, "text": seen.why}],
    }
