"""The Gram matrix of narrow inputs on a GPU: the same products, and no copy of the inputs in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from espalier.methods.statistics.gram import Gram
from tests.standin.backend import watching
from tests.standin.card import CARD
from tests.standin.tensors import DEVICE

TOKENS, INPUTS = 512, 8


def _inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(TOKENS, INPUTS, generator=draws).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_give_the_matrix_and_are_not_widened(dtype: torch.dtype) -> None:
    batches = _inputs(dtype)
    exact_II = sum(batch.double().T @ batch.double() for batch in batches)
    with watching():
        gram, ours = Gram(), [batch.to(DEVICE) for batch in batches]
        with CARD.account() as books:
            for batch in ours:
                gram.add(batch)
        assert books.peak - CARD.live < TOKENS * INPUTS * 4, "a copy of a batch in float32"
        total_II = gram.value(routed=False).cpu()
    assert total_II.dtype == torch.float32
    torch.testing.assert_close(total_II.double(), exact_II, rtol=1e-5, atol=1e-4)


def test_the_product_of_two_narrow_numbers_is_exact_in_float32() -> None:
    """What makes the narrow product as good as the wide one: 2 x 8 and 2 x 11 bits of mantissa fit into 24."""
    for dtype in (torch.bfloat16, torch.float16):
        first, second = (_inputs(dtype)[index].flatten() for index in (0, 1))
        assert torch.equal((first.float() * second.float()).double(), first.double() * second.double())


def test_wide_inputs_are_multiplied_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow: Callable[..., torch.Tensor] = torch.mm

    def refuse(*args: torch.Tensor, **options: torch.dtype) -> torch.Tensor:
        assert not options
        return narrow(*args, **options)

    monkeypatch.setattr(torch, "mm", refuse)
    with watching():
        gram = Gram()
        gram.add(_inputs(torch.float32)[0].to(DEVICE))
    gram = Gram()
    gram.add(_inputs(torch.bfloat16)[0])
