"""Seeds that depend on their purpose alone."""

from __future__ import annotations

import torch

from workers.engine.numerics import derived_seed, generator


def test_a_seed_depends_on_what_it_is_for_and_on_nothing_else() -> None:
    first = torch.rand(4, generator=generator(0, "pruning", 3))
    torch.rand(100)
    assert torch.equal(torch.rand(4, generator=generator(0, "pruning", 3)), first)
    assert len({derived_seed(seed, phase, block) for seed in range(3) for phase in "ab" for block in range(3)}) == 18
