"""Run one job from its request to its artifact: the phases in order, and the trials of a search."""

from __future__ import annotations

from espalier.distributed.group import RankGroup
from espalier.messages import ComputeRequest, Done, MembersRequested
from espalier.pipeline.computing import compute
from espalier.pipeline.trials import Trials
from espalier.search import search_for
from espalier.session import Session
from espalier.session.reporter import Listener

__all__ = ["compute", "run"]


def run(request: ComputeRequest, listener: Listener, group: RankGroup | None = None) -> Done | MembersRequested:
    """Carry out a resolved job; MembersRequested where it leaves the members of a soup to jobs of their own.

    `group`: the ranks that compute it together, each of which calls this; None: this process alone.
    Raises EngineError for what the user can correct; call numerics.use_deterministic_algorithms before.
    """
    search = search_for(request.spec, request.sizes)
    if search is None:
        return compute(Session(request, listener, group))
    return Trials(request, listener, group or RankGroup.alone()).run(search)
