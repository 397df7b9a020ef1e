"""Language-model training of a few parameters of a frozen model; a stopped run goes on to the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn

from espalier.model.numerics import CPU, generator
from espalier.progress import count_step
from espalier.recipe.steps.retrain import Schedule
from espalier.training import rates as schedules
from espalier.training.host_copies import on_host
from espalier.training.losses import Loss, language_loss
from espalier.training.optimizer import adamw, is_fused
from espalier.training.sharding import Sharding
from espalier.training.trainables import Trainable, restore, snapshot

UNDECAYED: Final = frozenset({"norms", "biases"})
"""Kinds that weight decay leaves alone, as is usual."""


class DivergedError(ArithmeticError):
    """The loss or its gradient is no number any more; the trainables stand where they stood before the step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Hyperparameters of a training: length, batches, rates."""

    steps: int
    batch_size: int
    micro_batch: int | None = None
    """Windows of a batch that go through the model at once; None: all. The step is the same but for rounding."""
    accumulate: int = 1
    seed: int = 0
    rates: Mapping[str, float]
    """Top learning rate for each kind of trainable."""
    schedule: Schedule = "linear"
    start: float = 1.0
    """Share of the top rate at which `allr` starts."""
    weight_decay: float = 0.0
    clip: float = 1.0


@dataclass(frozen=True)
class TrainingPoint:
    """One step as the metrics show it."""

    step: int
    loss: float
    rate: float


@dataclass
class Order:
    """The order of the windows: a fresh seeded permutation for every pass over the text."""

    num_windows: int
    seed: int
    _cached: tuple[int, torch.Tensor] | None = field(default=None, repr=False)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_windows)
        if self._cached is None or self._cached[0] != epoch:
            permutation = torch.randperm(self.num_windows, generator=generator(self.seed, "order", epoch))
            self._cached = (epoch, permutation)
        return int(self._cached[1][offset])


@dataclass
class Best:
    """The trainables where the held-out loss was lowest so far, on the CPU."""

    step: int
    loss: float
    values: list[torch.Tensor]
    checks_since: int = 0

    @classmethod
    def at_start(cls, trainables: Sequence[Trainable], loss: float) -> Best:
        """Begin with the state that every later one has to beat; any finite loss beats a start without a number."""
        return cls(0, loss if math.isfinite(loss) else math.inf, snapshot(trainables))

    def update_if_better(self, trainables: Sequence[Trainable], *, step: int, loss: float) -> None:
        """Keep a state whose loss is lower; NaN never is."""
        self.checks_since += 1
        if loss < self.loss:
            self.step, self.loss, self.checks_since = step, loss, 0
            self.values = snapshot(trainables)


class Trainer:
    """Steps a model through text. Everything random derives from the seed and the step."""

    def __init__(
        self,
        model: nn.Module,
        trainables: Sequence[Trainable],
        windows_NT: torch.Tensor,
        plan: TrainingPlan,
        *,
        autocast: AbstractContextManager[None] | None = None,
        loss: Loss = language_loss,
        sharding: Sharding | None = None,
    ) -> None:
        """`sharding`: the ranks that train together, and their rows of the trainables; None: this process alone."""
        assert not model.training, "dropout must stay off"
        self.model = model
        self.trainables = list(trainables)
        self.sharding = sharding or Sharding.alone(model, self.trainables)
        self.windows_NT = windows_NT
        self.plan = plan
        self.step = 0
        self._autocast = autocast or nullcontext()
        self._loss = loss
        self._order = Order(len(windows_NT), plan.seed)
        self._device = self.trainables[0].parameter.device
        self.optimizer = adamw(
            [
                {
                    "params": [item.parameter for item in trainables if item.kind == kind],
                    "top": plan.rates[kind],
                    "weight_decay": 0.0 if kind in UNDECAYED else plan.weight_decay,
                }
                for kind in sorted({item.kind for item in trainables})
            ],
            self._device,
        )

    def advance(self) -> TrainingPoint:
        """Take one optimizer step; raises DivergedError instead of one that is not finite."""
        plan = self.plan
        factor = schedules.rate_fraction(plan.schedule, self.step, steps=plan.steps, start=plan.start)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * factor
        losses = [each for part in range(plan.accumulate) for each in self.backward(part)]
        loss, length = self._finish_gradients(losses)
        if not (math.isfinite(loss) and math.isfinite(length)):
            self.optimizer.zero_grad()
            raise DivergedError(self.step)
        count_step()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for item in self.trainables:
            item.hold_zeros()
        point = TrainingPoint(self.step, loss, max(group["lr"] for group in self.optimizer.param_groups))
        self.step += 1
        return point

    def _finish_gradients(self, losses: Sequence[tuple[torch.Tensor, float]]) -> tuple[float, float]:
        """Hold the zeros, clip the gradients, and return the step's loss and the length of its gradients before."""
        self.sharding.collect_gradients()
        for item in self.trainables:
            item.hold_gradient()
        parameters = [item.parameter for item in self.trainables]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        *values, length = torch.stack([*(value for value, _ in losses), norm]).tolist()  # one wait for the device
        loss = sum(value / parts for value, (_, parts) in zip(values, losses, strict=True))
        if self.sharding.group.size > 1:
            loss, square = self.sharding.sums(loss, length**2)
            length = math.sqrt(square)
            norm = torch.tensor(length, device=self._device)
        nn.utils.clip_grads_with_norm_(parameters, self.plan.clip, norm)
        return loss, length

    def backward(self, part: int) -> Iterator[tuple[torch.Tensor, float]]:
        """Add the gradients of one of the parts of a step; yield each loss, and of how many equal parts it is one."""
        first = (self.step * self.plan.accumulate + part) * self.plan.batch_size
        chosen = [self._order[position] for position in range(first, first + self.plan.batch_size)]
        tokens_NT = self.windows_NT[chosen]
        for each in self.sharding.parts(len(chosen), self.plan.micro_batch):
            count_step()
            parts = self.plan.accumulate * (len(chosen) / each.count) if each.count else math.inf
            with self._autocast:
                loss = self._loss(self.model, tokens_NT[each.windows])
            (loss / parts).backward()  # type: ignore[no-untyped-call]
            yield loss.detach(), parts

    def state(self, best: Best) -> dict[str, torch.Tensor]:
        """Return all state of the training as tensors by name, to be resumed from: copies of an accelerator's.

        Where the best state is the newest one, its values are not there a second time.
        """
        moving = {
            f"{key}:{item.name}": moment
            for item in self.trainables
            for key, moment in self.optimizer.state[item.parameter].items()
        }
        if best.step != self.step:
            moving |= {f"value:{item.name}": item.parameter for item in self.trainables}
        return {
            "step": torch.tensor(self.step),
            "best": torch.tensor([best.loss, best.step, best.checks_since], dtype=torch.float64),
            **{f"best:{item.name}": value for item, value in zip(self.trainables, best.values, strict=True)},
            **dict(zip(moving, on_host(list(moving.values())), strict=True)),
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> Best:
        """Go on where a saved state stood."""
        self.step = int(tensors["step"])
        best_values = {item.name: tensors[f"best:{item.name}"] for item in self.trainables}
        restore(self.trainables, [tensors.get(f"value:{name}", best_value) for name, best_value in best_values.items()])
        # AdamW's plain form keeps its count of steps on the CPU.
        devices = {} if is_fused(self._device) else {"step": CPU}
        for item in self.trainables:
            self.optimizer.state[item.parameter] = {
                key: tensors[f"{key}:{item.name}"].to(devices.get(key, self._device)).clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}:{item.name}" in tensors  # an expert that no token has reached has none
            }
        loss, step, checks_since = tensors["best"].tolist()
        return Best(int(step), loss, [value.clone() for value in best_values.values()], int(checks_since))


@torch.no_grad()
def held_out_loss(
    model: nn.Module, windows_NT: torch.Tensor, *, batch_size: int, sharding: Sharding | None = None
) -> float:
    """Compute the mean cross entropy over held-out windows; `sharding`: the ranks that read them together."""
    sharding = sharding or Sharding.alone(model, [])
    with sharding.looking():
        losses = [
            language_loss(model, windows_NT[part.windows]) * part.count
            for part in sharding.parts(len(windows_NT), batch_size)
        ]
    total = float(torch.stack(losses).sum())
    return (total if sharding.group.size == 1 else sharding.sums(total)[0]) / len(windows_NT)
