"""Prune block by block: statistics of one forward pass, scores, masks, and the pruned outputs for the next block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from espalier.distributed.shards import Shards
from espalier.evaluate.scoring import score_weights
from espalier.memory.pruning import ERROR_TOKENS
from espalier.messages import Layer
from espalier.methods.factorisations import SharedFactorisations
from espalier.methods.statistic import Declared, Statistics
from espalier.methods.statistics.gram import Gram
from espalier.model.layout import Block, Matrix
from espalier.model.numerics import is_accelerator
from espalier.model.weights import Weights
from espalier.progress import count_step
from espalier.prune import collapse
from espalier.prune.calibrating import SparsityPlan
from espalier.prune.division import Made, owners, shared
from espalier.prune.inputs import Reading, warn_of_absent
from espalier.prune.matrices import PrunedMatrix, prune_matrix, row_of, rows_of
from espalier.prune.targets import selected
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.session.resume import finish_block, restore_block
from espalier.stream.block_tensors import BlockTensors
from espalier.stream.capture import capturing
from espalier.stream.hidden_states import HiddenStates, windows_per_batch
from espalier.stream.readout import Readout, to_host


def run(session: Session, plan: SparsityPlan | None) -> None:
    """Prune every block, or take the zeros of a model that is already sparse as its masks."""
    blocks = session.streamed.layout.blocks
    if session.interleaves:
        with session.reporter.phase("pruning", unit="block"):
            return  # every block is pruned in `reconstructing`, just before it is fitted
    with session.reporter.phase("pruning", total=len(blocks), unit="block") as phase:
        pruner = BlockPruner(session, phase, plan)
        for block in blocks:
            pruner.process(block)
            phase.progress(block.index + 1)
        if phase.finished() is None or (phase.perplexity is None and _recovers(session)):
            # Reused blocks may come from a job without recovery, which does not measure this perplexity.
            phase.perplexity = session.group.led(lambda: _score(session)) if _recovers(session) else None
            phase.finish()


def _recovers(session: Session) -> bool:
    """Tell whether the pruned-only model has numbers of its own: without recovery they are the artifact's."""
    spec = session.request.spec
    return spec.reconstruct is not None or spec.retrain is not None


def _score(session: Session) -> dict[str, float]:
    numbers = score_weights(session, session.weights)
    collapse.check(session, numbers)
    return numbers


@dataclass(frozen=True)
class Pruned:
    """The pruned tensors, masks and rows of one block."""

    rows: list[Layer]
    tensors: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]
    made: dict[str, torch.Tensor]
    """The same tensors on the device, where they were made."""


class FailedAssumption(ArithmeticError):
    """A factorisation does not stand that was taken to stand."""


