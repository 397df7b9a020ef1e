"""The part of a job that changes weights: prune, reconstruct, retrain; once, in cycles, or with a soup at the end."""

from __future__ import annotations

from pathlib import Path

from app.specs.recovery import Cycles
from workers.phases import calibrate, prune, reconstruct, retrain, soup
from workers.phases.base import Context
from workers.phases.turn import Turn


class MembersWanted(Exception):
    """The weights that the members of a soup start from are finished, and others are to train them."""


def run(context: Context) -> None:
    """Go through all turns of a spec; raises MembersWanted where it goes on elsewhere."""
    cycles = context.request.spec.cycles
    if cycles is None:
        _turn(context)
        return
    for number in range(1, cycles.count + 1):
        context.turn = _cycle(context, cycles, number)
        context.before_pruning = context.weights
        _turn(context)
        _describe(context, number)
    context.turn = Turn()


def _turn(context: Context) -> None:
    spec = context.request.spec
    # A model that is already sparse and stays as it is reads no calibration text.
    plan = calibrate.run(context) if spec.masking or spec.reconstruct else None
    if spec.masking or spec.reconstruct or spec.retrain or not spec.structure:
        prune.run(context, plan)
    if spec.reconstruct is not None:
        reconstruct.run(context, plan)
    if spec.soup is None and spec.retrain is not None:
        retrain.run(context)
    elif spec.soup is not None and context.request.member_dirs:
        soup.run(context, [Path(folder) for folder in context.request.member_dirs])
    elif spec.soup is not None and context.request.spread:
        raise MembersWanted
    elif spec.soup is not None:
        soup.retrain_and_average(context)


def _cycle(context: Context, cycles: Cycles, number: int) -> Turn:
    spec = context.request.spec
    share = cycles.sparsity(number, spec.masking[0].share)
    varied = spec.retrain and spec.retrain.model_copy(update={"steps": cycles.steps(number, spec.retrain.steps)})
    return Turn(f"cycle-{number}", sparsity=share, retrain=varied)


def _describe(context: Context, number: int) -> None:
    """What the report says of a cycle; rows of the phases carry its name."""
    numbers = {done.phase: done.perplexity for done in context.phases if done.turn == context.turn.name}
    rows = context.recovery.setdefault("cycles", [])
    rows.append(
        {
            "cycle": number,
            "sparsity": context.turn.sparsity,
            "steps": context.retrain.steps if context.retrain else 0,
            "perplexity": {phase: value for phase, value in numbers.items() if value},
        }
    )
