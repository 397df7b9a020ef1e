"""Registry events: sources, pending proposals, rules and recent deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.bodies.hooks import SecretRotation, SourceRequest
from app.db.hook import HookSource, Rule
from app.dependencies import ProjectDep, ResourcesDep
from app.errors import AppError
from app.portal.checking import checked
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.portal.navigation import MenuEntry
from app.portal.rendering import base_url, render
from app.services.hooks import inbox, proposals, rules, sources
from app.services.hooks.receivers import RECEIVERS
from app.services.resources import Resources

router = APIRouter(prefix="/hooks", dependencies=[needs("hooks:manage")])
NAVIGATION = MenuEntry("Hooks and rules", "/portal/hooks", 60, "Automation", scope="hooks:manage")

HOME: Final = "/portal/hooks"
PAGE, LATELY, MOST = 50, 10, 200
State = Literal["", "pending", "evaluated", "failed"]
Id = Annotated[str | None, Query(max_length=64)]


@router.get("")
def hooks_page(request: Request, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show everything about registry events."""
    return _overview(request, resources, project)


def _overview(
    request: Request, resources: Resources, project: str, *, form: Form | None = None, refusal: AppError | None = None
) -> Response:
    source_rows, rule_rows = sources.page(resources, project, limit=MOST), rules.page(resources, project, limit=MOST)
    lately, verdicts = inbox.page(resources.database, project, limit=LATELY)
    return render(
        request,
        "hooks.html",
        status=refusal.status if refusal else 200,
        sources=source_rows,
        rules=rule_rows,
        rows=lately,
        verdicts=verdicts,
        kinds=RECEIVERS,
        form=form or Form([]),
        refusal=refusal,
        names=_names(source_rows, rule_rows),
        waiting=proposals.page(resources, project, limit=LATELY, state="waiting"),
    )


def _names(source_rows: Sequence[HookSource], rule_rows: Sequence[Rule]) -> dict[str, str]:
    return {**{row.id: row.name for row in source_rows}, **{row.id: row.name for row in rule_rows}}


@router.post("/proposals/{proposal_id}/approve")
def approve(proposal_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Approve a proposal, and open its job."""
    row = proposals.approve(resources, project, proposal_id)
    return RedirectResponse(f"/portal/jobs/{row.job_id}", 303)


@router.post("/proposals/{proposal_id}/reject")
def reject(proposal_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Reject a proposal."""
    proposals.reject(resources, project, proposal_id)
    return RedirectResponse(HOME, 303)


@router.post("/sources")
def create_source(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Make a source, and show its secret this once."""
    fields = {"name": form.get("name").strip(), "kind": form.get("kind"), "secret": form.get("secret").strip() or None}
    try:
        row, secret = sources.create(resources, project, checked(SourceRequest, fields))
    except AppError as error:
        return _overview(request, resources, project, form=form, refusal=error)
    return _secret(request, row, secret, status=201)


def _secret(request: Request, source: HookSource, secret: str, *, status: int = 200) -> Response:
    return render(
        request, "hook_secret.html", status=status, source=source, secret=secret, address=_address(request, source)
    )


def _address(request: Request, source: HookSource) -> str:
    return f"{base_url(request)}/v1/hooks/{source.id}"


@router.get("/sources/{source_id}")
def source_page(request: Request, source_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show a source, and how to set up its registry."""
    source = sources.get(resources, project, source_id)
    return render(
        request,
        "hook_source.html",
        source=source,
        address=_address(request, source),
        rules=rules.page(resources, project, limit=MOST, source_id=source.id),
        title=RECEIVERS[source.kind].title if source.kind in RECEIVERS else source.kind,
    )


@router.post("/sources/{source_id}/rotate")
def rotate(request: Request, source_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Make a new secret, and show it this once."""
    row, secret = sources.rotate(resources, project, source_id, SecretRotation())
    return _secret(request, row, secret)


@router.post("/sources/{source_id}/delete")
def delete(source_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Remove a source with its rules and deliveries."""
    sources.delete(resources, project, source_id)
    return RedirectResponse(HOME, 303)


@router.get("/deliveries")
def deliveries_page(
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    before: Id = None,
    source: Id = None,
    state: State = "",
) -> Response:
    """List what registries delivered."""
    rows, verdicts = inbox.page(
        resources.database, project, before=before, limit=PAGE + 1, source_id=source or None, state=state or None
    )
    source_rows = sources.page(resources, project, limit=MOST)
    older = f"{HOME}/deliveries?before={rows[PAGE - 1].id}" if len(rows) > PAGE else None
    if older:
        older += "".join(f"&{name}={value}" for name, value in (("source", source), ("state", state)) if value)
    return render(
        request,
        "hook_deliveries.html",
        rows=rows[:PAGE],
        verdicts=verdicts,
        older=older,
        sources=source_rows,
        source=source,
        state=state,
        names=_names(source_rows, rules.page(resources, project, limit=MOST)),
    )


@router.get("/deliveries/{delivery_id}")
def delivery_page(request: Request, delivery_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show a delivery, and what each rule made of it."""
    row = inbox.delivery(resources.database, project, delivery_id)
    verdicts = inbox.verdicts(resources.database, row.id)
    source = sources.get(resources, project, row.source_id)
    names = {rule.id: rule.name for rule in rules.page(resources, project, limit=MOST)}
    return render(request, "hook_delivery.html", row=row, verdicts=verdicts, source=source, names=names)


@router.post("/deliveries/{delivery_id}/replay")
def replay(delivery_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Hold a delivery against the rules as they are now."""
    inbox.replay(resources.database, project, delivery_id)
    return RedirectResponse(f"{HOME}/deliveries/{delivery_id}", 303)
