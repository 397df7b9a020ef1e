"""Rules: made, changed, deleted, and tried without effects."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.bodies.hooks import RuleChange, RuleRequest, RuleTrial, Template
from app.db.hook import Rule
from app.db.queries.connections import hooks
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.errors import InvalidRequest, NotFound
from app.integrations.shared.hooks import RegistryEvent
from app.platform.ids import new_id
from app.services import idempotency
from app.services.admission.admit import refused
from app.services.hooks import inbox
from app.services.hooks.decision import EvaluationContext, RuleDecision, decide
from app.services.hooks.template import STANDINS, Unfilled, spec_of
from app.services.idempotency import Key
from app.services.jobs import rights
from app.services.resources import Resources
from espalier.errors import Problem
from espalier.recipe.base import canonical
from espalier.recipe.refusals import pointers
from espalier.recipe.spec import CompressionSpec


def create(resources: Resources, project_id: str, request: RuleRequest, *, key: Key | None = None) -> Rule:
    """Make a rule; raises InvalidRequest where its template could never be a job.

    One that makes jobs by itself takes the rights to queue them: raises Forbidden. So it does whenever it is changed.
    """
    spec = check_template(request.template)
    if request.mode == "run" and request.enabled:
        rights.require_to_submit(spec.output.publish, at=_publish(request.template))
    fields = request.model_dump(mode="json", exclude={"source_id"}, exclude_unset=False)
    with resources.database.unit_of_work() as session:
        now = clock(session)
        source = hooks.source(session, request.source_id)
        if source is None or source.project_id != project_id:
            known = Problem("/source_id", "no-such-source", "give the id of a hook source of this project")
            raise InvalidRequest("There is no such source.", items=[known])
        row = Rule(
            id=new_id("rul"),
            project_id=project_id,
            source_id=source.id,
            **fields,
            scopes=rights.held(),
            day=None,
            day_count=0,
            last_at=None,
            created_at=now,
            updated_at=now,
        )
        idempotency.once(session, key, row.id, now=now)
        session.add(row)
        audit.record(session, "rule.create", row.id, now=now, name=row.name, mode=row.mode)
    return row


def get(resources: Resources, project_id: str, rule_id: str) -> Rule:
    """Return a rule; raises NotFound."""
    with resources.database.reading() as session:
        return _require(session, project_id, rule_id)


def page(
    resources: Resources, project_id: str, *, before: str | None = None, limit: int, source_id: str | None = None
) -> Sequence[Rule]:
    """Return the rules of a project, or of one source, newest first."""
    with resources.database.reading() as session:
        return hooks.page(session, Rule, project_id, before=before, limit=limit, source_id=source_id)


def change(resources: Resources, project_id: str, rule_id: str, request: RuleChange) -> Rule:
    """Change a rule; events counted today still count. Switching it off, or renaming it, takes no other right."""
    if request.template is not None:
        check_template(request.template)
    fields = {name: value for name, value in request.model_dump(mode="json").items() if value is not None}
    with resources.database.unit_of_work() as session:
        row = _require(session, project_id, rule_id)
        for name, value in fields.items():
            setattr(row, name, value)
        if not set(fields) <= {"name"} and request.enabled is not False:
            _vouch(row)
        row.updated_at = clock(session)
        audit.record(session, "rule.change", row.id, now=row.updated_at, fields=sorted(fields))
    return row


def _vouch(row: Rule) -> None:
    """Give a rule the scopes of the actor, who must have the right to submit what its template makes."""
    template = Template.model_validate(row.template)
    if row.mode == "run" and row.enabled:
        rights.require_to_submit(check_template(template).output.publish, at=_publish(template))
    row.scopes = rights.held()


def _publish(template: Template) -> str:
    return "/template/publish" if template.publish else "/template/spec/output/publish"


def delete(resources: Resources, project_id: str, rule_id: str) -> None:
    """Remove a rule with its verdicts and proposals; jobs that it made stay."""
    with resources.database.unit_of_work() as session:
        session.delete(_require(session, project_id, rule_id))
        audit.record(session, "rule.delete", rule_id, now=clock(session))


def trial(resources: Resources, project_id: str, rule_id: str, request: RuleTrial) -> RuleDecision:
    """Return the decision of a rule about a delivery, as of now; nothing is written."""
    with resources.database.reading() as session:
        rule = _require(session, project_id, rule_id)
        event = _event(session, rule, request)
        return decide(EvaluationContext(session, resources.database, resources.settings, clock(session)), rule, event)


def _event(session: Session, rule: Rule, request: RuleTrial) -> RegistryEvent:
    if request.payload is not None:
        source = hooks.source(session, rule.source_id)
        assert source is not None
        try:
            return inbox.read(source.kind, {}, request.payload)
        except InvalidRequest as error:
            error.items = tuple(Problem(f"/payload{item.pointer}", item.code, item.detail) for item in error.items)
            raise
    row = hooks.delivery(session, request.delivery_id) if request.delivery_id else None
    if row is None or row.source_id != rule.source_id:
        known = Problem("/delivery_id", "no-such-delivery", "give a delivery of the rule's source")
        raise InvalidRequest("There is no such delivery.", items=[known])
    return inbox.event_of(row)


def check_template(template: Template) -> CompressionSpec:
    """Return the spec of a template; raises InvalidRequest where it is none, whatever stands for its placeholders."""
    try:
        spec = spec_of(template, STANDINS)
    except Unfilled as error:
        raise InvalidRequest("The template cannot be filled.", items=error.problems) from None
    try:
        read = CompressionSpec.model_validate_json(canonical(spec))
    except ValidationError as error:
        items = [
            Problem(_place(template, item.pointer), item.code, item.detail)
            for item in pointers.problems_of(error, spec)
        ]
        raise InvalidRequest("The template is no valid spec.", items=items) from None
    if problems := refused(read):
        items = [
            Problem(_place(template, item.pointer.removeprefix("/spec")), item.code, item.detail) for item in problems
        ]
        raise InvalidRequest("The spec of the template cannot be used.", items=items)
    return read


def _place(template: Template, pointer: str) -> str:
    """Return the pointer into a rule for a pointer into its spec."""
    if template.preset is not None and pointer == "/preset":
        return "/template/preset"
    if template.publish and pointer.startswith("/output/publish"):
        return "/template/publish" + pointer.removeprefix("/output/publish")
    return f"/template/spec{pointer}"


def _require(session: Session, project_id: str, rule_id: str) -> Rule:
    row = hooks.rule(session, project_id, rule_id)
    if row is None:
        raise NotFound
    return row
