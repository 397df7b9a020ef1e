"""The end of an artifact: its report, its model card and, last, the manifest of all of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.export.card import card
from espalier.export.files import describe, write_json
from espalier.export.relative_paths import WHERE_TO, without_local_paths
from espalier.export.report import build
from espalier.formats import FORMATS
from espalier.messages import ArtifactFile, Done
from espalier.model.weights import source_files
from espalier.recipe.spec import SCHEMA_VERSION
from espalier.session import Session


def write(session: Session) -> Done:
    """Write what goes beside the model; return the report, the gate's verdict and the files."""
    folder = session.artifact_dir
    report = without_local_paths(session, build(session))
    write_json(folder / "report.json", report)
    (folder / "README.md").write_text(card(session, report), encoding="utf-8")
    if not FORMATS[session.request.spec.output.format].keeps_dense:
        _drop_dense(folder)
    others = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
    written = session.results.written
    files = [describe(folder, path, known={**written.sha256, **written.others}) for path in others]
    write_json(folder / "manifest.json", _manifest(session, files))
    files.append(describe(folder, folder / "manifest.json"))
    return Done(report=report, gate=report["gate"], files=files)


def _drop_dense(folder: Path) -> None:
    for path in source_files(folder):
        path.unlink()


def _manifest(session: Session, files: list[ArtifactFile]) -> dict[str, Any]:
    spec, unpacked = session.request.spec, session.results.written.unpacked
    seeds = {"calibration": spec.calibration.seed}
    if spec.retrain is not None:
        seeds["retrain"] = spec.retrain.seed
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"name": session.request.source_name, "revision": session.request.revision},
        # A reused result may be published elsewhere, and its readers must not learn of the other places.
        "spec": without_local_paths(session, spec.model_dump(mode="json", exclude=WHERE_TO)),
        "seeds": seeds,
        "versions": session.results.environment,
        "files": [file.model_dump() for file in files],
        **({"unpacked": unpacked} if unpacked else {}),
    }
