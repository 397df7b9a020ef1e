"""Counting how often a block is run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from espalier.model.streamed import BlockCall, StreamedModel


def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Note every pass of a batch through a block."""
    seen: list[nn.Module] = []
    forward = StreamedModel.forward

    def counted(self: StreamedModel, block: nn.Module, hidden_BTD: torch.Tensor, call: BlockCall) -> torch.Tensor:
        seen.append(block)
        return forward(self, block, hidden_BTD, call)

    monkeypatch.setattr(StreamedModel, "forward", counted)
    return seen
