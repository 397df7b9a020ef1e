"""The part of a job that changes weights: prune, reconstruct, retrain; once or in cycles, each with a soup or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.prune import calibrate, prune
from espalier.recipe.recovery import Cycles
from espalier.reconstruct import reconstruct
from espalier.repetition import Turn
from espalier.retrain import retrain, soup
from espalier.session import Context


class MembersWanted(Exception):
    """The weights that the members of a soup start from are finished, and others are to train them."""


def run(context: Context) -> None:
    """Go through all turns of a spec; raises MembersWanted where it goes on elsewhere."""
    cycles = context.request.spec.cycles
    if cycles is None:
        context.recovery |= _turn(context)
        return
    for number in range(1, cycles.count + 1):
        context.turn = _cycle(context, cycles, number)
        context.before_pruning = context.weights
        _describe(context, number, _turn(context))
    context.turn = Turn()


def _turn(context: Context) -> dict[str, Any]:
    """Go through one turn; what the report says of its soup, if there is one."""
    spec = context.request.spec
    # A model that is already sparse and stays as it is reads no calibration text.
    plan = calibrate.run(context) if spec.masking or spec.reconstruct else None
    if spec.masking or spec.reconstruct or spec.retrain or not spec.structure:
        prune.run(context, plan)
    if spec.reconstruct is not None:
        reconstruct.run(context, plan)
    if spec.soup is None:
        if spec.retrain is not None:
            retrain.run(context)
        return {}
    if context.request.member_dirs:
        return {"soup": soup.run(context, [Path(folder) for folder in context.request.member_dirs])}
    if context.request.spread and spec.cycles is None:
        retrain.search(context)  # once for all
        raise MembersWanted
    return {"soup": soup.retrain_and_average(context)}


def _cycle(context: Context, cycles: Cycles, number: int) -> Turn:
    spec = context.request.spec
    share = cycles.sparsity(number, spec.masking[0].share)
    varied = spec.retrain and spec.retrain.model_copy(update={"steps": cycles.steps(number, spec.retrain.steps)})
    name = f"cycle-{number}"
    return Turn(name, cycle=name, sparsity=share, retrain=varied)


def _describe(context: Context, number: int, more: dict[str, Any]) -> None:
    """What the report says of a cycle; rows of the phases carry its name."""
    numbers = {done.phase: done.perplexity for done in context.phases if done.turn == context.turn.name}
    rows = context.recovery.setdefault("cycles", [])
    rows.append(
        {
            "cycle": number,
            "sparsity": context.turn.sparsity,
            "steps": context.retrain.steps if context.retrain else 0,
            "perplexity": {phase: value for phase, value in numbers.items() if value},
            **({"retraining": dict(context.protocol["retraining"])} if context.retrain else {}),
            **more,
        }
    )
