"""Compressed models, the best results of each, and their lineage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.dependencies import ProjectDep, ResourcesDep
from app.portal.deps import needs
from app.portal.drawings.lineage import Node, lineage
from app.portal.drawings.scales import percent as whole_percent
from app.portal.drawings.scatter import Mark, scatter
from app.portal.navigation import MenuEntry
from app.portal.rendering import number, percent, render
from app.services import catalog
from app.services.catalog import ModelReading, PublishedResult, Result

router = APIRouter(prefix="/models", dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Models", "/portal/models", 50)

BRANCHES: Final = 8
"""Jobs in the tree: those of which something was published, then the best."""


@router.get("")
def models_page(request: Request, resources: ResourcesDep, project: ProjectDep) -> Response:
    """List models."""
    rows = catalog.models(resources.database, project)
    return render(request, "models.html", rows=rows, address=address, most=catalog.MAX_MODELS)


def address(model: str) -> str:
    """Return where a model is shown; names hold slashes."""
    return f"/portal/models/one?{urlencode({'name': model})}"


@router.get("/one")
def model_page(
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    name: Annotated[str, Query(max_length=4096)],
    metric: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Show one model."""
    reading = catalog.model(resources.database, project, name)
    metrics = reading.metrics
    chosen = metric if metric in metrics else (metrics[0] if metrics else None)
    front = reading.front(chosen) if chosen else []
    points = list(_results(front, chosen)) if chosen else []
    drawing = scatter(
        "results",
        points,
        x_title="Sparsity",
        x_write=whole_percent,
        y_title="perplexity",
        title=f"Sparsity against perplexity, {chosen}",
    )
    tree = lineage("lineage", _root(reading, front, chosen), title=f"What was made from {name}")
    return render(
        request,
        "model.html",
        reading=reading,
        metric=chosen,
        metrics=metrics,
        rows=front,
        drawing=drawing,
        tree=tree,
        address=address,
        jobs_url=f"/portal/jobs?{urlencode({'model': name})}",
    )


def _results(front: list[tuple[Result, bool]], metric: str) -> Iterator[Mark]:
    dense = {round(value, 6) for item, _ in front if (value := item.dense_perplexity(metric)) is not None}
    for value in sorted(dense):
        yield Mark("dense", 0.0, value, front=False)
    for item, best in front:
        yield Mark(item.name, item.sparsity or 0.0, item.perplexity(metric) or 0.0, best, f"/portal/jobs/{item.job_id}")


def _root(reading: ModelReading, front: list[tuple[Result, bool]], metric: str | None) -> Node:
    """Return the tree: the source of the model, the model, its jobs, and their publications."""
    published: dict[str, list[PublishedResult]] = {}
    for item in reading.published:
        published.setdefault(item.job_id, []).append(item)
    best = [item.job_id for item, on_front in front if on_front]
    ids = list(dict.fromkeys([*published, *reversed(best)]))[:BRANCHES]
    results = {item.job_id: item for item in reading.results}
    here = Node(
        reading.model,
        "this model",
        here=True,
        href=address(reading.model),
        children=[_job(results.get(job_id), job_id, published.get(job_id, []), reading, metric) for job_id in ids],
    )
    for origin in reading.made_from[:1]:
        job = Node(origin.job_name, "job", f"/portal/jobs/{origin.job_id}", children=[here])
        return Node(origin.model, "source", address(origin.model), children=[job])
    return here


def _job(
    result: Result | None, job_id: str, published: list[PublishedResult], reading: ModelReading, metric: str | None
) -> Node:
    note = "job"
    if result is not None:
        parts = [percent(result.sparsity, 0)] if result.sparsity is not None else []
        parts += [f"perplexity {number(result.perplexity(metric))}"] if metric and result.perplexity(metric) else []
        note = ", ".join(parts) or "job"
    name = result.name if result else published[0].job_name
    children = [
        Node(item.place, _kind(item, reading.compressed_again.get(item.place, 0)), address(item.place))
        for item in published
    ]
    return Node(name, note, f"/portal/jobs/{job_id}", children=children)


def _kind(item: PublishedResult, jobs: int) -> str:
    return f"{item.kind}, {jobs} job{'s' if jobs > 1 else ''}" if jobs else item.kind
