"""Run prune, reconstruct and retrain, once or in cycles, each with or without a soup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.checkpoint_names import RepetitionName
from espalier.messages import MembersRequested
from espalier.prune import calibrating, pruning
from espalier.recipe.steps.recovery import Cycles
from espalier.reconstruct import reconstructing
from espalier.retrain import retraining, soup
from espalier.session import Session
from espalier.session.reporter import Repetition


def run(session: Session) -> MembersRequested | None:
    """Run all repetitions of a spec; return MembersRequested where child jobs are to train the soup's members."""
    spec = session.request.spec
    if spec.cycles is not None:
        _cycles(session, spec.cycles)
        return None
    _prune_and_reconstruct(session)
    if spec.soup and session.request.spread and not session.request.member_dirs:
        retraining.search(session)  # once for all
        return MembersRequested()
    session.results.recovery |= _retrain(session)
    return None


def _cycles(session: Session, cycles: Cycles) -> None:
    for number in range(1, cycles.count + 1):
        session.repetition = _cycle(session, cycles, number)
        session.before_pruning = session.weights
        _prune_and_reconstruct(session)
        _describe(session, number, _retrain(session))
    session.repetition = Repetition()


def _prune_and_reconstruct(session: Session) -> None:
    spec = session.request.spec
    # A model that is already sparse and stays as it is reads no calibration text.
    plan = calibrating.run(session) if spec.masking or spec.reconstruct else None
    if spec.masking or spec.reconstruct or spec.retrain or not spec.structure:
        pruning.run(session, plan)
    if spec.reconstruct is not None:
        reconstructing.run(session, plan)


def _retrain(session: Session) -> dict[str, Any]:
    """Retrain once, or the members of a soup; return the soup's entry of the report."""
    spec = session.request.spec
    if spec.soup is None:
        if spec.retrain is not None:
            retraining.run(session)
        return {}
    if session.request.member_dirs:
        return {"soup": soup.run(session, [Path(folder) for folder in session.request.member_dirs])}
    return {"soup": soup.retrain_and_average(session)}


def _cycle(session: Session, cycles: Cycles, number: int) -> Repetition:
    spec = session.request.spec
    sparsity = cycles.sparsity(number, spec.masking[0].target_sparsity)
    varied = spec.retrain and spec.retrain.model_copy(update={"steps": cycles.steps(number, spec.retrain.steps)})
    return Repetition(RepetitionName(cycle=number), sparsity=sparsity, retrain=varied)


def _describe(session: Session, number: int, more: dict[str, Any]) -> None:
    """Add a cycle's entry to the report; rows of the phases carry its name."""
    numbers = {
        done.phase: done.perplexity for done in session.results.phases if done.turn == str(session.repetition.name)
    }
    rows = session.results.recovery.setdefault("cycles", [])
    rows.append(
        {
            "cycle": number,
            "sparsity": session.repetition.sparsity,
            "steps": session.retrain.steps if session.retrain else 0,
            "perplexity": {phase: value for phase, value in numbers.items() if value},
            **({"retraining": dict(session.results.protocol["retraining"])} if session.retrain else {}),
            **more,
        }
    )
