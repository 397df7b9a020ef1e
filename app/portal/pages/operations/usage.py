"""Holdings and usage of the project, beside its quotas."""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.dependencies import ProjectDep, ResourcesDep
from app.portal.deps import needs
from app.portal.drawings.bars import Bar, bars
from app.portal.drawings.scales import Writing
from app.portal.navigation import MenuEntry
from app.portal.rendering import duration, number, render, size
from app.services.tenancy import projects

router = APIRouter(prefix="/usage", dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Usage", "/portal/usage", 100, "Operations")


@dataclass(frozen=True)
class Figure:
    """A counted quantity, and its quota."""

    title: str
    value: float
    text: str
    limit: float | None = None
    limit_text: str = ""


@router.get("")
def usage_page(request: Request, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show the figures of this month."""
    usage = projects.usage(resources.database, project)
    days = projects.usage_days(resources.database, project)
    quotas = usage.quotas
    figures = [
        _count("Queued jobs", usage.queued_jobs, quotas["max_queued_jobs"]),
        _count("Running jobs", usage.running_jobs, quotas["max_running_jobs"]),
        _figure("Stored", usage.stored_bytes, quotas["max_stored_bytes"], size),
        _figure("GPU time", usage.gpu_seconds, quotas["max_gpu_seconds"], duration),
        Figure("CPU time", usage.cpu_seconds, duration(usage.cpu_seconds)),
        Figure("Attempts", usage.attempts, number(usage.attempts)),
    ]
    year, month = (int(part) for part in usage.month.split("-"))
    by_day = {int(row.day[-2:]): row for row in days}
    highest = max((row.gpu_seconds + row.cpu_seconds for row in days), default=0)
    unit = next((seconds for seconds in (3600, 60) if highest >= seconds), 1)  # so that ticks are round
    drawn = [
        Bar(str(day), by_day[day].gpu_seconds / unit, by_day[day].cpu_seconds / unit)
        if day in by_day
        else Bar(str(day), 0, 0)
        for day in range(1, monthrange(year, month)[1] + 1)
    ]
    chart = bars(
        "days",
        drawn,
        names=("GPU", "CPU"),
        write=lambda value: duration(value * unit),
        title="Time that attempts took, by day",
    )
    return render(
        request,
        "usage.html",
        usage=usage,
        figures=figures,
        days=days,
        chart=chart,
        rate=quotas["max_requests_per_second"],
    )


def _count(title: str, value: int, limit: int | None) -> Figure:
    return _figure(title, value, limit, lambda count: number(int(count)))


def _figure(title: str, value: float, limit: int | None, write: Writing) -> Figure:
    return Figure(title, value, write(value), limit, "" if limit is None else write(limit))
