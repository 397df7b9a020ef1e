"""Width pruning: remove neurons or groups of heads of every block, and update the rest as the step asks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from espalier.errors import TargetsError
from espalier.methods.optimal_brain_surgeon import refit
from espalier.methods.structured import Moments, UnitEvidence, WidthUpdate
from espalier.methods.unique_results import unique_result
from espalier.model.layout import Block, Matrix
from espalier.model.numerics import CPU, free_bytes
from espalier.recipe.steps.structure import WidthStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.hidden_states import HiddenStates
from espalier.structure.linear_replacement import outputs_of
from espalier.structure.units import Units, find_units

GRAM_BYTES = 4 + 5 * 8
"""Of a Gram matrix's number: itself, and in float64 it, its inverse, work space, and what is subtracted in a round."""
FRACTION = 0.8
"""Of the free memory of the device, for that."""


@dataclass(frozen=True)
class Narrowed:
    """The result of narrowing one block."""

    choice: dict[str, torch.Tensor]
    """`kept`: units that stay; `bias`: what the others gave on average, where no bias of the source can carry it."""
    tensors: dict[str, torch.Tensor]
    """Changed tensors in their full shapes, zero where units went; narrower ones are cut from them."""
    data: dict[str, Any]


class Narrowing:
    """The stream of hidden states through blocks that get narrower."""

    def __init__(self, session: Session, phase: PhaseRun, step: WidthStep, *, added_biases: bool) -> None:
        self.session, self.phase, self.step = session, phase, step
        self.added_biases = added_biases
        """Whether the smaller model's configuration brings biases that the source lacks."""
        self.stream = HiddenStates(
            session.streamed, session.calibration_windows(), session.weights, states_in=session.states_in
        )

    def narrow(self, block: Block, units: Units) -> Narrowed:
        """Choose the units of the next block; the stream stays before it."""
        began = time.monotonic()
        session = self.session
        kept_count = self.step.pattern.kept(units.count, sparsity=self.step.sparsity)
        with session.streamed.block(block.index, session.weights) as module:
            moments = self._watch(module, units)
        weight_OI = self._on(moments, units.consumer).float()
        kept = self._choose(units, weight_OI, moments, kept_count)
        update = self._update(block, units)
        tensors, bias_O = self._changed(block, units, weight_OI, moments, kept, update)
        seconds = time.monotonic() - began
        choice = {"kept": kept} if bias_O is None else {"kept": kept, "bias": bias_O}
        return Narrowed(choice, tensors, {"update": update, "seconds": seconds})

    def advance(self, block: Block, units: Units, bias_O: torch.Tensor | None) -> None:
        """Send the stream through the block as it is now."""
        with self.session.streamed.block(block.index, self.session.weights) as module:
            if bias_O is None:
                self.stream.advance(module)
                return
            consumer, bias_on = module.get_submodule(units.consumer.local), cache(bias_O.to)
            with outputs_of(consumer, lambda out: out + bias_on(out.device, out.dtype)):
                self.stream.advance(module)

    def units(self, block: Block) -> Units:
        """Find the units of the next block."""
        streamed, first = self.session.streamed, next(self.stream.batches)
        with streamed.block(block.index, self.session.weights) as module:

            def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
                return streamed.forward(module, hidden_BTD, first.calls[self.stream.index])

            probe = first.hidden_BTD.to(self.session.device)
            return find_units(self.step.pattern.kind, block, module, run, probe, streamed.family)

    def _watch(self, module: nn.Module, units: Units) -> Moments:
        width, gram = units.consumer.shape[1], self.step.reads_gram or self._refits
        moments = Moments.of(width, gram=gram, device=self._device(width, gram=gram))

        def see(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            moments.add(args[0].flatten(end_dim=-2))

        handle = module.get_submodule(units.consumer.local).register_forward_pre_hook(see)
        try:
            for _ in self.stream.outputs(module):
                pass
        finally:
            handle.remove()
        return moments

    def _device(self, width: int, *, gram: bool) -> torch.device:
        """Where a block is judged: on the device, if what is made of its Gram matrix fits there."""
        needed = GRAM_BYTES * width**2 if gram else 0
        return self.session.device if needed <= FRACTION * free_bytes(self.session.device) else CPU

    def _on(self, moments: Moments, matrix: Matrix) -> torch.Tensor:
        """The weights of a matrix (O, I) as they are stored, where the moments are."""
        return matrix.view(self.session.weights.get(matrix.tensor)).to(moments.sum_I.device)

    @property
    def _refits(self) -> bool:
        return (self.step.update or self.step.own_update) == "least_squares"

    def _choose(self, units: Units, weight_OI: torch.Tensor, moments: Moments, count: int) -> torch.Tensor:
        if count == units.count:
            return torch.arange(count)
        producers = [
            self._on(moments, rows.matrix).double().square().sum(dim=1).view(-1, rows.size).sum(dim=1)
            for rows in units.producers
        ]
        return self.step.choose(UnitEvidence(weight_OI, producers, moments, units.size), kept=count).cpu()

    def _update(self, block: Block, units: Units) -> WidthUpdate:
        update = self.step.update or self.step.own_update
        if update != "bias_mean" or self.added_biases or f"{units.consumer.local}.bias" in block.tensors:
            return update
        if self.step.update is not None:
            raise TargetsError(
                f"{units.consumer.name} has no bias, and no setting of this family gives it one",
                hint="Use update `least_squares`.",
                module=units.consumer.name,
            )
        self.session.reporter.warn(
            "no_bias_to_carry_the_mean",
            "Maps of this family have no bias: the mean of what is removed is lost. Use update `least_squares`.",
        )
        return "none"

    def _changed(
        self,
        block: Block,
        units: Units,
        weight_OI: torch.Tensor,
        moments: Moments,
        kept: torch.Tensor,
        update: WidthUpdate,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        if len(kept) == units.count:
            return {}, None
        columns = units.columns(kept).to(weight_OI.device)
        stay = torch.zeros(weight_OI.shape[1], dtype=torch.bool, device=weight_OI.device)
        with unique_result(stay.device):
            stay[columns] = True
        narrow_OI = weight_OI.masked_fill(~stay, 0.0)
        if update == "least_squares":
            assert moments.gram_II is not None
            refitted_OK = refit(weight_OI, moments.gram_II, columns).float()
            with unique_result(stay.device):
                narrow_OI[:, columns] = refitted_OK
        changed = self._stored(units.consumer, narrow_OI)
        if update != "bias_mean":
            return changed, None
        mean_O = (weight_OI.double()[:, ~stay] @ moments.mean[~stay]).cpu().float()
        bias = block.tensors.get(f"{units.consumer.local}.bias")
        if bias is None:
            return changed, mean_O
        weights = self.session.weights
        return changed | {bias: (weights.get(bias).float() + mean_O).to(weights.dtype(bias))}, None

    def _stored(self, matrix: Matrix, weight_OI: torch.Tensor) -> dict[str, torch.Tensor]:
        return {matrix.tensor: matrix.view(weight_OI).to(self.session.weights.dtype(matrix.tensor)).cpu()}
