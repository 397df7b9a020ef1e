"""Search the learning rate by short trials of a retraining from one start; trials are stored for resumed runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from espalier.checkpoint_names import RATE_SEARCH, STATE
from espalier.memory.work import trials
from espalier.retrain import rate_grid
from espalier.retrain.train import DivergedError, Trainer
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.training.trainables import Trainable, restore, snapshot

BASE_RATES: Final = {
    "norms": 2e-2,
    "biases": 1e-2,
    "head": 4e-3,
    "embeddings": 1e-3,
    "weights": 1e-3,
    "mask_lora": 4e-3,
    "scale_lora": 1e-2,
    "lora_prune": 4e-3,
    "lora": 4e-3,
    "spp": 2e-2,
}
"""Rates that a factor multiplies: vectors bear higher ones than adapters, and those than weights."""
FIRST: Final = -1
"""The index that is tried first, and taken where a retraining is too short for trials: about a third."""
DIVERGED_FACTOR: Final = 2.0
"""A trial whose loss is so many times that of its first step has diverged, and ends."""


def scaled(factor: float) -> dict[str, float]:
    """Scale the base rate of every kind of trainable."""
    return {kind: factor * rate for kind, rate in BASE_RATES.items()}


def search(
    session: Session,
    phase: PhaseRun,
    items: list[Trainable],
    *,
    steps: int,
    trainer: Callable[[float, int], Trainer],
    judge: Callable[[], float],
) -> float:
    """Search the factor of the base rates by trials on held-out text; recorded in the protocol.

    `trainer`: (factor, steps) -> a fresh run from the start, at which the items stand before and afterwards.
    """
    stored = session.reporter.stored(phase.name, RATE_SEARCH)
    if stored is None:
        record: dict[str, Any] = {"start": _finite_or_none(judge()), "trials": [], "factor": None}
    else:  # a state's seconds count the search's already
        record = dict(stored.data if session.reporter.stored(phase.name, STATE) else phase.reuse(stored))
    max_trials, length = trials(steps)
    losses = {int(row["rung"]): _inf_if_none(row["validation_loss"]) for row in record["trials"]}
    start = snapshot(items)

    def following() -> int | None:
        return rate_grid.next_index(losses, first=FIRST) if len(losses) < max_trials else None

    while record["factor"] is None:
        began, index = time.monotonic(), following()
        if index is not None:
            losses[index] = _trial(trainer(rate_grid.factor(index), length), judge)
            restore(items, start)
            record["trials"] = [*record["trials"], _row(index, losses[index], length, time.monotonic() - began)]
            phase.progress(0)
        if following() is None:
            chosen = rate_grid.chosen(losses, start=_inf_if_none(record["start"])) if losses else FIRST
            record["factor"] = rate_grid.factor(chosen)
        _keep(session, phase, record)
    describe_search(session, record)
    return float(record["factor"])


def describe_search(session: Session, record: Mapping[str, Any]) -> None:
    """Record a search, as its checkpoint holds it, in the protocol."""
    session.results.protocol.setdefault("retraining", {})["rate_search"] = {
        "trials": [{name: row[name] for name in ("factor", "steps", "validation_loss")} for row in record["trials"]],
        "start": record["start"],
        "factor": record["factor"],
    }


def _trial(trial: Trainer, judge: Callable[[], float]) -> float:
    first = math.inf
    try:
        while trial.step < trial.plan.steps:
            loss = trial.advance().loss
            first = loss if trial.step == 1 else first
            if loss > DIVERGED_FACTOR * first:
                return math.inf
    except DivergedError:
        return math.inf
    return _inf_if_none(_finite_or_none(judge()))


def _row(index: int, loss: float, steps: int, seconds: float) -> dict[str, Any]:
    return {
        "rung": index,
        "factor": rate_grid.factor(index),
        "steps": steps,
        "seconds": seconds,
        "validation_loss": _finite_or_none(loss),
    }


def _finite_or_none(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _inf_if_none(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _keep(session: Session, phase: PhaseRun, record: dict[str, Any]) -> None:
    if not session.group.leads:
        return
    seconds = sum(row["seconds"] for row in record["trials"])
    path = session.reporter.checkpoint_path(phase.name, RATE_SEARCH, version=f"{len(record['trials'])}", suffix=".json")
    path.write_text(json.dumps(record, sort_keys=True))
    session.reporter.checkpoint(phase.name, RATE_SEARCH, path, {**record, "seconds": seconds})
