"""Build and check the calibration windows, and allocate the sparsity of every matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file, save_file

from espalier.checkpoint_names import NORMS
from espalier.distributed.shards import Shards
from espalier.methods.allocation import clip_to_pattern, counts_below_threshold
from espalier.methods.base import LayerProblem, MatrixFacts
from espalier.methods.statistic import Declared, Statistic, Statistics
from espalier.methods.statistics.input_norms import InputNorms
from espalier.model.layout import Matrix
from espalier.model.numerics import generator
from espalier.prune.inputs import Inputs, stored_for, warn_of_absent
from espalier.prune.selection import score
from espalier.prune.targets import selected
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.capture import capturing
from espalier.stream.hidden_states import HiddenStates
from espalier.stream.readout import Readout
from espalier.text.overlap import overlapping, run_length


@dataclass(frozen=True)
class SparsityPlan:
    """The sparsity of every matrix, settled before pruning, and for the global scope the statistics behind it."""

    sparsities: dict[str, float]
    dense_statistics: dict[str, torch.Tensor] | None = None
    """The dense model's statistics where the global scope compared scores; None when every block sees its own."""
    inputs: Inputs | None = None
    """The input statistics of the blocks, where dense propagation makes them known before pruning."""

    def statistics(self, step: PruneStep, name: str) -> Statistics:
        """Return the statistics of a matrix that the criterion scored when the plan was made."""
        assert self.dense_statistics is not None
        return _statistics_of(self.dense_statistics, name, step.statistics)


def run(session: Session) -> SparsityPlan | None:
    """Cut and check the windows, and spread the sparsity; None for a model that is already sparse."""
    step = session.step
    passes = step is not None and bool(step.planned)
    inputs = stored_for(session, step) if step is not None else None
    walks = passes + (inputs is not None)
    total = walks * len(session.streamed.layout.blocks) or 1
    with session.reporter.phase("calibrating", total=total, unit="block" if walks else "step") as phase:
        windows_NT = session.calibration_windows()
        _describe(session, windows_NT)
        _warn(session, windows_NT)
        if step is None:
            return None
        if inputs is not None:
            inputs.gather(phase, windows_NT)
        plan = replace(_plan(session, step, phase, windows_NT, passes=passes), inputs=inputs)
        _describe_update(session, step, plan)
        return plan


def _describe_update(session: Session, step: PruneStep, plan: SparsityPlan) -> None:
    """Record the parameters of the update in the protocol; of `auto`, the solver of every matrix."""
    if step.solver is None:
        return
    took: dict[str, list[str]] = {}
    for name, sparsity in plan.sparsities.items():
        picked = step.solver.solver_for(session.streamed.layout.by_name[name].shape, sparsity=sparsity)
        took.setdefault(picked.model_dump()["kind"], []).append(name)
    picks = took if step.solver.model_dump()["kind"] not in took else {}
    session.results.protocol["update"] = step.solver.model_dump(mode="json") | ({"took": picks} if picks else {})


def below_pruned(session: Session, matrix: Matrix, score_OI: torch.Tensor) -> torch.Tensor:
    """Put what an earlier cycle has pruned below every other score: it never comes back."""
    if matrix.name not in session.weights.mask_names:
        return score_OI
    return score_OI.masked_fill(~session.mask(matrix.name).to(score_OI.device), -torch.inf)


def _describe(session: Session, windows_NT: torch.Tensor) -> None:
    calibration = session.request.spec.calibration
    text = session.calibration_text
    session.results.protocol["calibration"] = {
        "dataset": calibration.dataset.model_dump(mode="json"),
        **text.protocol(),
        "tokenizer": session.corpus.tokenizer_id,
        "selection": "random" if calibration.selection == "loss_gap" else calibration.selection,
        "seed": calibration.seed,
        "samples": windows_NT.shape[0],
        "sequence_length": windows_NT.shape[1],
        "tokens": windows_NT.numel(),
    }


def _warn(session: Session, windows_NT: torch.Tensor) -> None:
    calibration = session.request.spec.calibration
    available = len(session.calibration_text.tokens)
    if calibration.selection != "sequential" and available < 2 * windows_NT.numel():
        session.reporter.warn(
            "short_calibration_text",
            f"The calibration text has {available} tokens for {windows_NT.numel()} asked for: its crops overlap.",
        )
    for item in session.request.spec.evaluate.perplexity:
        evaluated_NT = session.evaluation_windows(item)
        shared = int(overlapping(evaluated_NT, windows_NT).sum())
        if shared:
            session.reporter.warn(
                "evaluation_overlap",
                f"{shared} of {len(evaluated_NT)} evaluation windows of {item.key} share "
                f"{run_length(evaluated_NT, windows_NT)} or more tokens in a row with the calibration windows.",
            )


