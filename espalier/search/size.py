"""Search for the best quality at a size or a speed: trials without recovery, then the best candidate with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

from espalier.errors import NothingKeptError
from espalier.families.sizes import Sizes
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Target, Unit
from espalier.search.split import Candidate, CandidateTrial, Split
from espalier.search.trials import Outcome, Trial, Winner, increase, without_search


@dataclass(frozen=True)
class SizeSearch:
    """Splits a target over the steps that remove whole parts."""

    spec: CompressionSpec
    target: Target
    sizes: Sizes

    def next(self, outcomes: Sequence[Outcome]) -> Trial | Winner:
        """Return the next candidate as a trial, the best one as the final job, or the winner that ends the search."""
        tried, last = self._read(outcomes)
        self._require_something_to_remove(tried)
        best = self.split.best(tried)
        if last is None:
            candidate = self.split.next(tried)
            if candidate is not None:
                return Trial(self._trial(candidate), f"trial {len(tried) + 1}: {self._label(candidate)}")
            if best is not None and self._recovers(self.spec):
                return Trial(self._whole(best.candidate), f"result: {self._label(best.candidate)}")
        if best is None:
            self._refuse_as_out_of_reach(tried)
        if last is not None and last.report is None:
            raise NothingKeptError(
                f"the best candidate ({self._label(best.candidate)}) gave no model after the spec's recovery",
                hint="Lower retrain.learning_rate, or raise the target.",
            )
        return Winner(len(tried) if last else tried.index(best), self._objective(tried, best))

    def best(self, outcomes: Sequence[Outcome]) -> int | None:
        """Return the index of the trial of the lowest perplexity that keeps the target."""
        tried, _ = self._read(outcomes)
        best = self.split.best(tried)
        return None if best is None else tried.index(best)

    def _read(self, outcomes: Sequence[Outcome]) -> tuple[list[CandidateTrial], Outcome | None]:
        """Return the candidates that were tried, and the last job, which carries the best of them out."""
        last = outcomes[-1] if outcomes and self._carries_out(outcomes[-1].spec) else None
        tried = [self._tried(outcome) for outcome in outcomes[: -1 if last else None]]
        return on_one_clock(tried, self.target), last

    @cached_property
    def split(self) -> Split:
        """The arithmetic of candidates."""
        return Split(self.target, self.spec.structure, self.sizes, str(self.spec.output.dtype))

    def _trial(self, candidate: Candidate) -> CompressionSpec:
        spec = without_search(self.spec)
        timed = self.target.unit == "seconds_per_token"
        calibration = spec.calibration
        if calibration.selection == "loss_gap":  # it picks the text of recovery
            calibration = calibration.model_copy(update={"selection": "random"})
        evaluate = spec.evaluate.model_copy(
            update={"tasks": [], "divergence": False, "latency": timed or spec.evaluate.latency}
        )
        unrecovered = {"reconstruct": None, "retrain": None, "soup": None}
        return self._reduced(spec, candidate).model_copy(
            update={"calibration": calibration, "evaluate": evaluate, **unrecovered}
        )

    def _whole(self, candidate: Candidate) -> CompressionSpec:
        return self._reduced(without_search(self.spec), candidate)

    def _reduced(self, spec: CompressionSpec, candidate: Candidate) -> CompressionSpec:
        return spec.model_copy(update={"prune": [*self.split.steps_of(candidate), *spec.masking]})

    def _carries_out(self, theirs: CompressionSpec) -> bool:
        """Tell whether a job is the final one and no trial: it recovers, or measures more."""
        return self._recovers(self.spec) and self._recovers(theirs)

    @staticmethod
    def _recovers(spec: CompressionSpec) -> bool:
        return bool(spec.reconstruct or spec.retrain or spec.evaluate.tasks or spec.evaluate.divergence)

    def _tried(self, outcome: Outcome) -> CandidateTrial:
        candidate, report, unit = self.split.candidate_of(outcome.spec.structure), outcome.report, self.target.unit
        if report is None:
            return CandidateTrial(candidate, None, None)
        return CandidateTrial(
            candidate, _measured(report["compressed"], unit), increase(report), _measured(report["dense"], unit)
        )

    def _objective(self, tried: Sequence[CandidateTrial], best: CandidateTrial) -> dict[str, Any]:
        rows = [
            {
                **self._removed(trial.candidate),
                self.target.unit: _whole_number(trial.measured),
                "kept": self.split.meets(trial),
                "relative_increase": trial.increase,
            }
            for trial in tried
        ]
        return {**self.target.model_dump(exclude_none=True), **self._removed(best.candidate), "trials": rows}

    def _removed(self, candidate: Candidate) -> dict[str, Any]:
        """Return the label of a candidate: how much of every part is removed."""
        removed: dict[str, Any] = {step.pattern.kind: 0.0 for step in self.split.steps}
        if "depth" in removed:
            removed["depth"] = 0
        for step in self.split.steps_of(candidate):
            removed[step.pattern.kind] = candidate.blocks if step.pattern.kind == "depth" else step.sparsity
        return {"removed": removed}

    def _label(self, candidate: Candidate) -> str:
        removed = self._removed(candidate)["removed"].items()
        return ", ".join(f"{value} blocks" if kind == "depth" else f"{value:.1%} of {kind}" for kind, value in removed)

    def _require_something_to_remove(self, tried: Sequence[CandidateTrial]) -> None:
        if any(trial.dense is not None and trial.dense <= self.target.at_most for trial in tried):
            bound = f"{self.target.at_most:.6g} {self.target.unit}"
            raise NothingKeptError(f"the model keeps {bound} as it is: {_range(tried)}", hint="Ask for less.")

    def _refuse_as_out_of_reach(self, tried: Sequence[CandidateTrial]) -> NoReturn:
        raise NothingKeptError(
            f"no candidate that was tried keeps {self.target.at_most:.6g} {self.target.unit}: {_range(tried)}",
            hint=f"Raise objective.{self.target.unit} or max_trials, or let the steps take more.",
        )


def on_one_clock(tried: Sequence[CandidateTrial], target: Target) -> list[CandidateTrial]:
    """Return times as the first trial would have taken them: a busy worker slows the dense model beside it as much."""
    clock = next((trial.dense for trial in tried if trial.dense), None)
    if target.unit != "seconds_per_token" or clock is None:
        return list(tried)
    return [
        replace(trial, measured=trial.measured / trial.dense * clock, dense=clock)
        if trial.measured is not None and trial.dense
        else trial
        for trial in tried
    ]


def _measured(side: Mapping[str, Any], unit: Unit) -> float | None:
    if unit != "seconds_per_token":
        return float(side[unit])
    latency = side.get("latency")
    return float(latency["decode_seconds_per_token"]["median"]) if latency else None


def _whole_number(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


def _range(tried: Sequence[CandidateTrial]) -> str:
    smallest = min((trial.measured for trial in tried if trial.measured is not None), default=None)
    dense = next((trial.dense for trial in tried if trial.dense is not None), None)
    return (
        f"trials reached {smallest:.6g}, the dense model {dense:.6g}" if smallest and dense else "no trial gave a model"
    )
