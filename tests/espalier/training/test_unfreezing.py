"""Parameters that are made trainable: in float32, under every name, looked up once."""

from __future__ import annotations

import torch
from torch import nn

from espalier.training.trainables import Unfreezing, freeze


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3, dtype=torch.bfloat16)
        self.layers = nn.ModuleList([nn.Linear(3, 3, dtype=torch.bfloat16) for _ in range(5)])
        self.head = nn.Linear(3, 4, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.table.weight


def test_a_tied_parameter_stays_tied_and_keeps_its_values() -> None:
    model = _Tied()
    before = model.table.weight.detach().clone()
    freeze(model)
    parameter = Unfreezing(model).unfreeze("table.weight")
    assert model.head.weight is model.table.weight is parameter
    assert parameter.dtype == torch.float32
    assert torch.equal(parameter, before.float())
    assert [name for name, each in model.named_parameters() if each.requires_grad] == ["table.weight"]


def test_the_modules_are_visited_once_whatever_is_unfrozen() -> None:
    visits = [0]

    class Counting(_Tied):
        def modules(self) -> object:  # type: ignore[override]
            visits[0] += 1
            return super().modules()

    model = Counting()
    freeze(model)
    names = [name for name, _ in model.named_parameters()]
    visits[0] = 0
    unfreezing = Unfreezing(model)
    for name in names:
        unfreezing.unfreeze(name)
    assert visits == [1]
    assert all(each.dtype == torch.float32 and each.requires_grad for each in model.parameters())
