"""Calibration text into windows, what is wrong with it, and the budget of the global scope."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file

from workers.engine.capture import capturing
from workers.engine.layout import Matrix
from workers.engine.numerics import generator
from workers.engine.overlap import overlapping
from workers.engine.selection import score, shares_of_global_budget
from workers.engine.walk import Stream
from workers.methods.base import InputStatistics
from workers.phases.base import Context, PhaseRun
from workers.phases.targets import selected


@dataclass(frozen=True)
class GlobalPlan:
    """How many weights of every matrix go, and the dense model's input norms that decided it."""

    counts: dict[str, int]
    norms: dict[str, torch.Tensor]

    def statistics(self, name: str) -> InputStatistics:
        """What the criterion saw of a matrix when the plan was made."""
        return InputStatistics(tokens=0, norm_I=self.norms.get(name))


def run(context: Context) -> GlobalPlan | None:
    """Cut and check the windows; for the global scope also gather the dense model's statistics."""
    step = context.step
    plans = step is not None and step.pattern.spans_model
    total = len(context.streamed.layout.blocks) if plans else 1
    with context.phase("calibrating", total=total, unit="block" if plans else "step") as phase:
        windows_NT = context.calibration_windows()
        _describe(context, windows_NT)
        _warn(context, windows_NT)
        return _plan(context, phase, windows_NT) if plans else None


def _describe(context: Context, windows_NT: torch.Tensor) -> None:
    calibration = context.request.spec.calibration
    text = context.text(calibration.dataset)
    context.protocol["calibration"] = {
        "dataset": calibration.dataset.model_dump(mode="json"),
        "text_sha256": text.sha256,
        "text_tokens": len(text.tokens),
        "tokenizer": context.corpus.tokenizer_id,
        "selection": calibration.selection,
        "seed": calibration.seed,
        "samples": windows_NT.shape[0],
        "sequence_length": windows_NT.shape[1],
        "tokens": windows_NT.numel(),
    }


def _warn(context: Context, windows_NT: torch.Tensor) -> None:
    calibration = context.request.spec.calibration
    available = len(context.text(calibration.dataset).tokens)
    if calibration.selection == "random" and available < 2 * windows_NT.numel():
        context.warn(
            "short_calibration_text",
            f"The calibration text has {available} tokens for {windows_NT.numel()} asked for: its crops overlap.",
        )
    for item in context.request.spec.evaluate.perplexity:
        evaluated_NT = context.evaluation_windows(item)
        shared = int(overlapping(evaluated_NT, windows_NT).sum())
        if shared:
            context.warn(
                "evaluation_overlap",
                f"{shared} of {len(evaluated_NT)} evaluation windows of {item.key} share 32 or more tokens in a row "
                "with the calibration windows.",
            )


def _plan(context: Context, phase: PhaseRun, windows_NT: torch.Tensor) -> GlobalPlan:
    context.warn(
        "global_scope_on_dense_activations",
        "The global scope compares scores across blocks, so all of them are taken on the dense model's activations.",
    )
    stored = context.stored("calibrating").get("norms")
    if stored is None:
        norms = _dense_norms(context, phase, windows_NT)
        path = context.checkpoint_path("calibrating", "norms")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(norms, path)
        context.checkpoint("calibrating", "norms", path, {"seconds": phase.seconds})
    else:
        norms = load_file(context.workspace / stored.path)
        phase.reuse(stored)
        done = phase.finished()
        if done is not None:
            return GlobalPlan({name: int(count) for name, count in done["counts"].items()}, norms)
    plan = GlobalPlan(_counts(context, norms), norms)
    phase.finish({"counts": plan.counts})
    return plan


def _dense_norms(context: Context, phase: PhaseRun, windows_NT: torch.Tensor) -> dict[str, torch.Tensor]:
    step, streamed = context.step, context.streamed
    assert step is not None
    if step.needs == "none":
        return {}
    assert step.needs == "norms", "the global scope keeps one vector per matrix, no Gram matrix"
    norms: dict[str, torch.Tensor] = {}
    stream = Stream(streamed, windows_NT, context.weights)
    for block in streamed.layout.blocks:
        matrices = selected(context, block)
        with (
            streamed.block(block.index, context.weights) as module,
            capturing(module, matrices, needs="norms", sample_tokens=0) as capture,
        ):
            stream.advance(module)
        for matrix in matrices:
            norm_I = capture.of(matrix.name).statistics(matrix.name).norm_I
            assert norm_I is not None
            norms[matrix.name] = norm_I.cpu()
        phase.progress(block.index + 1)
    return norms


def _counts(context: Context, norms: dict[str, torch.Tensor]) -> dict[str, int]:
    step = context.step
    assert step is not None
    matrices: list[Matrix] = [matrix for block in context.streamed.layout.blocks for matrix in selected(context, block)]
    plan = GlobalPlan({}, norms)

    def sweep() -> Iterable[tuple[str, torch.Tensor]]:
        for matrix in matrices:
            weight_OI = matrix.view(context.weights.get(matrix.tensor)).float()
            draws = generator(context.request.spec.calibration.seed, "score", matrix.name)
            yield matrix.name, score(step, weight_OI, plan.statistics(matrix.name), module=matrix.name, generator=draws)

    total = sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)
    return shares_of_global_budget(sweep, num_pruned=round(step.share * total))
