"""Proposals: jobs that wait for a person, who approves or rejects them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.bodies.stored import stored_request
from app.db.hook import HookProposal
from app.db.queries.connections import hooks
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.errors import AlreadyDecided, NotFound
from app.platform import actor as actors
from app.services.jobs import rights, submit
from app.services.resources import Resources


def get(resources: Resources, project_id: str, proposal_id: str) -> HookProposal:
    """Return a proposal; raises NotFound."""
    with resources.database.reading() as session:
        return _require(session, project_id, proposal_id)


def page(
    resources: Resources,
    project_id: str,
    *,
    before: str | None = None,
    limit: int,
    state: str | None = None,
    rule_id: str | None = None,
) -> Sequence[HookProposal]:
    """Return the proposals of a project, of one state or one rule, newest first."""
    with resources.database.reading() as session:
        return hooks.page(session, HookProposal, project_id, before=before, limit=limit, state=state, rule_id=rule_id)


def approve(resources: Resources, project_id: str, proposal_id: str) -> HookProposal:
    """Make the job of a proposal, once; raises AlreadyDecided when it was rejected."""
    with resources.database.reading() as session:
        sent = _require(session, project_id, proposal_id).request
    request = stored_request(sent)
    rights.require_to_submit(request.spec.output.publish, at="")
    admitted = submit.admitted_of(resources, project_id, request)
    with resources.database.unit_of_work() as session:
        row = _require(session, project_id, proposal_id, lock=True)
        if _decide(session, row, "approved"):
            now = clock(session)
            origin = {"proposal_id": row.id, "rule_id": row.rule_id, "delivery_id": row.delivery_id}
            job = submit.new_job(project_id, sent, admitted, now)
            row.job_id = submit.write(session, job, admitted, None, origin, now).job_id
    resources.notifier.notify(admitted.worker_class)
    return row


def reject(resources: Resources, project_id: str, proposal_id: str) -> HookProposal:
    """Let a proposal be; raises AlreadyDecided when it was approved."""
    with resources.database.unit_of_work() as session:
        row = _require(session, project_id, proposal_id, lock=True)
        _decide(session, row, "rejected")
    return row


def _decide(session: Session, row: HookProposal, state: str) -> bool:
    """Record a decision, and tell whether it is the first."""
    if row.state == state:
        return False
    if row.state != "waiting":
        raise AlreadyDecided(f"The proposal is {row.state}.")
    row.state, row.decided_at = state, clock(session)
    row.decided_by = (actors.current() or actors.LOCAL).document()
    verb = {"approved": "approve", "rejected": "reject"}[state]
    audit.record(session, f"hook_proposal.{verb}", row.id, now=row.decided_at)
    return True


def _require(session: Session, project_id: str, proposal_id: str, *, lock: bool = False) -> HookProposal:
    row = hooks.proposal(session, proposal_id, lock=lock)
    if row is None or row.project_id != project_id:
        raise NotFound
    return row
