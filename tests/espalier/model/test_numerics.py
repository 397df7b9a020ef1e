"""Seeds that depend on their purpose alone."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch

from espalier.model import numerics
from espalier.model.numerics import derived_seed, generator


def test_a_seed_depends_on_what_it_is_for_and_on_nothing_else() -> None:
    first = torch.rand(4, generator=generator(0, "pruning", 3))
    torch.rand(100)
    assert torch.equal(torch.rand(4, generator=generator(0, "pruning", 3)), first)
    assert len({derived_seed(seed, phase, block) for seed in range(3) for phase in "ab" for block in range(3)}) == 18


def test_determinism_fills_no_fresh_memory() -> None:
    """Filled pages stay with the process, up to the whole model: `tests/espalier/test_limits_numbers.py`."""
    switch, before = cast("Any", torch.utils.deterministic), torch.are_deterministic_algorithms_enabled()
    filling = switch.fill_uninitialized_memory
    try:
        numerics.use_deterministic_algorithms(torch.get_num_threads())
        assert torch.are_deterministic_algorithms_enabled()
        assert not switch.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(before)
        switch.fill_uninitialized_memory = filling


@pytest.mark.parametrize(
    ("native", "float16", "dtype"),
    [(True, True, torch.bfloat16), (False, True, torch.float16), (False, False, torch.float32)],
)
def test_a_gpu_computes_in_bfloat16_where_it_does_not_emulate_it(
    native: bool, float16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert numerics.pick_compute_dtype("auto", torch.device("cuda"), float16=float16) == dtype
    assert numerics.pick_compute_dtype("auto", torch.device("cpu"), float16=float16) == torch.float32
    assert numerics.pick_compute_dtype("bfloat16", torch.device("cuda"), float16=float16) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_promised_and_not_there_is_lost() -> None:
    with pytest.raises((RuntimeError, AssertionError)) as raised:
        numerics.pick_device("cuda")
    fault = numerics.fault_of(raised.value)
    assert fault is not None
    assert fault.class_ == "device_lost"


def test_the_narrow_type_crosses_to_a_device_and_is_cast_there() -> None:
    moves: list[str] = []

    class Noted:
        def to(self, target: object) -> Noted:
            moves.append(str(target))
            return self

    numerics.to_device(cast("torch.Tensor", Noted()), torch.device("cuda"), torch.float32)
    assert moves == ["cuda", "torch.float32"]


WIDENED = re.compile(
    r"\.(float|double)\(\)\.(cpu\(|to\(.*(device|cpu|cuda))|\.copy_\([\w.]*weights\.get\([^()]*(\[[^]]*\])?\)\)"
)

NARROWED = "score_OI.float().cpu()"
"""Scores are float32 or float64."""


def test_nothing_is_widened_before_it_crosses() -> None:
    """To a device or back: float32 of a bfloat16 is twice as many bytes, and float64 four times."""
    sources = list(Path(numerics.__file__).parents[1].rglob("*.py"))
    lines = [f"{path.stem}: {line.strip()}" for path in sources for line in path.read_text().splitlines()]
    assert len(lines) > 10_000
    assert [line for line in lines if WIDENED.search(line) and NARROWED not in line] == []


@pytest.mark.parametrize("bound", [2**30, resource.RLIM_INFINITY])
def test_the_memory_of_the_host_is_what_this_process_may_have(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (bound, bound))
    assert numerics.host_memory_bytes() == (2**30 if bound == 2**30 else psutil.virtual_memory().total)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(dtype: torch.dtype, value: float) -> None:
    fine = torch.full((3, 37), torch.finfo(dtype).max, dtype=dtype)  # a sum would overflow
    fine[:, ::2] *= -1
    assert bool(numerics.all_finite(fine))
    for place in range(fine.numel()):
        broken = fine.clone()
        broken.view(-1)[place] = value
        assert not bool(numerics.all_finite(broken)), place
        assert not bool(numerics.all_finite(broken.T)), place


def test_what_holds_no_number_or_whole_numbers_is_finite() -> None:
    for tensor in (torch.zeros(0, 4), torch.tensor([1, 2]), torch.tensor([True])):
        assert bool(numerics.all_finite(tensor))
