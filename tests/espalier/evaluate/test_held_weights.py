"""The dense model's weights, brought to the device once for the certificate and all measurements."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from espalier.errors import NumericalError
from espalier.evaluate.held_weights import FiniteCheck, HeldWeights
from espalier.messages import PhaseCompleted
from espalier.model.numerics import CPU
from espalier.model.tensor_file import TensorFile
from espalier.model.weights import Weights
from tests.fixtures.library.jobs import KilledError, local_job
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_the_engine_reads_the_dense_model_once_for_its_certificate_and_its_perplexities(
    family: str, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = local_job(tmp_path / "job", write_tiny_model(tmp_path / "model", family), texts)
    names, reads = set(Weights(job.model_dir).names), Counter[str]()
    read, read_rows = TensorFile.read, TensorFile.read_rows

    def whole(self: TensorFile, name: str) -> torch.Tensor:
        reads[name] += 1
        return read(self, name)

    def rows(self: TensorFile, name: str, *place: int) -> torch.Tensor:
        reads[f"{name}{place}"] += 1
        return read_rows(self, name, *place)

    monkeypatch.setattr(TensorFile, "read", whole)
    monkeypatch.setattr(TensorFile, "read_rows", rows)
    with pytest.raises(KilledError):
        job.attempt(kill_at=lambda message: isinstance(message, PhaseCompleted) and message.phase == "baseline")
    assert {name.partition("(")[0] for name in reads} == names
    assert set(reads.values()) == {1}


def test_parameters_are_cast_and_the_rest_is_as_stored(tmp_path: Path) -> None:
    source = Weights(write_tiny_model(tmp_path / "model", dtype=torch.float32))
    one, other = source.names[:2]
    held = HeldWeights(source, [one], device=CPU, dtype=torch.bfloat16)
    assert (held.get(one).dtype, held.get(other).dtype) == (torch.bfloat16, torch.float32)
    assert held.get(one) is held.get(one)


def test_the_first_of_the_files_is_named_whenever_it_was_looked_at() -> None:
    check = FiniteCheck([torch.float16, None])
    for name, value in (("late", float("nan")), ("wide", 1e6), ("fine", 1.0)):
        check.add(name, torch.tensor([1.0, value]))
    with pytest.raises(NumericalError, match="in float16 the values of wide") as caught:
        check.require(["fine", "wide", "late"])
    assert caught.value.module == "wide"
    with pytest.raises(NumericalError, match="the values of late"):
        check.require(["late", "wide"])
    FiniteCheck([]).require([])
