"""Tensors that are read before they are asked for: the same ones, each once, and never an old version."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from espalier.errors import UnsafeFileError
from espalier.model.numerics import CPU
from espalier.model.safetensors_writer import save_overlay
from espalier.model.tensor_file import PendingFile, TensorFile
from espalier.model.weights import Weights
from espalier.stream.read_ahead import ReadAhead
from tests.fixtures.library.tiny_models import write_tiny_model

ELSEWHERE = torch.device("meta")
"""A device that is no CPU, on every machine."""


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return Weights(write_tiny_model(tmp_path / "model"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each tensor was read, and by whom: `name` or `name ahead`."""
    counted, read = Counter[str](), TensorFile.read

    def counting(self: TensorFile, name: str) -> torch.Tensor:
        ahead = threading.current_thread() is not threading.main_thread()
        counted[f"{name} ahead" if ahead else name] += 1
        return read(self, name)

    monkeypatch.setattr(TensorFile, "read", counting)
    return counted


def test_what_is_expected_is_read_once_and_by_the_thread(weights: Weights, reads: Counter[str]) -> None:
    ahead, names = ReadAhead(ELSEWHERE), weights.names[:5]
    ahead.expect(weights, names)
    ahead.expect(weights, names)
    ahead.thread.submit(lambda: None).result()
    assert [ahead.get(weights, name).device for name in names] == [ELSEWHERE] * 5
    assert reads == Counter(f"{name} ahead" for name in names)
    ahead.expect(weights, names)
    ahead.get(weights, names[0])
    assert reads[names[0]] == 1, "what was taken is read again, and not ahead of its next block"


def test_what_has_not_begun_is_read_at_once(weights: Weights, reads: Counter[str]) -> None:
    ahead, names, gate = ReadAhead(ELSEWHERE), weights.names[:3], threading.Event()
    ahead.thread.submit(gate.wait)
    ahead.expect(weights, names)
    assert [ahead.get(weights, name).shape for name in names] == [weights.shape(name) for name in names]
    gate.set()
    ahead.thread.submit(lambda: None).result()
    assert reads == Counter(names)


def test_a_newer_version_is_read_anew(weights: Weights, tmp_path: Path) -> None:
    ahead, name = ReadAhead(ELSEWHERE), next(name for name in weights.names if "q_proj" in name)
    ahead.expect(weights, [name])
    shape = (3, *weights.shape(name))
    save_overlay(tmp_path / "newer.safetensors", {name: torch.zeros(shape)}, {})
    assert ahead.get(weights.with_overlay(tmp_path / "newer.safetensors"), name).shape == shape
    assert ahead.get(weights, name).shape == weights.shape(name)


def test_a_file_that_ends_too_early_is_told_to_who_asks(weights: Weights) -> None:
    ahead, name = ReadAhead(ELSEWHERE), weights.names[-1]
    path = next(weights.model_dir.glob("*.safetensors"))
    with safe_open(path, "pt") as file:
        last = file.offset_keys()[-1]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    ahead.expect(weights, [name, last])
    ahead.thread.submit(lambda: None).result()
    with pytest.raises(UnsafeFileError, match="ends inside"):
        ahead.get(weights, last)


def test_other_expectations_forget_what_nobody_took(weights: Weights, reads: Counter[str]) -> None:
    ahead, (one, other) = ReadAhead(ELSEWHERE), weights.names[:2]
    for name in (one, other):
        ahead.expect(weights, [name])
        ahead.thread.submit(lambda: None).result()
    ahead.get(weights, one)
    ahead.forget()
    ahead.get(weights, other)
    assert reads == Counter([one, other, f"{one} ahead", f"{other} ahead"])


def test_on_a_cpu_nothing_is_held(weights: Weights, reads: Counter[str]) -> None:
    ahead, names = ReadAhead(CPU), weights.names[:3]
    ahead.expect(weights, names)
    ahead.thread.submit(lambda: None).result()
    assert not reads
    assert all(torch.equal(ahead.get(weights, name), weights.get(name)) for name in names)


def test_a_file_to_come_gives_what_the_file_will(weights: Weights, tmp_path: Path) -> None:
    matrix, path = torch.randn(6, 4), tmp_path / "file.safetensors"
    tensors = {"wide": torch.randn(3), "turned": matrix.bfloat16().T, "stack": torch.randn(2, 4, 3).bfloat16()}
    save_overlay(path, tensors, {"m": torch.ones(2, 9, dtype=torch.bool)})
    file = TensorFile(path)
    pending = PendingFile({name: (tensors | {"mask:m": file.read("mask:m")})[name] for name in file})
    for _ in ("in memory", "on the disk"):
        assert list(pending) == list(file)
        for name in file:
            read = pending.read(name)
            assert torch.equal(read, file.read(name))
            assert read.is_contiguous()
            read.zero_()
            assert torch.equal(pending.read(name), file.read(name)), "the caller owns what it read"
            assert (pending.dtype(name), pending.shape(name)) == (file.dtype(name), file.shape(name))
        assert torch.equal(pending.read_rows("stack", 1, 1, 3), file.read_rows("stack", 1, 1, 3))
        pending.written(path)
