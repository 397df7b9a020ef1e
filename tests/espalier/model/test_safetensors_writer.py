"""Writing safetensors: readable by the library, same bytes every time, sharded where asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from espalier.model import safetensors_writer
from espalier.model.safetensors_writer import TensorEntry, write_file, write_model
from espalier.model.weights import INDEX

TENSORS = {
    "z": torch.randn(3, 5).to(torch.bfloat16),
    "a": torch.randn(7),
    "scalar": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
}


def _entries() -> list[TensorEntry]:
    return [
        TensorEntry(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in TENSORS.items()
    ]


def test_the_library_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    digest = write_file(path, _entries())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_file(path)
    assert set(loaded) == set(TENSORS)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert list(tmp_path.iterdir()) == [path]


def test_shards_stay_below_the_limit_and_the_index_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_writer, "SHARD_BYTES", 32)
    paths = write_model(tmp_path, _entries())
    index = json.loads((tmp_path / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert [path.name for path in paths] == [*shards, INDEX]
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    merged = {name: tensor for shard in shards for name, tensor in load_file(tmp_path / shard).items()}
    assert all(torch.equal(merged[name], tensor) for name, tensor in TENSORS.items())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in TENSORS.values())