def _plan(
    session: Session, step: PruneStep, phase: PhaseRun, windows_NT: torch.Tensor, *, passes: bool
) -> SparsityPlan:
    if step.pattern.spans_model:
        session.reporter.warn(
            "global_scope_on_dense_activations",
            "The global scope compares scores across blocks; all of them are taken on the dense model's activations.",
        )
    statistics = _stored_statistics(session, step, phase, windows_NT) if passes else {}
    done = phase.finished()
    if done is not None:
        sparsities = {name: float(sparsity) for name, sparsity in done["shares"].items()}
    else:
        sparsities = session.group.led(lambda: _sparsities(session, step, statistics))
        if passes or step.pattern.spans_model or step.budget.cost != "free":
            phase.finish({"shares": sparsities})
    return SparsityPlan(sparsities, statistics if step.pattern.spans_model else None)


def _stored_statistics(
    session: Session, step: PruneStep, phase: PhaseRun, windows_NT: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The planned statistics of all matrices, by the names that `_key` gives them."""
    stored = session.reporter.stored("calibrating", NORMS)
    if stored is not None:
        phase.reuse(stored)
        return load_file(session.workspace / stored.path)
    statistics = _dense_statistics(session, step, phase, windows_NT)
    path = session.reporter.checkpoint_path("calibrating", NORMS)
    if session.group.leads:
        save_file(statistics, path)
    session.reporter.checkpoint("calibrating", NORMS, path, {"seconds": phase.seconds})
    return statistics


def _dense_statistics(
    session: Session, step: PruneStep, phase: PhaseRun, windows_NT: torch.Tensor
) -> dict[str, torch.Tensor]:
    streamed = session.streamed
    statistics: dict[str, torch.Tensor] = {}
    shards = Shards.of(len(windows_NT), session.group)
    stream = HiddenStates(streamed, windows_NT, session.weights, states_in=session.states_in, shards=shards)
    for block in streamed.layout.blocks:
        matrices = selected(session, block)
        with (
            streamed.block(block.index, session.weights) as module,
            capturing(module, matrices, step.planned, siblings=block.matrices, shards=shards) as capture,
        ):
            stream.advance(module)
        warn_of_absent(session, block, capture.readers)
        for matrix in matrices:
            for kind, value in capture.statistics(matrix.name).items():
                statistics[_key(matrix.name, kind)] = value.cpu()
        phase.progress(phase.total - len(streamed.layout.blocks) + block.index + 1)
    return statistics


def _key(name: str, kind: type[Statistic]) -> str:
    """Input norms bear the name of their matrix alone: plans of earlier versions hold nothing else."""
    return name if kind is InputNorms else f"{name}/{kind.name}"


def _statistics_of(statistics: Mapping[str, torch.Tensor], name: str, declared: Declared) -> Statistics:
    return {kind: statistics[_key(name, kind)] for kind in declared if _key(name, kind) in statistics}


def _sparsities(session: Session, step: PruneStep, statistics: dict[str, torch.Tensor]) -> dict[str, float]:
    matrices = [matrix for block in session.streamed.layout.blocks for matrix in selected(session, block)]
    if step.pattern.spans_model:
        return _global_sparsities(session, step, matrices, statistics)

    def facts(matrix: Matrix) -> MatrixFacts:
        def weight() -> torch.Tensor:
            return matrix.view(session.weights.get(matrix.tensor)).float()

        known = _statistics_of(statistics, matrix.name, step.budget.statistics)
        return MatrixFacts(matrix.name, matrix.block, matrix.shape, weight, known)

    known = [facts(matrix) for matrix in matrices]
    return clip_to_pattern(
        step.budget.sparsities(step.target_sparsity, known), known, step.target_sparsity, step.pattern
    )


def _global_sparsities(
    session: Session, step: PruneStep, matrices: list[Matrix], statistics: dict[str, torch.Tensor]
) -> dict[str, float]:
    plan = SparsityPlan({}, statistics)

    def sweep() -> Iterable[tuple[str, torch.Tensor]]:
        for matrix in matrices:
            weight_OI = matrix.view(session.weights.get(matrix.tensor)).float()
            draws = generator(session.request.spec.calibration.seed, "score", matrix.name)
            problem = LayerProblem(weight_OI, plan.statistics(step, matrix.name), draws)
            with Readout() as readout:
                score_OI = score(step, problem, module=matrix.name, readout=readout)
            score_OI = below_pruned(session, matrix, score_OI)
            yield matrix.name, score_OI.clamp(min=0)  # the histogram handles non-negative scores only

    sizes = {matrix.name: matrix.shape[0] * matrix.shape[1] for matrix in matrices}
    counts = counts_below_threshold(sweep, num_pruned=round(step.target_sparsity * sum(sizes.values())))
    return {name: counts[name] / size for name, size in sizes.items()}
