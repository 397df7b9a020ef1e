"""The second walk: refit the kept weights window by window, masks fixed (Free Lunch, arXiv 2510.14444)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from app.specs.steps import Reconstruct
from workers.engine import masks
from workers.engine.fit import Fit, FitPlan, Window, fit
from workers.engine.layout import Block
from workers.engine.numerics import derived_seed
from workers.engine.submodules import Run
from workers.engine.trainables import Trainable, freeze, window_trainables
from workers.engine.windows import DenseWalk, Part, parts_of
from workers.phases.base import Context, PhaseRun
from workers.phases.scoring import score_weights


def run(context: Context) -> None:
    """Fit every window of every block; finished blocks of an earlier attempt are taken as they are."""
    spec = context.request.spec.reconstruct
    assert spec is not None
    blocks = context.streamed.layout.blocks
    with context.phase("reconstructing", total=len(blocks), unit="block") as phase:
        stored = {block.index: phase.stored_block(block.index) for block in blocks}
        trained = sum(int(data["trained"]) for data in stored.values() if data is not None)
        walk: DenseWalk | None = None
        for block in blocks:
            if stored[block.index] is None:
                walk = _walk_to(block, context, spec, walk)
                trained += _BlockFit(context, phase, spec, walk, block).finish()
            phase.progress(block.index + 1)
        context.trained[phase.name] = trained
        if phase.finished() is None:
            if context.request.spec.evaluate.after_each_phase:
                phase.perplexity = score_weights(context, context.weights)
            phase.finish()


def _walk_to(block: Block, context: Context, spec: Reconstruct, walk: DenseWalk | None) -> DenseWalk:
    """The dense stream at the entrance of a block: past blocks that are finished it goes by forward passes alone."""
    if walk is None:
        walk = DenseWalk(context.streamed, context.calibration_windows(), context.dense, batch_size=spec.batch_size)
    while walk.index < block.index:
        with context.streamed.block(walk.index, context.dense) as dense:
            walk.advance(walk.through(walk.run(dense)))
    return walk


@dataclass
class _BlockFit:
    context: Context
    phase: PhaseRun
    spec: Reconstruct
    walk: DenseWalk
    block: Block

    def __post_init__(self) -> None:
        known = set(self.context.weights.mask_names)
        pruned = [matrix for matrix in self.block.matrices if matrix.name in known]
        self.names = {f"{matrix.local}.weight": matrix.name for matrix in pruned}
        self.masks = {
            f"{matrix.local}.weight": matrix.view(self.context.mask(matrix.name)).to(self.context.device)
            for matrix in pruned
        }
        """By parameter name within the block, in the parameter's own shape."""

    def finish(self) -> int:
        """Fit the block's windows, write what changed, and return how many numbers could move."""
        began = time.monotonic()
        streamed, index = self.context.streamed, self.block.index
        moved: list[Trainable] = []
        with (
            streamed.block(index, self.context.dense) as dense,
            streamed.block(index, self.context.weights, dtype=torch.float32) as block,
        ):
            run = self._in_compute_dtype(self.walk.run(block))
            for part in parts_of(self.spec.window, self.walk, dense, self.block):
                moved += self._fit(part, block, run)
        tensors = {self.block.tensors[item.name]: self._settled(item) for item in moved}
        trained = sum(item.count for item in moved)
        self.phase.finish_block(index, tensors, {}, seconds=time.monotonic() - began, data={"trained": trained})
        return trained

    def _fit(self, part: Part, block: nn.Module, run: Run) -> list[Trainable]:
        """Fit one window; nothing to do where nothing was pruned."""
        if not part.owned & self.masks.keys():
            return []
        tensors = self.block.tensors
        items = window_trainables(
            block,
            kinds=self.spec.trainable,
            masks=self.masks,
            stored={name: self.context.weights.dtype(tensors[name]) for name, _ in block.named_parameters()},
            among=part.owned,
        )
        if not items:
            return []
        child = self._in_compute_dtype(block.get_submodule(part.child)) if part.child else run
        window = Window(child, items, part.inputs, part.targets, residual=part.residual)
        with part.within(block):
            result = fit(window, self._plan(part))
        freeze(block)
        self._report(part, result)
        return items

    def _plan(self, part: Part) -> FitPlan:
        seed = derived_seed(self.context.request.spec.calibration.seed, "reconstructing", self.block.index, part.name)
        rate = self.spec.learning_rate
        return FitPlan(
            epochs=self.spec.epochs,
            batch_size=self.spec.batch_size,
            validation_fraction=self.spec.validation_fraction,
            learning_rate=None if rate == "auto" else rate,
            seed=seed,
        )

    def _report(self, part: Part, result: Fit) -> None:
        for name, value in (
            ("error_before", result.error_before),
            ("error_after", result.error_after),
            ("learning_rate", result.learning_rate),
        ):
            self.phase.metric(f"{part.name}.{name}", self.block.index, value)

    def _settled(self, item: Trainable) -> torch.Tensor:
        tensor = item.parameter.detach().to(item.stored)
        if item.mask is not None:
            masks.prove(tensor, item.mask, module=self.names[item.name])
        return tensor

    def _in_compute_dtype(self, run: Run) -> Run:
        """Float32 parameters, forward passes in the compute dtype."""
        dtype, device = self.context.compute_dtype, self.context.device

        def cast(inputs: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                return run(inputs)

        return cast
