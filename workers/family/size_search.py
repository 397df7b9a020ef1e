"""The search of a target: trials without recovery, one at a time; the best cut is then carried out as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from espalier.messages import ErrorInfo
from espalier.probe import ModelFacts
from espalier.recipe.base import canonical
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.target import Target, Unit
from espalier.search.size import Cut, Split, Tried
from workers.family.quality_search import alone, increase, report_of, spawn, take
from workers.lease import endings
from workers.lease.retries import JobFailed, silent
from workers.messages import Resolved


def go_on(spec: CompressionSpec, resolved: Resolved | None, found: Sequence[Job]) -> None:
    """Raise Handover with the next trial, the last job or the end of the search; JobFailed when there is none."""
    target = spec.objective
    if not isinstance(target, Target):
        return
    sizes = ModelFacts.model_validate_json(canonical(resolved.facts)).sizes if resolved else None
    if sizes is None:
        raise JobFailed(silent("the fetcher did not say how large the parts of the model are"))
    split = Split(target, spec.structure, sizes, str(spec.output.dtype))
    last = found[-1] if found and _carries_out(found[-1], spec) else None
    trials = list(found[:-1] if last else found)
    tried = _on_one_clock([_tried(child, split) for child in trials], target)
    best = split.best(tried)
    if any(trial.dense is not None and trial.dense <= target.at_most for trial in tried):
        raise JobFailed(_nothing_has_to_go(split, tried))
    if last is None:
        cut = split.next(tried)
        if cut is not None:
            raise endings.Handover(lambda session, job, now: _try(session, job, split, cut, len(tried) + 1, now))
        if best is None:
            raise JobFailed(_out_of_reach(split, tried))
        if _recovers(spec):
            raise endings.Handover(lambda session, job, now: _carry_out(session, job, split, best.cut, now))
    assert best is not None
    winner = last or trials[tried.index(best)]
    report_of(winner)  # of the last job, an error is the search's own
    told = _told(split, tried, trials, best) | {"job_id": winner.id}
    raise endings.Handover(lambda session, job, now: take(session, job, winner.id, told, now))


def _recovers(spec: CompressionSpec) -> bool:
    return bool(spec.reconstruct or spec.retrain or spec.evaluate.tasks or spec.evaluate.divergence)


def _carries_out(child: Job, spec: CompressionSpec) -> bool:
    """Tell the last job from a trial: it recovers, or measures more."""
    theirs = child.request["spec"]
    return _recovers(spec) and any(
        (theirs["reconstruct"], theirs["retrain"], theirs["evaluate"]["tasks"], theirs["evaluate"]["divergence"])
    )  # fmt: skip


def _try(session: Session, job: Job, split: Split, cut: Cut, number: int, now: datetime) -> None:
    spec = alone(job)
    timed = split.target.unit == "seconds_per_token"
    calibration = spec.calibration
    if calibration.selection == "loss_gap":  # it picks the text of recovery
        calibration = calibration.model_copy(update={"selection": "random"})
    evaluate = spec.evaluate.model_copy(
        update={"tasks": [], "divergence": False, "latency": timed or spec.evaluate.latency}
    )
    trial = spec.model_copy(
        update={
            "prune": [*split.steps_of(cut), *spec.masking], "calibration": calibration, "evaluate": evaluate,
            "reconstruct": None, "retrain": None, "soup": None,
        }
    )  # fmt: skip
    spawn(session, job, trial, name=f"{job.name} trial {number}: {_words(split, cut)}", now=now)


def _carry_out(session: Session, job: Job, split: Split, cut: Cut, now: datetime) -> None:
    spec = alone(job)
    whole = spec.model_copy(update={"prune": [*split.steps_of(cut), *spec.masking]})
    spawn(session, job, whole, name=f"{job.name}: {_words(split, cut)}", now=now)


def _tried(child: Job, split: Split) -> Tried:
    report = report_of(child)
    steps = CompressionSpec.model_validate_json(canonical(child.request["spec"])).structure
    cut = split.cut_of(steps)
    if report is None:
        return Tried(cut, None, None)
    unit = split.target.unit
    return Tried(cut, _measured(report["compressed"], unit), increase(report), _measured(report["dense"], unit))


def _on_one_clock(tried: Sequence[Tried], target: Target) -> list[Tried]:
    """Times as the first trial would have taken them: a busy worker slows the dense model beside it as much."""
    clock = next((trial.dense for trial in tried if trial.dense), None)
    if target.unit != "seconds_per_token" or clock is None:
        return list(tried)
    return [
        replace(trial, measured=trial.measured / trial.dense * clock, dense=clock)
        if trial.measured is not None and trial.dense
        else trial
        for trial in tried
    ]


def _measured(side: dict[str, Any], unit: Unit) -> float | None:
    if unit != "seconds_per_token":
        return float(side[unit])
    latency = side.get("latency")
    return float(latency["decode_seconds_per_token"]["median"]) if latency else None


def _told(split: Split, tried: Sequence[Tried], trials: Sequence[Job], best: Tried) -> dict[str, Any]:
    unit = split.target.unit
    rows = [
        {
            "job_id": child.id, **_amounts(split, trial.cut), unit: _whole(trial.measured), "kept": split.meets(trial),
            "relative_increase": trial.increase,
        }
        for child, trial in zip(trials, tried, strict=True)
    ]  # fmt: skip
    bound = {name: value for name, value in split.target.model_dump().items() if value is not None}
    return {**bound, **_amounts(split, best.cut), "trials": rows}


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


def _amounts(split: Split, cut: Cut) -> dict[str, Any]:
    """How much of every part goes."""
    amounts: dict[str, Any] = {step.pattern.kind: 0.0 for step in split.steps}
    if "depth" in amounts:
        amounts["depth"] = 0
    for step in split.steps_of(cut):
        amounts[step.pattern.kind] = cut.blocks if step.pattern.kind == "depth" else step.sparsity
    return {"removed": amounts}


def _words(split: Split, cut: Cut) -> str:
    amounts = _amounts(split, cut)["removed"].items()
    return ", ".join(f"{value} blocks" if kind == "depth" else f"{value:.1%} of {kind}" for kind, value in amounts)


def _out_of_reach(split: Split, tried: Sequence[Tried]) -> ErrorInfo:
    unit = split.target.unit
    return _refusal(
        f"no cut that was tried keeps {split.target.at_most:.6g} {unit}: {_range(tried)}",
        hint=f"Raise objective.{unit} or max_trials, or let the steps take more.",
    )


def _nothing_has_to_go(split: Split, tried: Sequence[Tried]) -> ErrorInfo:
    bound = f"{split.target.at_most:.6g} {split.target.unit}"
    return _refusal(f"the model keeps {bound} as it is: {_range(tried)}", hint="Ask for less.")


def _range(tried: Sequence[Tried]) -> str:
    least = min((trial.measured for trial in tried if trial.measured is not None), default=None)
    dense = next((trial.dense for trial in tried if trial.dense is not None), None)
    return f"trials reached {least:.6g}, the dense model {dense:.6g}" if least and dense else "no trial gave a model"


def _refusal(message: str, *, hint: str) -> ErrorInfo:
    return ErrorInfo(class_="invalid_spec", retryable=False, phase=None, message=message, hint=hint)
