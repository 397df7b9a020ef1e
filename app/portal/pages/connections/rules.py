"""Rules: which registry events become which jobs; written in a form, tried without effects."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.bodies.hooks import RuleChange, RuleRequest, RuleTrial
from app.bodies.strict_json import parse
from app.db.hook import Rule
from app.dependencies import PresetsDep, ProjectDep, ResourcesDep
from app.errors import AppError, InvalidRequest, MalformedRequest
from app.portal.checking import checked
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.portal.rendering import pretty, render
from app.services import presets
from app.services.hooks import inbox, rules, sources
from app.services.hooks.decision import RuleDecision
from app.services.resources import Resources
from espalier.errors import Problem

router = APIRouter(prefix="/hooks/rules", dependencies=[needs("hooks:manage"), PresetsDep])

MODES: Final = {
    "propose": "plan a job, and wait for a person to approve it",
    "run": "make the job",
    "dry_run": "write down what would be done, and do nothing",
}
MATCHES: Final = {
    "repo_glob": ("Models", "acme/*", "A glob over the name; * matches / too."),
    "exclude_glob": ("But not", "*-sparse", "Names that are left out."),
    "events": ("Events", "repo.content", "Names or beginnings, separated by commas; empty: new versions."),
    "ref_glob": ("Git reference", "refs/heads/main", "Empty: the branch main."),
    "alias": ("Alias", "champion", "The alias that points to the version, where a registry has them."),
}
"""Field -> label, example, hint."""
EXAMPLE: Final = {"prune": {"method": "wanda", "sparsity": 0.5}}


@router.get("/new")
def new_page(request: Request, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Ask for a rule."""
    source = request.query_params.get("source", "")[:64]
    form = Form([("source_id", source), ("spec", pretty(EXAMPLE)), ("repo_glob", "*"), ("enabled", "on")])
    return _render(request, resources, project, None, form)


@router.post("/new")
def create(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Make a rule."""
    try:
        body = checked(RuleRequest, {**_fields(form), "source_id": form.get("source_id")})
        row = rules.create(resources, project, body)
    except AppError as error:
        return _render(request, resources, project, None, form, refusal=error)
    return RedirectResponse(f"/portal/hooks/rules/{row.id}", 303)


@router.get("/{rule_id}")
def rule_page(request: Request, rule_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show a rule."""
    row = rules.get(resources, project, rule_id)
    return _render(request, resources, project, row, _form_of(row))


@router.post("/{rule_id}")
def change(request: Request, rule_id: str, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Change a rule."""
    row = rules.get(resources, project, rule_id)
    try:
        rules.change(resources, project, rule_id, checked(RuleChange, _fields(form)))
    except AppError as error:
        return _render(request, resources, project, row, form, refusal=error)
    return RedirectResponse(f"/portal/hooks/rules/{rule_id}", 303)


@router.post("/{rule_id}/delete")
def delete(rule_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Remove a rule."""
    rules.delete(resources, project, rule_id)
    return RedirectResponse("/portal/hooks", 303)


@router.post("/{rule_id}/test")
def test(request: Request, rule_id: str, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Say what the rule would make of a delivery or of a document; nothing is written."""
    row = rules.get(resources, project, rule_id)
    verdict, refusal = None, None
    try:
        payload = form.get("payload").strip()
        fields = {"payload": _json(payload, "/payload")} if payload else {"delivery_id": form.get("delivery_id")}
        verdict = rules.trial(resources, project, rule_id, checked(RuleTrial, fields))
    except AppError as error:
        refusal = error
    return _render(request, resources, project, row, _form_of(row), trial=form, verdict=verdict, trial_refusal=refusal)


def _render(
    request: Request,
    resources: Resources,
    project: str,
    row: Rule | None,
    form: Form,
    *,
    refusal: AppError | None = None,
    trial: Form | None = None,
    verdict: RuleDecision | None = None,
    trial_refusal: AppError | None = None,
) -> Response:
    lately = inbox.page(resources.database, project, limit=20, source_id=row.source_id)[0] if row else []
    status = next((error.status for error in (refusal, trial_refusal) if error), 200)
    return render(
        request,
        "rule.html",
        status=status,
        row=row,
        form=form,
        refusal=refusal,
        modes=MODES,
        sources=sources.page(resources, project, limit=200),
        matches=MATCHES,
        presets=presets.every(resources.database, project),
        lately=lately,
        trial=trial or Form([]),
        verdict=verdict,
        trial_refusal=trial_refusal,
    )


def _fields(form: Form) -> dict[str, Any]:
    """The fields of a form as the API takes them; raises InvalidRequest where JSON was to be written."""
    match: dict[str, Any] = {name: form.get(name).strip() for name in MATCHES if form.get(name).strip()}
    if "events" in match:
        match["events"] = [name.strip() for name in match["events"].split(",") if name.strip()]
    template: dict[str, Any] = {"preset": form.get("preset") or None}
    for name in ("spec", "publish"):
        if text := form.get(name).strip():
            template[name] = _json(text, f"/template/{name}")
    limits = {name: form.get(name).strip() for name in ("max_per_day", "cooldown_seconds")}
    return {
        "name": form.get("name").strip(),
        "mode": form.get("mode"),
        "enabled": "enabled" in form,
        "match": match,
        "template": template,
        "limits": {name: _number(text) for name, text in limits.items() if text},
    }


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 20 else text


def _json(text: str, pointer: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return parse(text.encode())
    except MalformedRequest as error:
        raise InvalidRequest("This is not JSON.", items=[Problem(pointer, "not-json", error.detail)]) from None


def _form_of(row: Rule) -> Form:
    """A form that says what a rule says."""
    match, template = row.match, row.template
    fields = {
        "name": row.name,
        "source_id": row.source_id,
        "mode": row.mode,
        "preset": template.get("preset") or "",
        "spec": pretty(template["spec"]) if template.get("spec") else "",
        "publish": pretty(template["publish"]) if template.get("publish") else "",
        "events": ", ".join(match.get("events") or []),
        **{name: match.get(name) or "" for name in MATCHES if name != "events"},
        **{name: str(value) for name, value in row.limits.items()},
        **({"enabled": "on"} if row.enabled else {}),
    }
    return Form(list(fields.items()))
