"""Admission of a request at POST: paths below the roots, and the model itself where it lies on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from sqlalchemy.orm import Session

from app.bodies.job import JobRequest, Limits
from app.db.upload import Upload
from app.errors import InvalidRequest, ModelRefused
from app.integrations.local.paths import refusal
from app.integrations.shared.sources import AtHand, ModelSource
from app.integrations.shared.targets import ResultTarget
from app.integrations.systems import LOGINS
from app.integrations.uploads.joining import absent
from app.integrations.uploads.source import UploadSource
from app.services.admission import routing, source_cache, text_checks
from app.services.admission.probe_cache import probe_cached
from app.services.admission.source_cache import CachedModel
from app.settings import Settings
from espalier.errors import Problem, SourceRefused
from espalier.memory import work
from espalier.probe import Matcher, ModelFacts, bad_patterns, check
from espalier.recipe.base import canonical
from espalier.recipe.hashes import work_hash
from espalier.recipe.resolution import resolve
from espalier.recipe.spec import ENGINE_VERSION, CompressionSpec
from espalier.recipe.steps.dataset import Dataset, LocalDataset, UploadDataset
from espalier.recipe.steps.prune import MOST_PATTERNS

MAX_SPEC_BYTES = 64 * 1024
"""Of a spec as it is stored: lists show 200 of them."""
FindUpload = Callable[[str, str], Upload | None]
"""(id, kind) -> a complete upload of the job's project."""
Named = ModelSource | Dataset
"""What a request names that has to be read."""
_TOO_MUCH = "The request asks for more than this service does for one job."


@dataclass(frozen=True)
class Admitted:
    """An admitted request and what is known of its work before it is a job: found out once, and carried on."""

    request: JobRequest
    worker_class: str
    mode: str = "production"
    spec: CompressionSpec | None = None
    """With every default filled in; None while the model is not known."""
    facts: ModelFacts | None = None
    """Of the model; None as the spec is."""
    revision: str | None = None
    """Of a model that an earlier job resolved."""
    work_hash: str | None = None
    """Of the result; None while the model or a text has not been seen."""

    @cached_property
    def works(self) -> Mapping[str, float]:
        """The operations, or bytes, of every phase; none while the model is not known."""
        if self.spec is None or self.facts is None:
            return {}
        return work.works(self.spec, self.facts.shape, file_bytes=self.facts.bytes)


