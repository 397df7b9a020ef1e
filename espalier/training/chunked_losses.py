"""Losses in chunks of tokens: the logits of a large vocabulary are never there all at once.

What enters the head is kept, and the head is computed for a chunk at a time, once more when gradients need it. The
model's own forward runs behind hidden states that are handed to it, so that what a family does to its logits comes out
right. Shapes: B windows, T tokens, C tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from espalier.memory.training import chunk_tokens
from espalier.model.layout import find_stack

ChunkLoss = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], torch.Tensor]
"""(logits (C, V), the teacher's or None, the tokens to predict (C,)) -> a sum over tokens."""


def vocabulary_of(model: nn.Module) -> int:
    """Return the number of logits per token."""
    config: Any = model.config
    return int(config.vocab_size)


class _BodyDone(Exception):
    """Ends the model's own forward where its head would begin."""


class Body:
    """A model up to its head, on one batch."""

    def __init__(self, model: nn.Module, tokens_BT: torch.Tensor) -> None:
        """Run the model's own forward up to where its head begins; gradients flow as in the whole one."""
        self._model, self._probe = model, tokens_BT[:1, :1]
        stack, _ = find_stack(model)
        self._owner = model.get_submodule(stack.rpartition(".")[0])
        outputs: list[dict[str, torch.Tensor]] = []

        def stop(_: nn.Module, __: object, output: dict[str, torch.Tensor]) -> None:
            outputs.append(output)
            raise _BodyDone

        handle = self._owner.register_forward_hook(stop)
        try:
            model(input_ids=tokens_BT, use_cache=False)
        except _BodyDone:
            pass
        finally:
            handle.remove()
        self._kind = type(outputs[0])
        self.hidden_BTD = outputs[0]["last_hidden_state"]
        """What enters the head."""

    @property
    def vocabulary(self) -> int:
        """Number of logits per token."""
        return vocabulary_of(self._model)

    def logits(self, hidden_CD: torch.Tensor) -> torch.Tensor:
        """Return the logits (C, V) behind a chunk of what enters the head."""
        with self._handing(hidden_CD):
            logits: torch.Tensor = self._model(input_ids=self._probe, use_cache=False).logits
        return logits[0]

    @contextmanager
    def _handing(self, hidden_CD: torch.Tensor) -> Iterator[None]:
        kind = self._kind

        def hand(*_: object, **__: object) -> object:
            return kind(last_hidden_state=hidden_CD[None])

        # An instance attribute: the class is every model's.
        self._owner.forward = hand
        try:
            yield
        finally:
            del self._owner.__dict__["forward"]


def mean_in_chunks(
    loss: ChunkLoss,
    body: Body,
    tokens_BT: torch.Tensor,
    *,
    teacher: Body | None = None,
    autocast: AbstractContextManager[None] | None = None,
) -> torch.Tensor:
    """Return the mean over predicted tokens of a loss that is a sum over tokens, a chunk at a time.

    `teacher`: predicts the same tokens, without gradients and in `autocast`.
    """
    target_N = tokens_BT[:, 1:].flatten()
    hidden_ND = body.hidden_BTD[:, :-1].flatten(end_dim=1)
    taught_ND = None if teacher is None else teacher.hidden_BTD[:, :-1].flatten(end_dim=1)
    size = chunk_tokens(body.vocabulary)

    def of_chunk(hidden_CD: torch.Tensor, first: int) -> torch.Tensor:
        wanted_CV = None
        if teacher is not None and taught_ND is not None:
            with torch.no_grad(), autocast or nullcontext():
                wanted_CV = teacher.logits(taught_ND[first : first + size])
        return loss(body.logits(hidden_CD), wanted_CV, target_N[first : first + size])

    total = torch.zeros((), device=hidden_ND.device)
    for first in range(0, len(target_N), size):
        hidden_CD = hidden_ND[first : first + size]
        if torch.is_grad_enabled():
            total = total + checkpoint(of_chunk, hidden_CD, first, use_reentrant=False, preserve_rng_state=False)
        else:
            total = total + of_chunk(hidden_CD, first)
    return total / len(target_N)


def cross_entropy_sum(logits_CV: torch.Tensor, _teacher: torch.Tensor | None, target_C: torch.Tensor) -> torch.Tensor:
    """Sum the cross entropy over tokens, in float32."""
    return functional.cross_entropy(logits_CV.float(), target_C, reduction="sum")


def divergence_sum(logits_CV: torch.Tensor, teacher_CV: torch.Tensor | None, _target: torch.Tensor) -> torch.Tensor:
    """Sum KL(teacher || student) at temperature 1 over tokens, in float32."""
    assert teacher_CV is not None
    student = functional.log_softmax(logits_CV.float(), dim=-1)
    teacher = functional.log_softmax(teacher_CV.float(), dim=-1)
    return functional.kl_div(student, teacher, log_target=True, reduction="sum")


def both_sum(logits_CV: torch.Tensor, teacher_CV: torch.Tensor | None, target_C: torch.Tensor) -> torch.Tensor:
    """Sum cross entropy and divergence over tokens."""
    return cross_entropy_sum(logits_CV, None, target_C) + divergence_sum(logits_CV, teacher_CV, target_C)
