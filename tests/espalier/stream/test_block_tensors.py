"""What is kept of a block on a device, by the open files that it was read from."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from espalier.model.safetensors_writer import save_overlay
from espalier.model.weights import Weights
from espalier.stream.block_tensors import BlockTensors
from tests.fixtures.library.tiny_models import write_tiny_model

ELSEWHERE = torch.device("meta")
"""A device that is no CPU, on every machine."""


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return Weights(write_tiny_model(tmp_path / "model"))


@pytest.fixture
def name(weights: Weights) -> str:
    return next(name for name in weights.names if "q_proj" in name)


@pytest.fixture
def tensors() -> BlockTensors:
    tensors = BlockTensors(ELSEWHERE)
    tensors.enter(0)
    return tensors


def test_a_tensor_is_read_once_until_another_block_is_entered(
    weights: Weights, name: str, tensors: BlockTensors
) -> None:
    first = tensors.get(weights, name)
    assert first.device == ELSEWHERE
    assert tensors.get(weights, name) is first
    tensors.enter(0)
    assert tensors.get(weights, name) is first
    tensors.enter(1)
    assert tensors.get(weights, name) is not first


def test_what_lies_over_a_tensor_is_another_one(
    weights: Weights, name: str, tensors: BlockTensors, tmp_path: Path
) -> None:
    first = tensors.get(weights, name)
    made = torch.zeros(first.shape, dtype=first.dtype, device=ELSEWHERE)
    save_overlay(tmp_path / "overlay.safetensors", {name: torch.zeros(first.shape, dtype=first.dtype)}, {})
    changed = weights.with_overlay(tmp_path / "overlay.safetensors")
    tensors.keep(changed, name, made)
    assert tensors.get(changed, name) is made
    tensors.forget()
    assert tensors.get(changed, name) is not made


def test_of_a_name_the_newest_tensor_alone_takes_memory(weights: Weights, name: str, tmp_path: Path) -> None:
    tensors = BlockTensors(ELSEWHERE)
    tensors.enter(0)
    dense = weakref.ref(tensors.get(weights, name))
    shape, dtype = weights.shape(name), weights.dtype(name)
    save_overlay(tmp_path / "overlay.safetensors", {name: torch.zeros(shape, dtype=dtype)}, {})
    changed = weights.with_overlay(tmp_path / "overlay.safetensors")
    tensors.keep(changed, name, torch.zeros(shape, dtype=dtype, device=ELSEWHERE))
    assert dense() is None


def test_of_a_cpu_nothing_is_kept(weights: Weights, name: str) -> None:
    tensors = BlockTensors(torch.device("cpu"))
    tensors.enter(0)
    assert tensors.get(weights, name) is not tensors.get(weights, name)
