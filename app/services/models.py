"""What a source is, as far as that is known without running a job."""

from __future__ import annotations

from typing import Any

from app.errors import SourceRefused
from app.services import known, uploads
from app.services.admission import admit
from app.services.resources import Resources
from app.specs.job import CompressionSpec, JobRequest
from app.specs.source import HuggingFaceSource, LocalSource, UploadSource

_ANY = CompressionSpec.model_validate({"prune": []})
_UNKNOWN: dict[str, Any] = dict.fromkeys(
    (
        "revision", "architecture", "model_type", "parameters", "bytes", "dtype", "max_positions", "num_blocks",
        "licence",
    )
)  # fmt: skip


def resolve(
    resources: Resources, project_id: str, source: HuggingFaceSource | LocalSource | UploadSource
) -> dict[str, Any]:
    """Describe a source: read where it lies here, remembered where a job has met it at this commit."""
    with resources.database.reading() as session:
        met = known.model(session, project_id, source.model_dump(mode="json"))
    facts, revision = (met.facts, met.revision) if met else (None, None)
    if facts is None:
        try:
            request = JobRequest(source=source, spec=_ANY)
            facts = admit(
                request, resources.settings,
                lambda id_, kind: uploads.finished(resources.database, project_id, id_, kind),
            ).facts  # fmt: skip
        except SourceRefused as error:
            return {
                **_UNKNOWN,
                "resolved": True,
                "supported": False,
                "why_not": f"{error.message} {error.hint}".strip(),
            }
    if facts is None:
        why = "No job has met this source at this commit yet; it is resolved when one runs."
        return {**_UNKNOWN, "resolved": False, "supported": None, "why_not": why}
    shown = {name: getattr(facts, name) for name in _UNKNOWN if name != "revision"}
    return {**shown, "revision": revision, "resolved": True, "supported": True, "why_not": None}
