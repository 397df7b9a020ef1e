"""What POST can know: paths below the roots, and the model itself where it lies on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.db.upload import Upload
from app.errors import InvalidRequest, NotAvailable, Problem, SourceRefused
from app.probe import ModelFacts, check, probe_again
from app.services import routing
from app.settings import Settings
from app.specs.base import canonical
from app.specs.dataset import Dataset, LocalDataset, UploadDataset
from app.specs.job import CompressionSpec, JobRequest
from app.specs.publish import MlflowTarget
from app.specs.resolve import resolve
from app.specs.source import REMOTE, LocalSource, MlflowSource, UploadSource

FindUpload = Callable[[str, str], Upload | None]
"""(id, kind) -> a complete upload of the job's project."""


@dataclass(frozen=True)
class Admitted:
    """What POST knows of a job: the spec with every default filled in, and the worker class that holds it."""

    spec: CompressionSpec | None
    worker_class: str
    facts: ModelFacts | None = None


def admit(request: JobRequest, settings: Settings, find_upload: FindUpload = lambda _id, _kind: None) -> Admitted:
    """Hold a request against its model, where that is at hand; raises what must be refused."""
    problems = [
        problem
        for pointer, path in _local_paths(request)
        if (problem := _refusal(pointer, path, settings, folder=pointer == "/source/path"))
    ]
    problems += [
        Problem(f"{pointer}/upload_id", "no-such-upload", f"there is no complete upload of a {kind} with this id")
        for pointer, kind, upload_id in _named_uploads(request)
        if find_upload(upload_id, kind) is None
    ]
    problems += _without_server(request, settings)
    if problems:
        raise InvalidRequest("The request names what the service does not read.", items=problems)
    if isinstance(request.source, REMOTE):
        return Admitted(None, routing.worker_class(settings, None, None))
    try:
        facts = _facts(request.source, settings, find_upload)
    except SourceRefused as error:
        raise error.at("/source") from error
    if problems := check(request.spec, facts):
        raise InvalidRequest("The spec does not fit the model.", items=problems)
    spec = resolve(request.spec, facts)
    return Admitted(spec, routing.worker_class(settings, spec, facts), facts)


def _without_server(request: JobRequest, settings: Settings) -> Iterator[Problem]:
    """Where a request needs MLflow and the service knows none, or takes for granted that its source is there."""
    from_mlflow = isinstance(request.source, MlflowSource)
    places = ["/source/kind"] if from_mlflow else []
    for index, target in enumerate(request.spec.output.publish):
        if isinstance(target, MlflowTarget):
            places.append(f"/spec/output/publish/{index}/kind")
            if target.name is None and not from_mlflow:
                detail = "the model does not come from MLflow: name the registered model that takes the new version"
                yield Problem(f"/spec/output/publish/{index}", "no-name", detail)
    if settings.mlflow_tracking_uri is None:
        detail = "the service knows no MLflow server: its operator sets ESPALIER_MLFLOW_TRACKING_URI"
        yield from (Problem(place, "no-mlflow-server", detail) for place in places)


def _facts(source: LocalSource | UploadSource, settings: Settings, find_upload: FindUpload) -> ModelFacts:
    if isinstance(source, LocalSource):
        return probe_again(Path(source.path).resolve(), settings.roots)
    upload = find_upload(source.upload_id, "model")
    assert upload is not None
    return ModelFacts.model_validate_json(canonical(upload.facts))


def uploads_of(request: JobRequest) -> list[tuple[str, str]]:
    """Return (kind, id) of every upload that a job names."""
    return [(kind, upload_id) for _, kind, upload_id in _named_uploads(request)]


def _named_uploads(request: JobRequest) -> Iterator[tuple[str, str, str]]:
    if isinstance(request.source, UploadSource):
        yield "/source", "model", request.source.upload_id
    for pointer, dataset in datasets_of(request):
        if isinstance(dataset, UploadDataset):
            yield pointer, "dataset", dataset.upload_id


def _local_paths(request: JobRequest) -> Iterator[tuple[str, str]]:
    if isinstance(request.source, LocalSource):
        yield "/source/path", request.source.path
    for pointer, dataset in datasets_of(request):
        if isinstance(dataset, LocalDataset):
            yield f"{pointer}/path", dataset.path


def datasets_of(request: JobRequest) -> Iterator[tuple[str, Dataset]]:
    """Yield every data set that a job names, with its place in the request."""
    spec = request.spec
    datasets = {"/spec/calibration/dataset": spec.calibration.dataset}
    if spec.retrain and spec.retrain.dataset:
        datasets["/spec/retrain/dataset"] = spec.retrain.dataset
    for index, item in enumerate(spec.evaluate.perplexity):
        datasets[f"/spec/evaluate/perplexity/{index}/dataset"] = item.dataset
    yield from datasets.items()


def _refusal(pointer: str, path: str, settings: Settings, *, folder: bool) -> Problem | None:
    """Why a path is not read; outside of the roots nothing tells whether it exists."""
    if settings.mode == "production":
        return Problem(pointer, NotAvailable.code, "local paths are off in production")
    try:
        resolved = Path(path).resolve() if Path(path).is_absolute() else None
        if resolved is None or not any(resolved.is_relative_to(root) for root in settings.roots):
            return Problem(
                pointer, "outside-roots", "give an absolute path below one of the folders in ESPALIER_LOCAL_ROOTS"
            )
        if not (resolved.is_dir() if folder else resolved.is_file()):
            return Problem(pointer, "no-such-folder" if folder else "no-such-file", "there is nothing at this path")
    except (OSError, RuntimeError):  # a name longer than the file system takes, or a link that leads back to itself
        return Problem(pointer, "bad-path", "no file can have this name")
    return None
