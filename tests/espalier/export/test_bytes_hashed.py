"""What a job hashes and reads of what it writes: every byte is hashed once, by who writes it, and none is read back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.errors import BrokenResultError
from espalier.export import exporting
from espalier.messages import Checkpoint, PhaseCompleted, PhaseStarted
from espalier.model import masks
from espalier.model.weights import Weights
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.fixtures.library.tiny_models import write_tiny_model

WIDER = {"hidden_size": 64, "intermediate_size": 128}


@dataclass
class _Bytes:
    hashed: int = 0
    read: int = 0
    """Of tensors, through the engine's own reader."""
    written: int = 0
    """Files of the artifact and of checkpoints."""

    def __sub__(self, other: _Bytes) -> _Bytes:
        return _Bytes(self.hashed - other.hashed, self.read - other.read, self.written - other.written)


@contextmanager
def _counting(counted: _Bytes) -> Iterator[None]:
    sha256, file_digest, preadv = hashlib.sha256, hashlib.file_digest, os.preadv

    class Counting:
        def __init__(self, data: Any = b"") -> None:
            self._digest = sha256(data)
            counted.hashed += len(data)

        def update(self, data: Any) -> None:
            self._digest.update(data)
            counted.hashed += len(data)

        def digest(self) -> bytes:
            return self._digest.digest()

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    def of_file(stream: Any, name: str) -> Any:
        counted.hashed += os.fstat(stream.fileno()).st_size
        return file_digest(stream, name)

    def read(handle: int, views: Any, offset: int) -> int:
        count = preadv(handle, views, offset)
        counted.read += count
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "sha256", Counting)
        patch.setattr(hashlib, "file_digest", of_file)
        patch.setattr(os, "preadv", read)
        yield


def _job(folder: Path, texts: Path, **fields: Any) -> LocalJob:
    spec = {name: fields.pop(name) for name in ("prune", "output", "propagation") if name in fields}
    return local_job(folder / "job", write_tiny_model(folder / "model", **fields), texts, **spec)


def _of(job: LocalJob) -> _Bytes:
    counted = _Bytes()
    with _counting(counted):
        done = job.attempt()
    checkpoints = [message for message in job.messages if isinstance(message, Checkpoint)]
    counted.written = sum(file.bytes for file in done.files) + sum(each.bytes for each in checkpoints)
    return counted


@pytest.mark.parametrize(
    "spec",
    [{}, {"prune": {"method": "sparsegpt", "sparsity": 0.5}, "propagation": "dense"}],
    ids=["wanda", "stored statistics"],
)
def test_every_byte_that_a_job_writes_is_hashed_once(spec: dict[str, Any], tmp_path: Path, texts: Path) -> None:
    narrow, wide = (
        _of(_job(tmp_path / name, texts, **spec, **model)) for name, model in (("narrow", {}), ("wide", WIDER))
    )
    more = wide - narrow  # what a job hashes beside, of texts and tokenizer, is the same in both
    assert more.written > 50_000
    assert more.hashed == more.written


def test_exporting_reads_every_tensor_once_and_nothing_that_it_wrote(tmp_path: Path, texts: Path) -> None:
    job, counted, reads = _job(tmp_path, texts), _Bytes(), list[int]()

    def note(message: object) -> bool:
        if isinstance(message, PhaseStarted | PhaseCompleted) and message.phase == "exporting":
            reads.append(counted.read)
        return False

    with _counting(counted):
        done = job.attempt(kill_at=note)
    begin, end = reads
    sizes = {file.path: file.bytes for file in done.files}
    tensors, kept = sizes["model.safetensors"], sizes["masks.safetensors"]
    assert tensors - 10_000 < end - begin <= tensors + 2 * kept, "masks are read to prove zeros, and to be written"


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_pruned_weight_that_is_not_zero_is_refused_before_it_is_a_file(
    family: str, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(tmp_path, texts, family=family)
    job.attempt()
    session = job.session()
    for stored in job.stored.values():
        if stored.phase == "pruning" and stored.path.endswith(".safetensors"):
            session.weights = session.weights.with_overlay(session.workspace / stored.path)
    for path in job.artifact.iterdir():
        path.unlink()
    last = list(session.weights.mask_names)[-1]
    packed_mask = Weights.packed_mask

    def wrong(self: Weights, name: str) -> torch.Tensor:
        return ~packed_mask(self, name) if name == last else packed_mask(self, name)

    monkeypatch.setattr(Weights, "packed_mask", wrong)
    with pytest.raises(BrokenResultError, match=last):
        exporting.write_model(session)
    assert not list(job.artifact.glob("*.safetensors"))


def test_the_proof_looks_at_what_is_pruned_alone(tmp_path: Path, texts: Path) -> None:
    job = _job(tmp_path, texts)
    seen: list[str] = []
    prove = masks.prove_packed

    def note(nonzero_OI: torch.Tensor, packed: torch.Tensor, *, module: str) -> None:
        seen.append(module)
        prove(nonzero_OI, packed, module=module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "prove_packed", note)
        job.attempt()
    assert sorted(seen) == sorted(row.name for row in job.layers)
