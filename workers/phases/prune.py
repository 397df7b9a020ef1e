"""The first walk: block by block, statistics of one forward pass, scores, masks, and on with the pruned outputs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from app.specs.prune import PruneStep
from workers.engine import masks
from workers.engine.capture import Capture, capturing
from workers.engine.layout import Block, Matrix
from workers.engine.numerics import generator
from workers.engine.refit import guarded
from workers.engine.selection import score
from workers.engine.stats import OutputErrors
from workers.engine.walk import Stream
from workers.messages import Layer
from workers.methods.base import NEEDS, InputStatistics, Need, Refit
from workers.phases.base import Context, PhaseRun
from workers.phases.calibrate import Plan, below_pruned
from workers.phases.scoring import score_weights
from workers.phases.targets import selected

ERROR_TOKENS = 4096
"""Calibration tokens that the error of a mask is measured on: two small products, against forwards over all of them."""


def run(context: Context, plan: Plan | None) -> None:
    """Prune every block, or take the zeros of a model that is already sparse as its masks."""
    blocks = context.streamed.layout.blocks
    if context.interleaves:
        with context.phase("pruning", unit="block"):
            return  # every block is pruned in `reconstructing`, just before it is fitted
    with context.phase("pruning", total=len(blocks), unit="block") as phase:
        walk = Walk(context, phase, plan)
        for block in blocks:
            walk.pass_(block)
            phase.progress(block.index + 1)
        if phase.finished() is None:
            phase.perplexity = _score(context)
            phase.finish()


def _score(context: Context) -> dict[str, float] | None:
    """The pruned-only model's numbers; without recovery they are the artifact's, which is scored anyway."""
    spec = context.request.spec
    if spec.reconstruct is None and spec.retrain is None:
        return None
    return score_weights(context, context.weights)


@dataclass(frozen=True)
class Pruned:
    """What pruning makes of one block."""

    rows: list[Layer]
    tensors: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]


class Walk:
    """The stream of hidden states on its way, and the pruning of the block that comes next."""

    def __init__(self, context: Context, phase: PhaseRun, plan: Plan | None) -> None:
        self.context, self.phase, self.plan = context, phase, plan
        step = context.step
        self.needs: Need = "none" if step is None or plan is None else _reads(step, plan)
        self.stream: Stream | None = None
        self.passed: list[Block] = []
        """Finished blocks that the stream has yet to go through."""

    def pass_(self, block: Block) -> None:
        """Prune one block or take it over from an earlier attempt."""
        data = self.phase.stored_block(block.index)
        if data is not None:
            for row in data["layers"]:
                self.context.layer(Layer.model_validate(row), silent=True)
            self.passed.append(block)
            return
        began = time.monotonic()
        done = self.prune(block)
        layers = [row.model_dump() for row in done.rows]
        for row in done.rows:
            self.context.layer(row)
        seconds = time.monotonic() - began
        self.phase.finish_block(block.index, done.tensors, done.masks, seconds=seconds, data={"layers": layers})
        self.passed.append(block)

    def prune(self, block: Block) -> Pruned:
        """Choose the masks of a block on what the blocks behind it give, and zero what goes; nothing is written."""
        step = self.context.step
        return Pruned(*(self._given(block) if step is None else self._prune(block, step)))

    def stream_to(self, block: Block) -> Stream:
        """The stream at the entrance of a block, through all that has been passed since it was last asked for."""
        if self.stream is None:
            self.stream = Stream(self.context.streamed, self._windows(), self.context.weights)
        for earlier in self.passed:
            with self.context.streamed.block(earlier.index, self.context.weights) as module:
                self.stream.advance(module)
        self.passed = []
        assert self.stream.index == block.index
        return self.stream

    def _windows(self) -> torch.Tensor:
        windows_NT = self.context.calibration_windows()
        if self.needs != "none":
            return windows_NT
        # Nothing but the errors is read: as many windows as those take.
        return windows_NT[: math.ceil(ERROR_TOKENS / windows_NT.shape[1])]

    def _given(self, block: Block) -> tuple[list[Layer], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        rows, kept = [], {}
        for matrix in block.matrices:
            began = time.monotonic()
            mask_OI = matrix.view(self.context.weights.get(matrix.tensor)) != 0
            kept[matrix.name] = mask_OI
            share = 1 - float(mask_OI.double().mean())
            rows.append(_row(matrix, mask_OI, "given", share, time.monotonic() - began))
        return rows, {}, kept

    def _prune(
        self, block: Block, step: PruneStep
    ) -> tuple[list[Layer], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        matrices = selected(self.context, block)
        if not matrices:
            return [], {}, {}
        stream = self.stream_to(block)
        with (
            self.context.streamed.block(block.index, self.context.weights) as module,
            capturing(module, matrices, needs=self.needs, sample_tokens=ERROR_TOKENS) as capture,
        ):
            for _ in stream.outputs(module):
                pass
        self._warn_of_idle(capture.idle_experts)
        rows: list[Layer] = []
        tensors: dict[str, torch.Tensor] = {}
        kept: dict[str, torch.Tensor] = {}
        for matrix in matrices:
            row, tensors[matrix.tensor], kept[matrix.name] = self._prune_matrix(matrix, step, capture)
            rows.append(row)
        return rows, tensors, kept

    def _warn_of_idle(self, experts: list[str]) -> None:
        if experts:
            shown = ", ".join(experts[:8]) + (f" and {len(experts) - 8} more" if len(experts) > 8 else "")
            self.context.warn(
                "idle_experts",
                f"No calibration token was routed to {shown}: their weights are judged by magnitude alone. "
                "Calibrate on more or other text.",
            )

    def _prune_matrix(
        self, matrix: Matrix, step: PruneStep, capture: Capture
    ) -> tuple[Layer, torch.Tensor, torch.Tensor]:
        began = time.monotonic()
        context = self.context
        stored = matrix.view(context.weights.get(matrix.tensor))
        weight_OI = stored.to(context.device, torch.float32)
        accumulator = capture.of(matrix.name)
        seen = accumulator.statistics(matrix.name)
        mask_OI = self._choose(matrix, step, weight_OI, seen)
        errors = OutputErrors(weight_OI, accumulator.sample(), seen.gram_II)
        pruned = masks.apply(stored.to(context.device), mask_OI)
        if step.solver is not None:
            found = self._refit(matrix, step, weight_OI, mask_OI, seen, errors, dtype=stored.dtype)
            mask_OI, pruned = found.mask_OI, found.weight_OI.to(stored.dtype)
        before, after = errors.relative(masks.apply(weight_OI, mask_OI)), errors.relative(pruned.float())
        row = _row(matrix, mask_OI, step.pattern.label(), self._share(matrix), time.monotonic() - began, before, after)
        return row, matrix.view(pruned.cpu()), mask_OI.cpu()

    def _refit(
        self,
        matrix: Matrix,
        step: PruneStep,
        weight_OI: torch.Tensor,
        mask_OI: torch.Tensor,
        seen: InputStatistics,
        errors: OutputErrors,
        *,
        dtype: torch.dtype,
    ) -> Refit:
        solver = step.solver
        assert solver is not None
        draws = generator(self.context.request.spec.calibration.seed, "update", matrix.name)
        return guarded(
            lambda: solver.solve(
                weight_OI, mask_OI, seen, pattern=step.pattern, sparsity=self._share(matrix), generator=draws
            ),
            weight_OI, mask_OI, errors, dtype=dtype, module=matrix.name,
        )  # fmt: skip

    def _choose(self, matrix: Matrix, step: PruneStep, weight_OI: torch.Tensor, seen: InputStatistics) -> torch.Tensor:
        assert self.plan is not None
        planned = self.plan.norms is not None
        statistics = self.plan.statistics(matrix.name) if planned else seen
        draws = generator(self.context.request.spec.calibration.seed, "score", matrix.name)
        score_OI = score(
            step, weight_OI.cpu() if planned else weight_OI, statistics, module=matrix.name, generator=draws
        )
        if planned:
            score_OI = score_OI.float()  # float32, as the plan compared them
        score_OI = below_pruned(self.context, matrix, score_OI)
        mask_OI = step.pattern.keep(score_OI, sparsity=self._share(matrix)).to(weight_OI.device)
        return mask_OI & ~torch.isneginf(score_OI).to(weight_OI.device)

    def _share(self, matrix: Matrix) -> float:
        assert self.plan is not None
        return self.plan.shares[matrix.name]


def _reads(step: PruneStep, plan: Plan) -> Need:
    """What the walk gathers: the plan of the global scope holds what the criterion reads."""
    later = [method.needs for method in (step.optimizer, step.solver) if method]
    return max([*later, "none" if plan.norms is not None else step.needs], key=NEEDS.index)


def _row(
    matrix: Matrix,
    mask_OI: torch.Tensor,
    pattern: str,
    share: float,
    seconds: float,
    before: float = 0.0,
    after: float = 0.0,
) -> Layer:
    return Layer(
        name=matrix.name,
        block=matrix.block,
        shape=list(matrix.shape),
        pattern=pattern,
        sparsity_requested=share,
        sparsity_achieved=1 - int(mask_OI.sum()) / mask_OI.numel(),
        error_before=before,
        error_after=after,
        seconds=seconds,
    )
