"""Plans: a dry run of a request, and the promise that a job submitted with one asks for the same."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from app.bodies.job import JobRequest
from app.db.planning import Plan
from app.db.queries.jobs import jobs, reuse
from app.db.queries.requests import planning
from app.db.queries.tenancy import projects
from app.db.session import clock
from app.errors import InvalidRequest, ModelRefused, NotFound
from app.integrations.shared.sources import ModelSource
from app.platform.ids import new_id
from app.services import idempotency, uploads
from app.services.admission import routing, source_cache
from app.services.admission.admit import Admitted, Desk
from app.services.idempotency import Key
from app.services.plans import cautions, estimates, lookup, memory_warnings
from app.services.resources import Resources
from app.settings import Settings
from espalier.errors import Problem, SourceRefused
from espalier.formats import FORMATS
from espalier.memory import work
from espalier.memory.accelerators import Accelerator
from espalier.recipe.spec import CompressionSpec

LIFE = timedelta(hours=24)


def create(resources: Resources, project_id: str, request: JobRequest, *, key: Key | None = None) -> Plan:
    """Work out what a request would take; refuses what POST /v1/jobs would refuse."""
    admitted, unseen = _admitted(resources, project_id, request)
    with resources.database.unit_of_work() as session:
        projects.hold(session, project_id)
        now = clock(session)
        plan = make(session, resources.settings, project_id, admitted, now=now, unseen=unseen)
        idempotency.once(session, key, plan.id, now=now)
    return plan


def draft(resources: Resources, project_id: str, request: JobRequest) -> Plan:
    """Work out what a request would take, for somebody who is still writing it; nothing is kept."""
    admitted, unseen = _admitted(resources, project_id, request)
    with resources.database.reading() as session:
        plan = make(session, resources.settings, project_id, admitted, now=clock(session), unseen=unseen)
        session.expunge(plan)
    return plan


def make(
    session: Session,
    settings: Settings,
    project_id: str,
    admitted: Admitted,
    *,
    now: datetime,
    unseen: dict[str, str] | None = None,
) -> Plan:
    """Write down what an admitted request would take; `unseen`: why its remote source could not be inspected."""
    request, worker_class = admitted.request, admitted.worker_class
    spec, facts, work_hash = admitted.spec, admitted.facts, admitted.work_hash
    done = reuse.done(session, project_id, work_hash, but="") if work_hash else None
    outlook = None
    if spec and facts:
        outlook = memory_warnings.outlook(session, settings, worker_class, spec, facts, request.limits, now=now)
    document = {
        "resolved_spec": spec.model_dump(mode="json") if spec else None,
        "resolved_revision": admitted.revision,
        "worker_class": worker_class,
        "queue_position": 1 + jobs.count_queued(session, project_id, worker_class),
        "reusable_job_id": done.id if done else None,
        **_estimate(session, project_id, admitted, outlook, unseen),
    }
    if spec and facts and outlook:
        limit = request.limits.max_host_memory_bytes
        routing.require_limit(session, limit, worker_class, spec, facts, now=now)
        document["warnings"] = [*outlook.warnings(spec), *document["warnings"]]
    on = partial(estimates.assumed, outlook.gpu if outlook else None, spec, facts)
    document["warnings"] += cautions.of(session, project_id, worker_class, request.spec, admitted.works, assumed=on)
    plan = Plan(
        id=new_id("pln"),
        project_id=project_id,
        request_sha256=request.planned_sha256,
        document=document,
        created_at=now,
        expires_at=now + LIFE,
    )
    session.add(plan)
    return plan


def _admitted(resources: Resources, project_id: str, request: JobRequest) -> tuple[Admitted, dict[str, str] | None]:
    """Admit a request, ask the Hub about its source, and return what is known of it then, and why it is no more."""
    desk = Desk(resources.settings, lambda id_, kind: uploads.finished(resources.database, project_id, id_, kind))
    admitted = desk.admit(request)
    source, unseen = _pinned(resources, project_id, request.source)
    with resources.database.reading() as session:
        return desk.identify(session, project_id, admitted, source), unseen


def _pinned(resources: Resources, project_id: str, source: ModelSource) -> tuple[ModelSource, dict[str, str] | None]:
    """Ask about a remote model that nobody has met; return it at the commit where it was seen, or why it was not.

    Raises ModelRefused for what no job could work on.
    """
    with resources.database.reading() as session:
        if source_cache.model(session, project_id, source.model_dump(mode="json")):
            return source, None
    try:
        inspection = lookup.inspect(resources, project_id, source)
    except SourceRefused as error:
        raise ModelRefused(error.at("/source")) from error
    if inspection is None:
        return source, None
    if inspection.facts is None or inspection.revision is None:
        text = f"{inspection.why} A job resolves the source when it runs."
        return source, {"code": inspection.code, "text": text}
    return source.at(inspection.revision), None


def get(resources: Resources, project_id: str, plan_id: str) -> Plan:
    """Return a plan; raises NotFound."""
    with resources.database.reading() as session:
        plan = planning.plan(session, project_id, plan_id)
    if plan is None:
        raise NotFound
    return plan


def check(session: Session, project_id: str, plan_id: str, request_sha256: str, *, now: datetime) -> None:
    """Raise InvalidRequest when the plan that a job names is unknown, stale, or of another source and spec."""
    plan = planning.plan(session, project_id, plan_id)
    if plan is None:
        raise _refusal("no-such-plan", "there is no plan with this id")
    if plan.expires_at < now:
        raise _refusal("stale-plan", "the plan is older than a day: make another one")
    if plan.request_sha256 != request_sha256:
        raise _refusal("unequal-plan", "the plan was made of another source or spec")


def _refusal(code: str, detail: str) -> InvalidRequest:
    return InvalidRequest("The job does not follow its plan.", items=[Problem("/plan_id", code, detail)])


def _estimate(
    session: Session,
    project_id: str,
    admitted: Admitted,
    outlook: memory_warnings.Outlook | None,
    unseen: dict[str, str] | None,
) -> dict[str, Any]:
    spec, facts = admitted.spec, admitted.facts
    if spec is None or facts is None or outlook is None:
        warning = unseen or {"code": "source_not_seen", "text": "Nothing is known of this source until a job ran."}
        return {"phases": [], "seconds": None, "calibrated_by": 0, "warnings": [warning]}
    assumed = estimates.assumed(outlook.gpu, spec, facts)
    rates = estimates.rates(session, project_id, admitted.worker_class, assumed=assumed)
    phases = [
        {
            "name": phase,
            "seconds": round(rates.seconds(phase, operations), 3),
            "memory_bytes": outlook.peak(phase, spec),
            "disk_bytes": work.disk_bytes(phase, facts.shape, file_bytes=facts.bytes),
        }
        for phase, operations in admitted.works.items()
    ]
    total = work.num_jobs(spec) * rates.overhead_seconds + sum(float(str(phase["seconds"])) for phase in phases)
    return {
        "phases": phases,
        "seconds": round(total, 3),
        "calibrated_by": rates.jobs,
        "warnings": _warnings(spec, rates, outlook.gpu),
    }


def _warnings(spec: CompressionSpec, rates: estimates.Rates, gpu: Accelerator | None) -> list[dict[str, str]]:
    warnings = []
    if spec.objective is not None:
        text = f"A search may run {spec.objective.max_trials} jobs before the last one; seconds are those of one."
        warnings.append({"code": "searches", "text": text})
    if work.num_jobs(spec) > 1:
        text = "The members of the soup are jobs of their own; seconds are of all jobs, one after the other."
        warnings.append({"code": "members", "text": text})
    if spec.masking and not FORMATS[spec.output.format].drops_zeros:
        text = "The same size on disk unless packed, and no speed-up on a runtime that does not exploit the zeros."
        warnings.append({"code": "no_speed_up", "text": text})
    if not rates.jobs:
        of = f"reckoned for one {gpu.name}" if gpu else "those of two CPU cores"
        text = f"No job has finished here yet: seconds are {of}, and may be far off."
        warnings.append({"code": "not_calibrated", "text": text})
    if any(item.max_windows is None for item in spec.evaluate.perplexity):
        text = f"A measurement takes all windows of its text; {work.ASSUMED_WINDOWS} are assumed."
        warnings.append({"code": "windows_assumed", "text": text})
    return warnings
