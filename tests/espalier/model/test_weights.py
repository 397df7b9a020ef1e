"""Weights by name: source order, overlays, casts, masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espalier.model.safetensors_writer import save_overlay
from espalier.model.weights import Weights, source_files
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("llama"))


Q = "model.layers.0.self_attn.q_proj.weight"


def test_the_newest_overlay_wins_and_older_views_stay(model_dir: Path, tmp_path: Path) -> None:
    source = Weights(model_dir)
    ones, twos = torch.ones(32, 32, dtype=torch.bfloat16), torch.full((32, 32), 2, dtype=torch.bfloat16)
    save_overlay(tmp_path / "a.safetensors", {Q: ones}, {})
    save_overlay(tmp_path / "b.safetensors", {Q: twos}, {})
    first = source.with_overlay(tmp_path / "a.safetensors")
    second = first.with_overlay(tmp_path / "b.safetensors")
    assert torch.equal(first.get(Q), ones)
    assert torch.equal(second.get(Q), twos)
    assert not torch.equal(source.get(Q), ones)
    assert second.names == source.names


def test_masks_travel_beside_the_tensors(model_dir: Path, tmp_path: Path) -> None:
    mask_OI = torch.rand(32, 21) < 0.5
    save_overlay(tmp_path / "a.safetensors", {}, {"some.module": mask_OI})
    weights = Weights(model_dir, [tmp_path / "a.safetensors"])
    assert list(weights.mask_names) == ["some.module"]
    assert torch.equal(weights.mask("some.module", num_inputs=21), mask_OI)
    assert weights.names == Weights(model_dir).names


def test_an_overlay_of_equal_tensors_is_the_same_file(tmp_path: Path) -> None:
    tensors, masks = {"b": torch.ones(3), "a": torch.zeros(2)}, {"m": torch.ones(2, 9, dtype=torch.bool)}
    for name in ("x", "y"):
        save_overlay(tmp_path / name, tensors, masks)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_cast_reaches_floating_tensors_when_they_are_read(model_dir: Path) -> None:
    weights = Weights(model_dir, dtype=torch.float16)
    assert weights.get(Q).dtype == weights.dtype(Q) == torch.float16
    assert weights.stored_dtype(Q) == "BF16"


def test_an_unknown_tensor_in_an_overlay_is_our_mistake(model_dir: Path, tmp_path: Path) -> None:
    save_overlay(tmp_path / "a.safetensors", {"stranger": torch.ones(1)}, {})
    with pytest.raises(AssertionError, match="stranger"):
        Weights(model_dir).with_overlay(tmp_path / "a.safetensors")


def test_shards_read_like_one_file(model_dir: Path, tmp_path: Path) -> None:
    sharded = write_tiny_model(tmp_path / "sharded", max_shard_size="30KB")
    assert len(source_files(sharded)) > 1
    whole, parts = Weights(model_dir), Weights(sharded)
    assert sorted(whole.names) == sorted(parts.names)
    assert all(torch.equal(whole.get(name), parts.get(name)) for name in whole.names)
