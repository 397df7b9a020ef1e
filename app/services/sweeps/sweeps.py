"""Sweeps: one job per point of a grid, made and ended together; what is equal between them is done once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.bodies.job import JobRequest
from app.bodies.sweep import GridPoint, SweepRequest
from app.db.job import Job
from app.db.lifecycle import TERMINAL
from app.db.planning import Sweep
from app.db.queries.jobs import reuse
from app.db.queries.requests import planning
from app.db.queries.tenancy import audit
from app.db.session import Database, clock, deferring
from app.errors import InvalidRequest, ModelRefused, NotFound
from app.platform.ids import new_id
from app.services import idempotency
from app.services.admission.admit import Admitted, Desk
from app.services.jobs import children, rights
from app.services.jobs import submit as jobs
from app.services.resources import Resources
from app.services.reuse import deduplication
from app.services.sweeps.pareto import pareto_front
from espalier.errors import Problem
from espalier.recipe.base import canonical
from espalier.recipe.refusals import pointers

MAX_PROBLEMS = 50


@dataclass(frozen=True)
class SweepReading:
    """A sweep and the jobs of its points."""

    sweep: Sweep
    jobs: dict[str, Job]

    @property
    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        return dict(Counter(job.state for job in self.jobs.values()))

    @property
    def state(self) -> str:
        """State of the whole: `running` until every job is over, then the worst outcome."""
        states = set(self.counts)
        if not states <= TERMINAL:
            return "queued" if states == {"queued"} else "running"
        return next((state for state in ("failed", "expired", "cancelled") if state in states), "succeeded")


def create(
    resources: Resources, project_id: str, request: SweepRequest, key: idempotency.Key | None
) -> tuple[str, bool]:
    """Make a sweep and all its jobs in one transaction; return its id and whether an equal call was here before."""
    points = _points(request)
    for _, body in points:
        rights.require_to_submit(body.spec.output.publish, at="/base/spec/output/publish")
    desk = jobs.desk(resources, project_id)
    admitted = [(point, _admitted(resources, project_id, point, body, request, desk)) for point, body in points]
    with resources.database.unit_of_work() as session:
        now = clock(session)
        sweep = Sweep(
            id=new_id("swp"),
            project_id=project_id,
            name=request.name or f"sweep of {len(points)}",
            base=request.base,
            axes=dict(request.axes),
            points=[],
            created_at=now,
        )
        if key and (existing_id := idempotency.claim(session, key, resource_id=sweep.id, now=now)):
            return existing_id, True
        deduplication.look_ahead(session, project_id, [known.work_hash for _, known in admitted])
        with deferring(session):
            sweep.points = [
                {"job_id": _add(session, sweep, point, known, now=now), "values": point.values}
                for point, known in admitted
            ]
            session.add(sweep)
        audit.record(session, "sweep.create", sweep.id, now=now)
    resources.notifier.notify(admitted[0][1].worker_class)
    return sweep.id, False


def _points(request: SweepRequest) -> list[tuple[GridPoint, JobRequest]]:
    """Return the validated requests of all points; a problem of a point has the pointer of its axis or of the base."""
    points: list[tuple[GridPoint, JobRequest]] = []
    problems: dict[tuple[str, str], Problem] = {}
    try:
        for point in request.points():
            try:
                points.append((point, JobRequest.model_validate_json(canonical(point.request))))
            except ValidationError as error:
                for item in pointers.problems_of(error, point.request):
                    problem = Problem(_blame(request, item.pointer), item.code, f"{item.pointer}: {item.detail}")
                    problems.setdefault((problem.pointer, problem.detail), problem)
    except ValueError as error:
        pointer = str(error)
        raise InvalidRequest(
            f"The axis {pointer} does not exist in the base.",
            items=[Problem(_axis(pointer), "no-such-field", "the base has a list or a value on this path")],
        ) from None
    if problems:
        raise InvalidRequest("Some points are no valid jobs.", items=list(problems.values())[:MAX_PROBLEMS])
    return points


def _blame(request: SweepRequest, pointer: str) -> str:
    """Return the axis that gave what a pointer into a point leads to, else the pointer into the base."""
    given = (axis for axis in request.axes if f"{pointer}/".startswith(f"{axis}/"))
    return next(map(_axis, given), f"/base{pointer}")


def _axis(pointer: str) -> str:
    return "/axes/" + pointer.replace("~", "~0").replace("/", "~1")


def _admitted(
    resources: Resources, project_id: str, point: GridPoint, body: JobRequest, request: SweepRequest, desk: Desk
) -> Admitted:
    try:
        return jobs.admitted_of(resources, project_id, body, desk)
    except (InvalidRequest, ModelRefused) as error:
        located = [(pointers.into(point.request, item.pointer), item) for item in error.items]
        error.items = tuple(Problem(_blame(request, at), item.code, item.detail) for at, item in located)
        raise


def _add(session: Session, sweep: Sweep, point: GridPoint, admitted: Admitted, *, now: datetime) -> str:
    job = jobs.new_job(sweep.project_id, point.request, admitted, now)
    job.parent_id = sweep.id
    if admitted.request.name is None:
        job.name = f"{sweep.name}: " + ", ".join(f"{p.rsplit('/', 1)[-1]} {v}" for p, v in point.values.items())[:150]
    jobs.write(session, job, admitted, None, {"parent_id": sweep.id}, now)
    return job.id


def get(database: Database, project_id: str, sweep_id: str) -> SweepReading:
    """Return a sweep; raises NotFound."""
    with database.reading() as session:
        return SweepReading(_require(session, project_id, sweep_id), _jobs(session, sweep_id))


def page(database: Database, project_id: str, *, before: str | None, limit: int) -> Sequence[Sweep]:
    """Return a page of sweeps, newest first."""
    with database.reading() as session:
        return planning.sweeps(session, project_id, before=before, limit=limit)


def listed(database: Database, sweep: Sweep) -> SweepReading:
    """Return a sweep of a list: of its jobs, states and progress only."""
    with database.reading() as session:
        return SweepReading(sweep, {job.id: job for job in reuse.children(session, sweep.id, briefly=True)})


def cancel(resources: Resources, project_id: str, sweep_id: str) -> None:
    """End every job of a sweep that is not over."""
    with resources.database.unit_of_work() as session:
        _require(session, project_id, sweep_id)
        now = clock(session)
        children.cancel_all(session, sweep_id, now=now)
        audit.record(session, "sweep.cancel", sweep_id, now=now)


def _require(session: Session, project_id: str, sweep_id: str) -> Sweep:
    row = planning.sweep(session, project_id, sweep_id)
    if row is None:
        raise NotFound
    return row


def _jobs(session: Session, sweep_id: str) -> dict[str, Job]:
    return {job.id: job for job in reuse.children(session, sweep_id)}


@dataclass(frozen=True)
class ParetoPoint:
    """One result: its cost and its loss of quality."""

    job_id: str | None
    values: dict[str, Any]
    x: float
    perplexity: float
    front: bool
    """Nothing else is as good in both and better in one."""


def pareto(reading: SweepReading, x: str, metric: str | None) -> tuple[str | None, list[ParetoPoint]]:
    """Return the metric and the results of a sweep, the dense model first (job_id None), each marked."""
    done = [(point, reading.jobs.get(point["job_id"])) for point in reading.sweep.points]
    reports = [(point, job, job.report) for point, job in done if job and job.state == "succeeded" and job.report]
    names = sorted({name for _, _, report in reports for name in report["compressed"].get("perplexity") or {}})
    metric = metric or (names[0] if names else None)
    candidates: list[tuple[str | None, dict[str, Any], float, float]] = []
    for point, job, report in reports:
        dense, lost = report["dense"], (report["compressed"].get("perplexity") or {}).get(metric)
        before = (dense.get("perplexity") or {}).get(metric)
        if not candidates and before is not None and x != "seconds":
            candidates.append((None, {}, 0.0 if x == "sparsity" else float(dense["bytes"]), before))
        if lost is not None:
            candidates.append((job.id, point["values"], _measure(report, job, x), lost))
    sign = -1.0 if x == "sparsity" else 1.0
    on_front = pareto_front([(sign * at, lost) for _, _, at, lost in candidates])
    return metric, [ParetoPoint(*fields, front) for fields, front in zip(candidates, on_front, strict=True)]


def _measure(report: dict[str, Any], job: Job, x: str) -> float:
    if x == "sparsity":
        return float(report["sparsity"]["achieved"])
    if x == "seconds":
        return job.running_seconds
    return float(report["compressed"][x])
