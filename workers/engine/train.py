"""Language-model training of a few parameters of a frozen model; a stopped run goes on to the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from workers.engine import rates
from workers.engine.numerics import generator
from workers.engine.trainables import Trainable, restore, snapshot

KEEP_EVERY = 10
"""Steps between two copies of the trainables, to which a diverged run goes back; states are saved at these only."""


class DivergedError(ArithmeticError):
    """The loss is no number any more; the trainables stand at the last copied state again."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, on how much text and how fast."""

    steps: int
    batch_size: int
    accumulate: int = 1
    seed: int = 0
    rates: Mapping[str, float]
    """Top learning rate for each kind of trainable."""
    clip: float = 1.0


@dataclass(frozen=True)
class Point:
    """One step as the metrics show it."""

    step: int
    loss: float
    rate: float


@dataclass
class Order:
    """Which window comes at which position: a fresh seeded permutation for every pass over the text."""

    num_windows: int
    seed: int
    _cached: tuple[int, torch.Tensor] | None = field(default=None, repr=False)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_windows)
        if self._cached is None or self._cached[0] != epoch:
            permutation = torch.randperm(self.num_windows, generator=generator(self.seed, "order", epoch))
            self._cached = (epoch, permutation)
        return int(self._cached[1][offset])


class Trainer:
    """Steps a model through text. Everything random derives from the seed and the step."""

    def __init__(
        self,
        model: nn.Module,
        trainables: Sequence[Trainable],
        windows_NT: torch.Tensor,
        plan: Plan,
        *,
        autocast: AbstractContextManager[None] | None = None,
    ) -> None:
        assert not model.training, "dropout must stay off"
        self.model = model
        self.trainables = list(trainables)
        self.windows_NT = windows_NT
        self.plan = plan
        self.step = 0
        self._autocast = autocast or nullcontext()
        self._order = Order(len(windows_NT), plan.seed)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [item.parameter for item in trainables if item.kind == kind], "top": plan.rates[kind]}
                for kind in sorted({item.kind for item in trainables})
            ],
            weight_decay=0.0,
        )
        self._kept: tuple[int, list[torch.Tensor]] = (0, snapshot(self.trainables))

    def advance(self) -> Point:
        """Take one optimizer step; DivergedError sends the trainables back to the last copied state."""
        factor = rates.linear(self.step, steps=self.plan.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["top"] * factor
        loss = sum(self._backward(part) for part in range(self.plan.accumulate))
        parameters = [item.parameter for item in self.trainables]
        norm = nn.utils.clip_grad_norm_(parameters, self.plan.clip)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            diverged = DivergedError(self.step)
            self.step, values = self._kept
            restore(self.trainables, values)
            raise diverged
        self._optimizer.step()
        self._optimizer.zero_grad()
        point = Point(self.step, loss, max(group["lr"] for group in self._optimizer.param_groups))
        self.step += 1
        if self.step % KEEP_EVERY == 0:
            self._kept = (self.step, snapshot(self.trainables))
        return point

    def _backward(self, part: int) -> float:
        first = (self.step * self.plan.accumulate + part) * self.plan.batch_size
        chosen = [self._order[position] for position in range(first, first + self.plan.batch_size)]
        with self._autocast:
            loss = language_loss(self.model, self.windows_NT[chosen])
        (loss / self.plan.accumulate).backward()  # type: ignore[no-untyped-call]
        return loss.item() / self.plan.accumulate

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step reads, as tensors by name."""
        tensors = {"step": torch.tensor(self.step)}
        for item in self.trainables:
            tensors[f"value:{item.name}"] = item.parameter.detach().cpu().contiguous()
            for key, value in self._optimizer.state[item.parameter].items():
                tensors[f"{key}:{item.name}"] = value.detach().cpu().contiguous()
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on where a saved state stood."""
        self.step = int(tensors["step"])
        restore(self.trainables, [tensors[f"value:{item.name}"] for item in self.trainables])
        for item in self.trainables:
            device = item.parameter.device
            self._optimizer.state[item.parameter] = {
                # The count of steps stays on the CPU, where AdamW keeps it.
                key: tensors[f"{key}:{item.name}"].to("cpu" if key == "step" else device).clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        self._kept = (self.step, snapshot(self.trainables))


def language_loss(model: nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token, in float32."""
    tokens_BT = tokens_BT.to(next(model.parameters()).device)
    logits_BTV = model(input_ids=tokens_BT, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: nn.Module, windows_NT: torch.Tensor, *, batch_size: int) -> float:
    """Mean cross entropy over windows that training does not see."""
    losses = [language_loss(model, tokens_BT) * len(tokens_BT) for tokens_BT in torch.split(windows_NT, batch_size)]
    return float(torch.stack(losses).sum()) / len(windows_NT)
