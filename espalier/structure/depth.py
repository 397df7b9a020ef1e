"""Depth pruning: remove whole blocks by a criterion, and fit linear replacements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, cached_property

import torch
from torch import nn

from espalier.errors import TargetsError
from espalier.evaluate.perplexity import perplexity
from espalier.methods.structured import CalibrationPass
from espalier.model.layout import Block, Matrix
from espalier.recipe.steps.structure import DepthStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.hidden_states import Batch, HiddenStates
from espalier.structure.calibration_pass import consecutive_ranges, run_calibration_pass, skipping_blocks
from espalier.structure.linear_replacement import Normal, appending_copies, last_writer, merged, outputs_of

TRIAL_WINDOWS = 16
"""Calibration windows that a model without some blocks is tried on."""


def chosen(session: Session, phase: PhaseRun, step: DepthStep) -> list[int]:
    """Choose the blocks to remove."""
    total = len(session.streamed.layout.blocks)
    count = step.gone(total)
    if count >= total:
        raise TargetsError(f"{count} of {total} blocks would go", hint="Leave at least one block.")
    if not count:
        return []
    with ExitStack() as stack:
        return step.choose(_Evidence(session, phase, stack), count=count)


class _Evidence:
    def __init__(self, session: Session, phase: PhaseRun, stack: ExitStack) -> None:
        self.session, self.phase, self.stack = session, phase, stack
        self.num_blocks = len(session.streamed.layout.blocks)

    def calibration_pass(self) -> CalibrationPass:
        return self._calibration_pass

    @cached_property
    def _calibration_pass(self) -> CalibrationPass:
        session = self.session
        windows_NT = session.calibration_windows()
        return run_calibration_pass(
            session.streamed, windows_NT, session.weights, states_in=session.states_in, tick=self.phase.progress
        )

    def loss(self, kept: Sequence[int]) -> float:
        gone = sorted(set(range(self.num_blocks)) - set(kept))
        windows_NT, returns_tuple = self._trial_windows
        with skipping_blocks(self._model, gone, returns_tuple=returns_tuple):
            return math.log(perplexity(self._model, windows_NT, device=self.session.device))

    @cached_property
    def _model(self) -> nn.Module:
        return self.stack.enter_context(self.session.streamed.whole(self.session.weights))

    @cached_property
    def _trial_windows(self) -> tuple[torch.Tensor, bool]:
        windows_NT = self.session.calibration_windows()[:TRIAL_WINDOWS]
        for _ in self.session.streamed.prelude([windows_NT[:1]], self.session.weights):
            pass
        return windows_NT, self.session.streamed.returns_tuple


class Replacement:
    """Maps that stand in for runs of removed blocks, block by block on the states of the compressed prefix."""

    def __init__(self, session: Session, gone: Sequence[int]) -> None:
        self.session = session
        self.ends = {first - 1: end for first, end in consecutive_ranges(gone)}
        """Block before a cut -> the block whose entrance the states should look like."""
        self.gone = set(gone)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the changed weights (and biases) of the matrices before the cuts, by name in the files."""
        session = self.session
        if -1 in self.ends:
            text = "The first block goes: no matrix before it can stand in for it."
            session.reporter.warn("nothing_before_the_cut", text)
        wanted = self._wanted()
        changed: dict[str, torch.Tensor] = {}
        stream = self._stream()
        for block in session.streamed.layout.blocks:
            if block.index in self.gone:
                stream.index += 1
            elif block.index in self.ends:
                changed |= self._replaced(block, stream, wanted[self.ends[block.index]])
            else:
                with session.streamed.block(block.index, session.weights) as module:
                    stream.advance(module)
        return changed

    def _stream(self) -> HiddenStates:
        session = self.session
        return HiddenStates(
            session.streamed, session.calibration_windows(), session.weights, states_in=session.states_in
        )

    def _wanted(self) -> dict[int, HiddenStates]:
        """The dense model's states after every cut."""
        stream = self._stream()
        wanted: dict[int, HiddenStates] = {}
        for block in self.session.streamed.layout.blocks:
            with self.session.streamed.block(block.index, self.session.weights) as module:
                stream.advance(module)
            if stream.index in self.ends.values():
                wanted[stream.index] = stream.fork()
        return wanted

    def _replaced(self, block: Block, stream: HiddenStates, wanted: HiddenStates) -> dict[str, torch.Tensor]:
        session = self.session
        with session.streamed.block(block.index, session.weights) as module:
            first = next(stream.batches)
            writer = last_writer(module, lambda x: stream.output(module, _with(first, x)), first.hidden_BTD)
            writer_module = module.get_submodule(writer.module)
            normal = Normal.of(first.hidden_BTD.shape[-1], device=session.device)
            for batch, target in zip(stream.batches, wanted.batches, strict=True):
                outputs: list[torch.Tensor] = []
                with outputs_of(writer_module, appending_copies(outputs)):
                    output_TD = stream.output(module, batch).flatten(end_dim=-2)
                added_TD = outputs[0].reshape(output_TD.shape)
                target_TD = target.hidden_BTD.to(output_TD.device).flatten(end_dim=-2)
                normal.add(added_TD, target_TD - (output_TD - added_TD))
            map_DD = normal.solve()
            map_on = cache(map_DD.to)  # once, and not for every batch
            with outputs_of(writer_module, lambda out: out @ map_on(out.device, out.dtype)):
                stream.advance(module)
        by_name = {matrix.local: matrix for matrix in block.matrices}
        changed: dict[str, torch.Tensor] = {}
        for name in writer.maps:
            changed |= self._merged(by_name[name], block.tensors.get(f"{name}.bias"), map_DD)
        return changed

    def _merged(self, matrix: Matrix, bias: str | None, map_DD: torch.Tensor) -> dict[str, torch.Tensor]:
        weights, device = self.session.weights, map_DD.device
        stored_OI = matrix.view(weights.get(matrix.tensor)).to(device)
        weight_OI, bias_O = merged(stored_OI, None if bias is None else weights.get(bias).to(device), map_DD)
        changed = {matrix.tensor: matrix.view(weight_OI).to(weights.dtype(matrix.tensor)).cpu()}
        if bias is not None and bias_O is not None:
            changed[bias] = bias_O.to(weights.dtype(bias)).cpu()
        return changed


def _with(batch: Batch, hidden_BTD: torch.Tensor) -> Batch:
    return Batch(hidden_BTD, batch.calls)
