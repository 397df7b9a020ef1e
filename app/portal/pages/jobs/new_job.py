"""A new job: a form made from the schema, and beside it what the job would take and how to ask for it elsewhere."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import RedirectResponse, Response

from app.bodies.job import JobRequest
from app.db.planning import Plan
from app.dependencies import PresetsDep, ProjectDep, ResourcesDep
from app.errors import AppError, NotFound
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.portal.navigation import MenuEntry
from app.portal.rendering import base_url, render
from app.portal.spec_form import snippets
from app.portal.spec_form.build import tree
from app.portal.spec_form.nodes import id_of
from app.portal.spec_form.values import EXTRA, PRESET, BadExtra, document, filled, is_filled
from app.services import presets, workers
from app.services.idempotency import Key
from app.services.jobs import reads, rights
from app.services.jobs import submit as jobs
from app.services.plans import lookup, plans
from app.services.resources import Resources
from espalier.errors import Problem
from espalier.recipe.refusals import pointers

router = APIRouter(dependencies=[needs("jobs:write"), PresetsDep])
NAVIGATION = MenuEntry("New job", "/portal/new-job", 20, scope="jobs:write")

FIRST_PRESET = "balanced"
"""The preset of an empty form."""
SECTIONS = ("reconstruct", "retrain", "calibration", "evaluate", "gate", "output", "objective", "cycles", "soup")
"""Parts of the spec that are folded at first."""


@router.get("/new-job")
def new_job(
    request: Request, resources: ResourcesDep, project: ProjectDep, clone: str = "", preset: str = ""
) -> Response:
    """Show an empty form, or one that another job filled."""
    if clone:
        rights.require("jobs:read")
        body = reads.job(resources.database, project, clone).job.request
        name = str((body.get("spec") or {}).get("preset") or "")
        form = filled(body, _preset(resources, project, name))
    else:
        form = Form([(PRESET, preset or FIRST_PRESET)])
    return _form_page(request, resources, project, form)


@router.post("/new-job/form")
async def again(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show the form with the fields that its choices open."""
    return await resources.lookups.run(project, lambda: _form_page(request, resources, project, form))


@router.post("/new-job/plan")
async def plan(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show what the job would take."""
    panel = await resources.lookups.run(project, lambda: _panel(request, resources, project, form))
    return render(request, "new_job_plan.html", **panel)


@router.post("/new-job")
async def submit(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Queue the job, once for each page that was opened."""
    return await resources.lookups.run(project, lambda: _submit(request, form, resources, project))


def _submit(request: Request, form: Form, resources: Resources, project: str) -> Response:
    body, job, problems = _checked(resources, project, form)
    if job is None:
        return _form_page(request, resources, project, form, problems, status=422)
    key = Key.of(project, "POST", "/portal/new-job", key=form.get("key") or str(uuid.uuid4()), body=body)
    try:
        submitted = jobs.submit(resources, project, job, body, key).result()
    except AppError as error:
        errors = [Problem(pointers.into(body, item.pointer), item.code, item.detail) for item in error.items]
        errors = errors or [Problem("", error.code, error.detail)]
        return _form_page(request, resources, project, form, errors, status=error.status)
    return RedirectResponse(f"/portal/jobs/{submitted.job_id}", 303)


def _form_page(
    request: Request,
    resources: Resources,
    project: str,
    form: Form,
    problems: list[Problem] | None = None,
    *,
    status: int = 200,
) -> Response:
    base = _preset(resources, project, form.get(PRESET))
    root = tree(form, base)
    preset_rows = presets.every(resources.database, project)
    known = {*root.pointers(), PRESET, EXTRA}
    errors = {problem.pointer: problem.detail for problem in problems or []}
    return render(
        request,
        "new_job.html",
        status=status,
        root=root,
        spec=root["spec"],
        source=root["source"],
        form=form,
        presets=preset_rows,
        own_preset=form.get(PRESET) not in {"", *(item.name for item in preset_rows)},
        sections=SECTIONS,
        errors=errors,
        problems=problems or [],
        known=known,
        key=form.get("key") or str(uuid.uuid4()),
        preset_name=PRESET,
        extra_name=EXTRA,
        is_filled=lambda node: is_filled(node, form) or any(at.startswith(node.pointer) for at in errors),
        **_panel(request, resources, project, form),
    )


def _panel(request: Request, resources: Resources, project: str, form: Form) -> dict[str, Any]:
    """Return the panel beside the form: the model, the plan or the problems, and the request in three notations."""
    body, job, problems = _checked(resources, project, form)
    plan_row: Plan | None = None
    model: dict[str, Any] | None = None
    if job is not None:
        try:
            model = lookup.resolve(resources, project, job.source)
            plan_row = plans.draft(resources, project, job)
        except AppError as error:
            problems = [Problem(pointers.into(body, item.pointer), item.code, item.detail) for item in error.items]
            problems = problems or [Problem("", error.code, error.detail)]
    return {
        "plan": plan_row.document if plan_row else None,
        "model": model,
        "wrong": problems,
        "body": body,
        "id_of": id_of,
        "memory": workers.largest_memory(resources, plan_row.document["worker_class"]) if plan_row else None,
        "snippets": snippets.every(body, base_url(request), keyed=resources.settings.mode == "production"),
    }


def _checked(resources: Resources, project: str, form: Form) -> tuple[dict[str, Any], JobRequest | None, list[Problem]]:
    try:
        body = document(form, _preset(resources, project, form.get(PRESET)))
    except BadExtra as error:
        return {}, None, [Problem(EXTRA, "malformed", str(error))]
    try:
        return body, JobRequest.model_validate(body), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        items = [Problem(pointers.of_error(item, item["loc"], body), str(item["type"]), item["msg"]) for item in errors]
        return body, None, items


def _preset(resources: Resources, project: str, name: str) -> dict[str, Any]:
    try:
        return dict(presets.get(resources.database, project, name).spec) if name else {}
    except NotFound:
        return {}
