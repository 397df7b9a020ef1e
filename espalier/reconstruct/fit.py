"""Fit one window of a pruned model to what the dense model gives; never leave it worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from espalier.model.halves import Run
from espalier.model.numerics import generator
from espalier.progress import count_step
from espalier.recipe.steps.reconstruct import FitLoss
from espalier.reconstruct.pieces import Pieces
from espalier.training import rates
from espalier.training.optimizer import adamw
from espalier.training.trainables import Trainable, restore, snapshot

GRID = (0.01, 0.03, 0.1)
"""Top learning rates that the search tries, as a fraction of each tensor's root mean square."""
TRIAL_FRACTION = 0.125
"""Length of a trial as a fraction of the fit; three trials cost well below half of it."""
FLOOR = 0.01
"""Stands in for the root mean square of a tensor that begins at zero (biases), so that it can move at all."""


PATIENCE = 2
"""Passes over the windows without a better held-out error after which a fit ends."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of the model, what enters it and what should leave it; activations (N, ...) on the CPU."""

    run: Run
    trainables: Sequence[Trainable]
    """The trained parameters, and frozen weights that adapters are merged into."""
    inputs: torch.Tensor
    targets: torch.Tensor
    power: float
    """The scale of squared errors."""
    merge: Callable[[], None] = lambda: None
    """Write adapters into their weights, so that the adapters stand at zero again."""


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Hyperparameters of the fit of a window."""

    epochs: int
    batch_size: int
    validation_fraction: float
    learning_rate: float | None
    """The same for every tensor; None searches the grid."""
    seed: int
    loss: FitLoss = "mse"
    micro_batch: int | None = None
    """Windows of a batch that go through at once; None: all. The step is the same but for rounding."""
    pieces: Pieces | None = None
    """How ranks share every step, which is the same but for rounding; None: this process takes its batches whole."""


@dataclass(frozen=True)
class Fit:
    """The result of fitting a window. Errors: the loss on the held-out windows."""

    error_before: float
    error_after: float
    learning_rate: float
    """The rate of the spec, or a fraction of each tensor's root mean square; 0 where the window was left as it was."""


class Fitter:
    """One window as it is fitted: its batches, its steps, its error."""

    def __init__(self, window: Window, plan: FitPlan) -> None:
        self.window = window
        self.plan = plan
        count = len(window.inputs)
        held_out = min(round(plan.validation_fraction * count), count - 1)
        order = torch.randperm(count, generator=generator(plan.seed, "held-out"))
        self.seen = order[held_out:]
        self.held_out = order[:held_out] if held_out else self.seen
        self.moving = [item for item in window.trainables if item.parameter.requires_grad]
        self.steps = plan.epochs * math.ceil(len(self.seen) / plan.batch_size)

    def loss(self, chosen: torch.Tensor) -> torch.Tensor:
        """Compute the mean loss over some windows."""
        count_step()
        device = self.moving[0].parameter.device
        output = self.window.run(self.window.inputs[chosen].to(device)).float()
        target = self.window.targets[chosen].to(device).float()
        if self.plan.loss == "cosine":
            return 1 - functional.cosine_similarity(output, target, dim=-1).mean()
        return (output - target).square().mean() / self.window.power

    @torch.no_grad()
    def error(self) -> float:
        """Compute the loss over the held-out windows."""
        size = self.plan.micro_batch or self.plan.batch_size
        batches = torch.split(self.held_out, size)
        if self.plan.pieces is not None:
            total = self.plan.pieces.measured(batches, lambda chosen: self.loss(chosen) * len(chosen))
        else:
            total = float(torch.stack([self.loss(chosen) * len(chosen) for chosen in batches]).sum())
        return total / len(self.held_out)

    def descend(self, rate: float, *, steps: int) -> Iterator[None]:
        """Run AdamW at rates of `rate` times each tensor's scale; yield after every pass, end early on divergence."""
        tops = [self._top(item, rate) for item in self.moving]
        optimizer = adamw([{"params": [item.parameter]} for item in self.moving], self.moving[0].parameter.device)
        step = 0
        for epoch in range(self.plan.epochs):
            order = torch.randperm(len(self.seen), generator=generator(self.plan.seed, "order", epoch))
            for chosen in torch.split(self.seen[order], self.plan.batch_size)[: steps - step]:
                factor = rates.linear(step, steps=steps)
                for group, top in zip(optimizer.param_groups, tops, strict=True):
                    group["lr"] = top * factor
                if not self._move(optimizer, chosen):
                    return
                step += 1
            yield

    def _move(self, optimizer: torch.optim.Optimizer, chosen: torch.Tensor) -> bool:
        optimizer.zero_grad()
        backward = partial(self._backward, of=len(chosen))
        if self.plan.pieces is not None:
            loss = self.plan.pieces.step(chosen, backward, [item.parameter for item in self.moving])
        else:
            loss = backward(chosen)
        if not math.isfinite(loss.item()):  # one wait for the device
            return False
        for item in self.moving:
            item.hold_gradient()
        optimizer.step()
        for item in self.moving:
            item.hold_zeros()
        return True

    def _backward(self, chosen: torch.Tensor, *, of: int) -> torch.Tensor:
        """Add the gradient of some of the `of` windows of a step; return what they add to its loss."""
        losses = []
        for part in torch.split(chosen, self.plan.micro_batch or len(chosen)):
            loss = self.loss(part) * (len(part) / of)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _top(self, item: Trainable, rate: float) -> float:
        if self.plan.learning_rate is not None:
            return self.plan.learning_rate
        return rate * (item.size or item.scale() or FLOOR)


def fit(window: Window, plan: FitPlan) -> Fit:
    """Fit a window: its trainables end in their best state, rounded to what is stored, or as they were."""
    for item in window.trainables:
        item.hold_zeros()
    fitter = Fitter(window, plan)
    best = start = snapshot(window.trainables)
    before = after = fitter.error()
    rate = plan.learning_rate or _search(fitter, start)
    waited = 0
    for _ in fitter.descend(rate, steps=fitter.steps):
        moving = snapshot(window.trainables)
        window.merge()
        for item in window.trainables:
            item.round_to_stored()
        error, waited = fitter.error(), waited + 1
        if error < after:
            after, best, waited = error, snapshot(window.trainables), 0
        if waited == PATIENCE:
            break
        restore(window.trainables, moving)
    restore(window.trainables, best)
    return Fit(before, after, rate if best is not start else 0.0)


def _search(fitter: Fitter, start: list[torch.Tensor]) -> float:
    """The rate of the grid whose short trial ends best; the lower one wins ties."""
    best = (math.inf, GRID[0])
    for rate in GRID:
        for _ in fitter.descend(rate, steps=math.ceil(TRIAL_FRACTION * fitter.steps)):
            pass
        error = fitter.error()
        if error < best[0]:  # never true of NaN
            best = (error, rate)
        restore(fitter.window.trainables, start)
    return best[1]
