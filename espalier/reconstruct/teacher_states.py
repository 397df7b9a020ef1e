"""The dense model beside a student: the student's blocks before pruning, or the source that it was made from.

Where whole parts were removed, targets come from the source: a block is asked for what leaves the block that it was and
the removed ones behind it, so that what stays learns to make up for what went.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from espalier.model.layout import Block
from espalier.reconstruct.windows import Pair
from espalier.session import Session
from espalier.stream.hidden_states import HiddenStates


class TeacherStates:
    """The teacher's blocks by the numbers of the student's."""

    def __init__(self, session: Session, windows_NT: torch.Tensor, *, batch_size: int, halves: bool) -> None:
        self.removed = session.kept is not None
        """Whether the student lacks whole parts."""
        self.streamed = session.source_streamed if self.removed else session.streamed
        self.weights = session.source if self.removed else session.dense
        positions = list(session.kept if session.kept is not None else range(len(session.streamed.layout.blocks)))
        if not halves:
            positions[0] = 0  # whole blocks also stand in for removed ones before the first; a half cannot
        self._positions = [*positions, len(self.streamed.layout.blocks)]
        self.stream = HiddenStates(
            self.streamed,
            windows_NT,
            self.weights,
            batches=batch_size,
            states_in=session.states_in,
            group=session.group,
        )

    def position(self, index: int) -> int:
        """Return the dense model's block from which the student's block was made."""
        return self._positions[index]

    def advance_to(self, index: int) -> None:
        """Walk to the entrance of the student's block."""
        self.stream.advance_to(self.position(index), self.weights)

    def forward_through(self, states: torch.Tensor, *, first: int, last: int) -> torch.Tensor:
        """Send states from the entrance of the student's block `first` to the entrance of the one after `last`."""
        end = self.position(last + 1) - 1
        return self.stream.forward_through(states, self.weights, first=self.position(first), last=end)

    @contextmanager
    def pair(self, student: HiddenStates, block: Block, module: nn.Module) -> Iterator[Pair]:
        """Yield the student's block with the dense block from which it was made."""
        position, end = self.position(block.index), self.position(block.index + 1) - 1
        with self.streamed.block(position, self.weights) as dense:
            if not self.removed:
                yield Pair(student, block, dense, module)
                return

            def behind(states: torch.Tensor) -> torch.Tensor:
                return self.stream.forward_through(states, self.weights, first=position + 1, last=end)

            taught = self.stream.run(dense, position)
            yield Pair(student, block, dense, module, taught=taught, behind=behind if end > position else None)