@dataclass
class Desk:
    """Admits the requests of one call, and reads once what several of them name."""

    settings: Settings
    find_upload: FindUpload = lambda _id, _kind: None
    matcher: Matcher = field(default_factory=Matcher)
    _read: dict[str, ModelFacts | None] = field(default_factory=dict)
    _met: dict[str, CachedModel | None] = field(default_factory=dict)
    _data: dict[tuple[tuple[str, Dataset], ...], dict[str, str] | None] = field(default_factory=dict)
    _refused: dict[tuple[str, Named], list[Problem]] = field(default_factory=dict)
    _sizes: dict[Dataset, tuple[str, int] | None] = field(default_factory=dict)

    def admit(self, request: JobRequest) -> Admitted:
        """Check a request against its model, where that is on this machine; raises what must be refused."""
        if problems := [*self._unread(request), *_unpublishable(request, self.settings)]:
            raise InvalidRequest("The source or a data set cannot be read.", items=problems)
        _admit_size(request, self.settings)
        if problems := refused(request.spec, self.matcher):
            raise InvalidRequest("The spec cannot be used.", items=problems)
        facts = self._facts(request.source)
        spec = self._resolved(request.spec, facts) if facts else None
        if spec and (problems := list(self._too_short(spec))):
            raise InvalidRequest("The text is too short.", items=problems)
        worker_class = routing.require_class(self.settings, spec, facts, gpus=request.limits.gpus)
        return Admitted(request, worker_class, self.settings.mode, spec, facts)

    def identify(
        self, session: Session, project_id: str, admitted: Admitted, source: ModelSource | None = None
    ) -> Admitted:
        """Add what an earlier job found out about the model and the texts; raises what must be refused.

        Asked before a transaction is begun: patterns are matched and facts read, which nobody else should wait for.
        `source`: the request's own at a revision.
        """
        model = self._met_model(session, project_id, source or admitted.request.source)
        if model is None:
            return admitted
        spec = admitted.spec or self._resolved(admitted.request.spec, model.facts)
        gpus = admitted.request.limits.gpus
        work_hash = self._work_hash(session, project_id, model.revision, spec, gpus)
        known = replace(admitted, spec=spec, revision=model.revision, work_hash=work_hash)
        if admitted.facts is not None:
            return known
        worker_class = routing.require_class(self.settings, spec, model.facts, gpus=gpus)
        return replace(known, facts=model.facts, worker_class=worker_class)

    def _resolved(self, spec: CompressionSpec, facts: ModelFacts) -> CompressionSpec:
        """Fill in what a spec leaves to its model; raises InvalidRequest where it does not fit."""
        if problems := check(spec, facts, self.matcher):
            raise InvalidRequest("The spec does not fit the model.", items=problems)
        return resolve(spec, facts)

    def _met_model(self, session: Session, project_id: str, source: ModelSource) -> CachedModel | None:
        document = source.model_dump(mode="json")
        key = canonical(document)
        if key not in self._met:
            self._met[key] = source_cache.model(session, project_id, document)
        return self._met[key]

    def _work_hash(
        self, session: Session, project_id: str, revision: str, spec: CompressionSpec, gpus: int | None
    ) -> str | None:
        """Return the work hash of a resolved spec; None while one of its texts is not known."""
        named = tuple(spec.datasets.items())
        if named not in self._data:
            self._data[named] = source_cache.data_of(session, project_id, spec.datasets)
        data = self._data[named]
        if data is None:
            return None
        return work_hash(revision, data, spec.model_dump(mode="json"), ENGINE_VERSION, gpus=gpus)

    def _unread(self, request: JobRequest) -> Iterator[Problem]:
        for at, named in [("/source", request.source), *datasets_of(request)]:
            if (at, named) not in self._refused:
                self._refused[at, named] = list(self._unread_of(at, named))
            yield from self._refused[at, named]

    def _unread_of(self, at: str, named: Named) -> Iterator[Problem]:
        if isinstance(named, ModelSource):
            for problem in named.problems(self._at_hand):
                yield Problem(f"{at}{problem.pointer}", problem.code, problem.detail)
        elif isinstance(named, LocalDataset):
            if refused := refusal(f"{at}/path", named.path, self.settings, folder=False):
                yield refused
            else:
                yield from text_checks.unreadable(at, named)
        elif isinstance(named, UploadDataset) and self.find_upload(named.upload_id, "dataset") is None:
            yield absent(f"{at}/upload_id", "dataset")

    def _too_short(self, spec: CompressionSpec) -> Iterator[Problem]:
        """Yield which texts on this machine are too short for the windows of a resolved spec."""
        of = spec.calibration
        yield from self._shorter("calibration", of.dataset, of.samples * (of.sequence_length or 0), "samples")
        for index, item in enumerate(spec.evaluate.perplexity):
            at = f"evaluate/perplexity/{index}"
            yield from self._shorter(at, item.dataset, item.sequence_length or 0, "sequence_length")

    def _shorter(self, at: str, dataset: Dataset, tokens: int, fix: str) -> Iterator[Problem]:
        if dataset not in self._sizes:
            self._sizes[dataset] = self._size(dataset)
        if size := self._sizes[dataset]:
            yield from text_checks.too_short(f"/spec/{at}/dataset", *size, tokens=tokens, fix=fix)

    def _size(self, dataset: Dataset) -> tuple[str, int] | None:
        """Return name and size of a text that is on this machine."""
        if isinstance(dataset, LocalDataset):
            return Path(dataset.path).name, Path(dataset.path).stat().st_size
        row = self.find_upload(dataset.upload_id, "dataset") if isinstance(dataset, UploadDataset) else None
        return (row.files[0]["name"], row.files[0]["bytes"]) if row else None

    @property
    def _at_hand(self) -> AtHand:
        return AtHand(self.settings, self.find_upload, probe_cached)

    def _facts(self, source: ModelSource) -> ModelFacts | None:
        key = canonical(source.model_dump(mode="json"))
        if key not in self._read:
            try:
                self._read[key] = source.facts(self._at_hand)
            except SourceRefused as error:
                raise ModelRefused(error.at("/source")) from error
        return self._read[key]


