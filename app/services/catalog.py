"""The catalog: models that were compressed, their best results, and publications that were compressed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.queries.jobs import catalog
from app.db.session import Database
from app.errors import NotFound
from app.integrations.systems import target_name
from app.services.sweeps.pareto import pareto_front

MAX_MODELS, MAX_RESULTS, MAX_PUBLISHED = 200, 1000, 200
"""What one page shows, the newest of each."""


@dataclass(frozen=True)
class Result:
    """The result of one succeeded job."""

    job_id: str
    name: str
    method: str
    created_at: datetime
    sparsity: float | None
    dense: dict[str, Any]
    compressed: dict[str, Any]
    """The parts of its report."""

    def perplexity(self, metric: str) -> float | None:
        """Return one perplexity of the result; None where it was not measured."""
        value = (self.compressed.get("perplexity") or {}).get(metric)
        return None if value is None else float(value)

    def dense_perplexity(self, metric: str) -> float | None:
        """Return the same perplexity of the dense model."""
        value = (self.dense.get("perplexity") or {}).get(metric)
        return None if value is None else float(value)

    def increase(self, metric: str) -> float | None:
        """Return the increase of perplexity relative to the dense model; None where one of the two was not measured."""
        after, before = self.perplexity(metric), self.dense_perplexity(metric)
        return None if after is None or not before else after / before - 1


@dataclass(frozen=True)
class PublishedResult:
    """A result that stands in a registry."""

    job_id: str
    job_name: str
    model: str
    """What the job compressed."""
    kind: str
    place: str
    """The repository, address or name there."""


@dataclass(frozen=True)
class ModelReading:
    """All about one model."""

    model: str
    results: Sequence[Result]
    made_from: Sequence[PublishedResult]
    """The publications that are this model."""
    published: Sequence[PublishedResult]
    """What was published of its results."""
    compressed_again: dict[str, int]
    """Published place -> jobs that began from it."""

    @property
    def metrics(self) -> list[str]:
        """Names of the perplexities that were measured."""
        return sorted({name for result in self.results for name in result.compressed.get("perplexity") or {}})

    def front(self, metric: str) -> list[tuple[Result, bool]]:
        """Return results with this perplexity and a sparsity, sparsest last, and which are on the Pareto front."""
        measured = [item for item in self.results if item.perplexity(metric) is not None and item.sparsity is not None]
        measured.sort(key=lambda item: (item.sparsity or 0.0, item.perplexity(metric) or 0.0))
        costs = [(-(item.sparsity or 0.0), item.perplexity(metric) or 0.0) for item in measured]
        return list(zip(measured, pareto_front(costs), strict=True))


def models(database: Database, project_id: str) -> list[catalog.ModelRow]:
    """Return the models of a project, latest used first."""
    with database.reading() as session:
        return catalog.models(session, project_id, limit=MAX_MODELS)


def model(database: Database, project_id: str, name: str) -> ModelReading:
    """Return one model; raises NotFound when no job and no publication has to do with it."""
    with database.reading() as session:
        results = _results(session, project_id, name)
        everything = _published(session, project_id)
        made_from = [item for item in everything if item.place == name]
        of_it = [item for item in everything if item.model == name]
        counts = catalog.count_by_model(session, project_id, [item.place for item in of_it] + [name])
    if not results and not made_from and name not in counts:
        raise NotFound("No job compressed this model.")
    counts.pop(name, None)
    return ModelReading(name, results, made_from, of_it, counts)


def _results(session: Session, project_id: str, name: str) -> list[Result]:
    return [
        Result(
            row.job_id,
            row.name,
            row.method,
            row.created_at,
            (row.report.get("sparsity") or {}).get("achieved"),
            row.report.get("dense") or {},
            row.report.get("compressed") or {},
        )
        for row in catalog.reports(session, project_id, name, limit=MAX_RESULTS)
    ]


def _published(session: Session, project_id: str) -> list[PublishedResult]:
    return [
        PublishedResult(row.job_id, row.job_name, row.model, str(row.target.get("kind")), target_name(row.target))
        for row in catalog.published(session, project_id, limit=MAX_PUBLISHED)
    ]
