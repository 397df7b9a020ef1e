"""Losses of retraining: the text alone, the dense teacher's predictions, or its hidden states as well.

Shapes: B windows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional

from espalier.memory.training import in_chunks
from espalier.model.layout import find_stack
from espalier.model.numerics import is_accelerator
from espalier.model.streamed import unwrap
from espalier.recipe.steps.retrain import Distilled
from espalier.training.chunked_losses import (
    Body,
    ChunkLoss,
    both_sum,
    cross_entropy_sum,
    divergence_sum,
    mean_in_chunks,
    vocabulary_of,
)

Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""(model, tokens (B, T)) -> a number."""


def logits_of(model: nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Return the logits of every token but the first, (B, T - 1, V)."""
    logits_BTV: torch.Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return logits_BTV[:, :-1]


def cross_entropy(logits_BTV: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Compute the mean cross entropy over predicted tokens, in float32."""
    return functional.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())


def divergence(logits_BTV: torch.Tensor, teacher_BTV: torch.Tensor) -> torch.Tensor:
    """Compute KL(teacher || student) at temperature 1, mean over predicted tokens, in float32."""
    student = functional.log_softmax(logits_BTV.float().flatten(0, 1), dim=-1)
    teacher = functional.log_softmax(teacher_BTV.float().flatten(0, 1), dim=-1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def feature_error(
    student_BTD: torch.Tensor, teacher_BTD: torch.Tensor, power: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute MSE(student, teacher) / MSE(teacher, 0) of one block's states, in float32 (arXiv 2310.06927).

    `power`: of the teacher's states, where these windows are a part of those that it is the mean of.
    """
    teacher = teacher_BTD.float()
    return (student_BTD.float() - teacher).square().mean() / (teacher.square().mean() if power is None else power)


def language_loss(model: nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Compute the mean cross entropy of the next token."""
    tokens_BT = tokens_BT.to(next(model.parameters()).device)
    if takes_chunks(model, tokens_BT):
        return mean_in_chunks(cross_entropy_sum, Body(model, tokens_BT), tokens_BT)
    return cross_entropy(logits_of(model, tokens_BT), tokens_BT)


def takes_chunks(model: nn.Module, tokens_BT: torch.Tensor) -> bool:
    """Tell whether the logits of a batch are made chunk by chunk: those of a GPU, where they are many."""
    return is_accelerator(tokens_BT.device) and in_chunks(tokens_BT.numel(), vocabulary_of(model))


class Distillation:
    """A loss against a teacher that stays as it is.

    `kl`: KL to the teacher's predictions. `squarehead`: cross entropy, plus that, plus the mean over the blocks of the
    normalised error of the hidden states.
    """

    def __init__(
        self,
        kind: Distilled,
        teacher: nn.Module,
        *,
        autocast: AbstractContextManager[None] | None = None,
        mean: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """`mean`: of numbers of all ranks' windows, given those of this rank's; None: this process is alone."""
        self._mean = mean
        self._kind = kind
        self._teacher = teacher
        self._autocast = autocast or nullcontext()

    def __call__(self, model: nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
        """The loss of a model on a batch."""
        tokens_BT = tokens_BT.to(next(model.parameters()).device)
        chunks = takes_chunks(model, tokens_BT)
        if self._kind == "kl":
            if chunks:
                with torch.no_grad(), self._autocast:
                    teacher = Body(self._teacher, tokens_BT)
                return self._chunked(divergence_sum, Body(model, tokens_BT), teacher, tokens_BT)
            with torch.no_grad(), self._autocast:
                teacher_BTV = logits_of(self._teacher, tokens_BT)
            return divergence(logits_of(model, tokens_BT), teacher_BTV)
        predictions = Body if chunks else logits_of
        with torch.no_grad(), self._autocast, hidden_states(self._teacher) as wanted:
            taught = predictions(self._teacher, tokens_BT)
        with hidden_states(model) as reached:
            given = predictions(model, tokens_BT)
        powers: Sequence[torch.Tensor | None] = [None] * len(wanted)
        if self._mean is not None:
            powers = self._mean(torch.stack([states.float().square().mean() for states in wanted])).unbind()
        errors = [feature_error(*each) for each in zip(reached, wanted, powers, strict=True)]
        if isinstance(given, Body) and isinstance(taught, Body):
            return self._chunked(both_sum, given, taught, tokens_BT) + torch.stack(errors).mean()
        assert isinstance(given, torch.Tensor)
        assert isinstance(taught, torch.Tensor)
        text = cross_entropy(given, tokens_BT)
        return text + divergence(given, taught) + torch.stack(errors).mean()

    def _chunked(self, loss: ChunkLoss, body: Body, teacher: Body, tokens_BT: torch.Tensor) -> torch.Tensor:
        return mean_in_chunks(loss, body, tokens_BT, teacher=teacher, autocast=self._autocast)


@contextmanager
def hidden_states(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what leaves every block of a forward pass."""
    states: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _args, output: states.append(unwrap(output)))
        for block in find_stack(model)[1]
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