def admit(request: JobRequest, settings: Settings, find_upload: FindUpload = lambda _id, _kind: None) -> Admitted:
    """Check one request against its model; raises what must be refused."""
    return Desk(settings, find_upload).admit(request)


def admit_limits(limits: Limits, settings: Settings) -> None:
    """Raise InvalidRequest where a job would run longer than the operator lets any."""
    if limits.max_run_seconds is not None and limits.max_run_seconds > settings.max_run_seconds:
        detail = f"a job here runs {settings.max_run_seconds:.0f} seconds at most (ESPALIER_MAX_RUN_SECONDS)"
        raise InvalidRequest(_TOO_MUCH, items=[Problem("/limits/max_run_seconds", "too-large", detail)])


def _admit_size(request: JobRequest, settings: Settings) -> None:
    admit_limits(request.limits, settings)
    if request.spec.retrain and request.spec.retrain.steps > settings.max_retrain_steps:
        detail = f"a retraining here takes {settings.max_retrain_steps} steps at most (ESPALIER_MAX_RETRAIN_STEPS)"
        raise InvalidRequest(_TOO_MUCH, items=[Problem("/spec/retrain/steps", "too-large", detail)])


def refused(spec: CompressionSpec, matcher: Matcher | None = None) -> list[Problem]:
    """Return why a new spec is refused, whatever its model; stored specs of before may be longer."""
    return [*_long(spec), *_many_patterns(spec), *bad_patterns(spec, matcher or Matcher())]


def _long(spec: CompressionSpec) -> Iterator[Problem]:
    if len(spec.model_dump_json()) > MAX_SPEC_BYTES:
        detail = f"the spec has {MAX_SPEC_BYTES >> 10} KiB at most, defaults included: name shares by the ends of names"
        yield Problem("/spec", "spec-too-long", detail)


def _many_patterns(spec: CompressionSpec) -> Iterator[Problem]:
    at = len(spec.structure)
    for name, patterns in ((n, getattr(step.targets, n)) for step in spec.masking for n in ("include", "exclude")):
        if len(patterns) > MOST_PATTERNS:
            detail = f"give {MOST_PATTERNS} patterns at most: several names fit one pattern, as in `(q|k)_proj`"
            yield Problem(f"/spec/prune/{at}/targets/{name}", "too-many-patterns", detail)


def _unpublishable(request: JobRequest, settings: Settings) -> Iterator[Problem]:
    """Yield why results cannot be published to the targets of a request."""
    for index, target in enumerate(request.spec.output.publish):
        assert isinstance(target, ResultTarget)
        for problem in target.problems(settings, request.source):
            yield Problem(f"/spec/output/publish/{index}{problem.pointer}", problem.code, problem.detail)


def uploads_of(request: JobRequest) -> list[tuple[str, str]]:
    """Return (kind, id) of every upload that a job names."""
    models = [("model", request.source.upload_id)] if isinstance(request.source, UploadSource) else []
    texts = (dataset for _, dataset in datasets_of(request) if isinstance(dataset, UploadDataset))
    return models + [("dataset", text.upload_id) for text in texts]


def systems_of(request: JobRequest) -> list[str]:
    """Return the kinds of the outside systems that a job reads."""
    read = {request.source.kind, *(dataset.kind for _, dataset in datasets_of(request))}
    return [kind for kind in LOGINS if kind in read]


def datasets_of(request: JobRequest) -> Iterator[tuple[str, Dataset]]:
    """Yield every data set that a job names, with its place in the request."""
    yield from ((f"/spec/{place}", dataset) for place, dataset in request.spec.datasets.items())
