"""Two to six jobs side by side: numbers, specs, curves and matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from app.db.queries.jobs.jobs import Filters
from app.dependencies import ProjectDep, ResourcesDep
from app.portal.comparison import differences, incomparable, lines
from app.portal.deps import FormDep, needs
from app.portal.drawings.curves import Curve, curves
from app.portal.drawings.heat import MEASURES, cells, heat_map
from app.portal.drawings.scales import Shades
from app.portal.navigation import MenuEntry
from app.portal.rendering import render, word
from app.services.jobs import reads
from app.services.jobs.reads import JobReading
from app.services.resources import Resources

router = APIRouter(prefix="/compare", dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Compare", "/portal/compare", 30)

MOST: Final = 6
MATRICES: Final = 5000
"""Of each job; more are not drawn."""
Measure = Literal["sparsity", "error_before", "error_after"]


@router.post("")
def picked(form: FormDep) -> Response:
    """Lead from a list in which jobs were picked to the address of their comparison."""
    jobs = list(dict.fromkeys(form.all("job")))[: MOST + 1]
    return RedirectResponse("/portal/compare?" + "&".join(f"job={_safe(job)}" for job in jobs), 303)


def _safe(job_id: str) -> str:
    return "".join(letter for letter in job_id if letter.isalnum() or letter == "_")[:64]


@router.get("")
def compare_page(
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    job: Annotated[list[str] | None, Query(max_length=50)] = None,
    measure: Measure = "error_after",
) -> Response:
    """Compare the jobs of the address, or offer jobs to pick from."""
    ids = list(dict.fromkeys(job or []))
    if not 2 <= len(ids) <= MOST:
        recent = reads.jobs(resources.database, project, Filters(states=("succeeded",)), before=None, limit=100)
        return render(request, "compare_pick.html", rows=recent, picked=ids, most=MOST)
    readings = [reads.job(resources.database, project, job_id) for job_id in ids]
    specs = [
        {"source": reading.job.request.get("source"), "spec": reading.job.resolved_spec or reading.job.request["spec"]}
        for reading in readings
    ]
    shown = differences(specs)
    return render(
        request,
        "compare.html",
        readings=readings,
        lines=lines(readings),
        different=shown,
        curves=_curves(resources, project, readings),
        maps=_maps(resources, project, readings, measure),
        measure=measure,
        measures={name: what.title for name, what in MEASURES.items()},
        address="&".join(f"job={_safe(job_id)}" for job_id in ids),
        letters="ABCDEF",
        incomparable=incomparable([reading.job.report or {} for reading in readings]),
    )


def _curves(resources: Resources, project: str, readings: Sequence[JobReading]) -> list[tuple[str, Markup]]:
    """One drawing per metric that at least one job has, over all that have it."""
    points_of: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for reading in readings:
        for series in reads.metrics(resources.database, project, reading.job.id, name=None, max_points=200):
            points = [(float(point.step), point.value) for point in series.points]
            points_of.setdefault(series.name, {})[reading.job.id] = points
    drawn: list[tuple[str, Markup]] = []
    for name, by_job in points_of.items():
        lines_ = [
            Curve(f"{letter}  {reading.job.name}", by_job.get(reading.job.id, []))
            for letter, reading in zip("ABCDEF", readings, strict=False)
        ]
        drawing = curves(f"curve-{len(drawn)}", lines_, title=word(name), x_title="step", y_title="")
        if drawing is not None:
            drawn.append((word(name), drawing))
    return drawn


def _maps(resources: Resources, project: str, readings: Sequence[JobReading], measure: Measure) -> list[Markup | None]:
    """One map a job, all of them in the same colours."""
    rows = [reads.layers(resources.database, project, reading.job.id, after=-1, limit=MATRICES) for reading in readings]
    means = [cell.mean for layers in rows for cell in cells(layers, MEASURES[measure])]
    if not means:
        return []
    shades = Shades.over(means)
    return [heat_map(f"map-{index}", layers, measure, shades) for index, layers in enumerate(rows)]
