"""The part of a job that changes weights: prune, reconstruct, retrain; once or in cycles, each with a soup or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.prune import calibrate, prune
from espalier.recipe.recovery import Cycles
from espalier.reconstruct import reconstruct
from espalier.repetition import Turn
from espalier.retrain import retrain, soup
from espalier.session import Session


class MembersWanted(Exception):
    """The weights that the members of a soup start from are finished, and others are to train them."""


def run(session: Session) -> None:
    """Go through all turns of a spec; raises MembersWanted where it goes on elsewhere."""
    cycles = session.request.spec.cycles
    if cycles is None:
        session.results.recovery |= _turn(session)
        return
    for number in range(1, cycles.count + 1):
        session.turn = _cycle(session, cycles, number)
        session.before_pruning = session.weights
        _describe(session, number, _turn(session))
    session.turn = Turn()


def _turn(session: Session) -> dict[str, Any]:
    """Go through one turn; what the report says of its soup, if there is one."""
    spec = session.request.spec
    # A model that is already sparse and stays as it is reads no calibration text.
    plan = calibrate.run(session) if spec.masking or spec.reconstruct else None
    if spec.masking or spec.reconstruct or spec.retrain or not spec.structure:
        prune.run(session, plan)
    if spec.reconstruct is not None:
        reconstruct.run(session, plan)
    if spec.soup is None:
        if spec.retrain is not None:
            retrain.run(session)
        return {}
    if session.request.member_dirs:
        return {"soup": soup.run(session, [Path(folder) for folder in session.request.member_dirs])}
    if session.request.spread and spec.cycles is None:
        retrain.search(session)  # once for all
        raise MembersWanted
    return {"soup": soup.retrain_and_average(session)}


def _cycle(session: Session, cycles: Cycles, number: int) -> Turn:
    spec = session.request.spec
    share = cycles.sparsity(number, spec.masking[0].share)
    varied = spec.retrain and spec.retrain.model_copy(update={"steps": cycles.steps(number, spec.retrain.steps)})
    name = f"cycle-{number}"
    return Turn(name, cycle=name, sparsity=share, retrain=varied)


def _describe(session: Session, number: int, more: dict[str, Any]) -> None:
    """What the report says of a cycle; rows of the phases carry its name."""
    numbers = {done.phase: done.perplexity for done in session.results.phases if done.turn == session.turn.name}
    rows = session.results.recovery.setdefault("cycles", [])
    rows.append(
        {
            "cycle": number,
            "sparsity": session.turn.sparsity,
            "steps": session.retrain.steps if session.retrain else 0,
            "perplexity": {phase: value for phase, value in numbers.items() if value},
            **({"retraining": dict(session.results.protocol["retraining"])} if session.retrain else {}),
            **more,
        }
    )