class BlockPruner:
    """Prunes the next block and advances the stream of hidden states.

    Sequential propagation takes two forwards per block: one for the statistics, and one through the pruned block for
    the inputs of the next; behind the last block nobody reads, so that it takes one. Dense propagation takes one, or
    where the statistics are there already, one of the few tokens that errors are measured on.
    """

    def __init__(self, session: Session, phase: PhaseRun, plan: SparsityPlan | None) -> None:
        self.session, self.phase, self.plan = session, phase, plan
        step = session.step
        self.gathers: Declared = () if step is None or plan is None else step.gathers
        if Gram in self.gathers:
            self._warn_of_few_tokens()
        self._dense = session.request.spec.propagation == "dense"
        self.stream: HiddenStates | None = None
        self.kept = BlockTensors(session.device)
        self.passed: list[Block] = []
        """Finished blocks that the stream has yet to go through."""

    def process(self, block: Block) -> None:
        """Prune one block or restore it from an earlier attempt."""
        if restore_block(self.session, self.phase, block.index) is not None:
            self.passed.append(block)
            return
        began, warned = time.monotonic(), len(self.session.results.warnings)
        done = self.prune(block)
        layers = [row.model_dump() for row in done.rows]
        for row in done.rows:
            self.session.reporter.layer(row)
        seconds = time.monotonic() - began
        data = {"layers": layers, "warnings": self.session.results.warnings[warned:]}
        finish_block(self.session, self.phase, block.index, done.tensors, done.masks, seconds=seconds, data=data)
        for name, tensor in done.made.items():
            self.kept.keep(self.session.weights, name, tensor)
        self.passed.append(block)

    def prune(self, block: Block) -> Pruned:
        """Choose the masks of a block on the outputs of the blocks before it and apply them; nothing is written."""
        step = self.session.step
        return self._given(block) if step is None else self._prune(block, step)

    def stream_to(self, block: Block) -> HiddenStates:
        """Advance the stream of hidden states to the entrance of a block, through all finished blocks before it."""
        if self.stream is None:
            windows_NT = self.session.calibration_windows()
            self.stream = HiddenStates(
                self.session.streamed,
                windows_NT,
                self._propagated,
                states_in=self.session.states_in,
                shards=self._shards(*windows_NT.shape),
            )
        for previous in self.passed:
            if previous.index == self.stream.index:  # dense propagation has been through the block already
                with self._opened(previous) as module:
                    self.stream.advance(module)
        self.passed = []
        assert self.stream.index == block.index
        return self.stream

    @contextmanager
    def _opened(self, block: Block) -> Iterator[nn.Module]:
        self.kept.enter(block.index)
        weights, streamed = self._propagated, self.session.streamed
        with streamed.block(block.index, weights, read=partial(self.kept.get, weights)) as module:
            if self.session.overlaps:  # now that what was read ahead of this block is taken
                self.kept.expect(weights, streamed.layout.tensors_of(block.index + 1))
            yield module

    @property
    def _propagated(self) -> Weights:
        """The weights whose outputs the next block is calibrated on."""
        return self.session.dense if self._dense else self.session.weights

    def _shards(self, count: int, length: int) -> Shards:
        shards = Shards.of(count, self.session.group)
        if self.gathers and (self.plan is None or self.plan.inputs is None):
            return shards
        # Nothing but the errors is read: as many windows as those take, in whole batches, so that they are the same.
        enough = 0
        for batch in shards.batches(windows_per_batch(length)):
            if enough * length >= ERROR_TOKENS:
                break
            enough += batch
        return shards.first(enough)

    def _warn_of_few_tokens(self) -> None:
        tokens = self.session.calibration_windows().numel()
        widest = max(matrix.shape[1] for block in self.session.streamed.layout.blocks for matrix in block.matrices)
        if tokens < widest:
            self.session.reporter.warn(
                "fewer_tokens_than_inputs",
                f"Calibration has {tokens} tokens for matrices with up to {widest} inputs: their Gram matrices are "
                "singular, and damping alone decides what the text does not show. Raise calibration.samples.",
            )

    def _given(self, block: Block) -> Pruned:
        rows, kept = [], {}
        for matrix in block.matrices:
            began = time.monotonic()
            mask_OI = matrix.view(self.session.weights.get(matrix.tensor)) != 0
            kept[matrix.name] = mask_OI
            sparsity = 1 - float(mask_OI.double().mean())
            rows.append(row_of(matrix, int(mask_OI.sum()), "given", sparsity, time.monotonic() - began))
        return Pruned(rows, {}, kept, {})

    def _prune(self, block: Block, step: PruneStep) -> Pruned:
        done = Pruned([], {}, {}, {})
        matrices = selected(self.session, block)
        if not matrices:
            return done
        assert self.plan is not None
        read = self._read(block, matrices, self.plan)
        self._warn_of_idle(read.idle_experts)
        self.kept.enter(block.index)
        group = self.session.group
        ranks = owners(matrices, group.size, gram=Gram in self.gathers)
        own = [matrix for matrix in matrices if ranks[matrix.name] == group.rank]
        made = group.each(lambda: self.prune_own(own, step, read))
        for matrix, each in zip(
            matrices, shared(made, matrices, ranks, group, empty=self._empty).values(), strict=True
        ):
            done.rows.append(each.row)
            done.masks[matrix.name], done.tensors[matrix.tensor] = each.mask_OI, each.on_host
            done.made[matrix.tensor] = each.tensor
        return done

    def prune_own(self, matrices: list[Matrix], step: PruneStep, read: Reading) -> dict[str, Made]:
        """Prune the matrices of a block that this rank owns."""
        began = time.monotonic()
        try:
            # A GPU is not waited for at every factorisation: where one fails, the block is done again.
            pruned, readout = self._pruned(matrices, step, read, assuming=is_accelerator(self.session.device))
        except FailedAssumption:
            pruned, readout = self._pruned(matrices, step, read, assuming=False)
        rows = rows_of(pruned, readout.read(), seconds=time.monotonic() - began)
        copied = iter(to_host([tensor for each in pruned for tensor in (each.mask_OI, each.tensor)]))
        return {
            each.matrix.name: Made(row, each.tensor, mask_OI=next(copied), on_host=next(copied))
            for row, each in zip(rows, pruned, strict=True)
        }

    def _pruned(
        self, matrices: list[Matrix], step: PruneStep, read: Reading, *, assuming: bool
    ) -> tuple[list[PrunedMatrix], Readout]:
        with Readout() as readout:
            assume = partial(readout.require, error=FailedAssumption()) if assuming else None
            shared = SharedFactorisations(map(read.input_of, matrices), assume)
            return [self._prune_matrix(matrix, step, read, shared, readout) for matrix in matrices], readout

    def _empty(self, matrix: Matrix) -> torch.Tensor:
        weights = self.session.weights
        return torch.empty(weights.shape(matrix.tensor), dtype=weights.dtype(matrix.tensor), device=self.session.device)

    def _prune_matrix(
        self, matrix: Matrix, step: PruneStep, read: Reading, shared: SharedFactorisations, readout: Readout
    ) -> PrunedMatrix:
        assert self.plan is not None
        count_step()
        self.session.reporter.poll()
        stored = matrix.view(self.kept.get(self.session.weights, matrix.tensor))
        statistics, factorisations = read.statistics(matrix), shared.of(read.input_of(matrix))
        sample_TI = read.sample(matrix) if read.sample else None
        return prune_matrix(
            self.session, matrix, step, stored, self.plan, statistics, sample_TI, factorisations, readout
        )

    def _read(self, block: Block, matrices: list[Matrix], plan: SparsityPlan) -> Reading:
        """Return the input statistics of a block's matrices: stored, or gathered in one forward pass."""
        stored = plan.inputs.of(block) if plan.inputs else None
        if stored is not None and Gram in self.gathers:
            return stored
        stream, kinds = self.stream_to(block), self.gathers if stored is None else ()
        with (
            self._opened(block) as module,
            capturing(
                module,
                matrices,
                kinds,
                siblings=block.matrices,
                sample_tokens=0 if Gram in kinds else ERROR_TOKENS,  # a Gram matrix tells the errors
                shards=stream.shards,
            ) as capture,
        ):
            if self._dense:  # the outputs are the next inputs already: one forward is enough
                stream.advance(module)
            else:
                for _ in stream.outputs(module):
                    pass

        def sample(matrix: Matrix) -> torch.Tensor:
            return capture.of(matrix.name).sample()

        def statistics(matrix: Matrix) -> Statistics:
            return capture.statistics(matrix.name)

        def input_of(matrix: Matrix) -> int:
            return id(capture.of(matrix.name))

        warn_of_absent(self.session, block, capture.readers)

        if stored is not None:
            return replace(stored, sample=sample)
        return Reading(statistics, capture.idle_experts, input_of, None if Gram in kinds else sample)

    def _warn_of_idle(self, experts: list[str]) -> None:
        if experts:
            shown = ", ".join(experts[:8]) + (f" and {len(experts) - 8} more" if len(experts) > 8 else "")
            self.session.reporter.warn(
                "idle_experts",
                f"No calibration token was routed to {shown}: their weights are judged by magnitude alone. "
                "Calibrate on more or other text.",
            )
