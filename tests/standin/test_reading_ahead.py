"""Who reads a block's tensors while a job computes on a card: the thread that is ahead, each of them once."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.model.tensor_file import TensorFile
from espalier.prune import pruning
from espalier.session import limits
from espalier.stream.read_ahead import ReadAhead
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.standin.runs import run_on_card

pytestmark = pytest.mark.deep
BLOCKS = 4


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, bool]]:
    """(block, whether ahead) -> tensors read."""
    counted, read, get = Counter[tuple[int, bool]](), TensorFile.read, ReadAhead.get

    def counting(self: TensorFile, name: str) -> torch.Tensor:
        parts = name.split(".")
        if "layers" in parts:
            ahead = threading.current_thread() is not threading.main_thread()
            counted[int(parts[parts.index("layers") + 1]), ahead] += 1
        return read(self, name)

    def asked(self: ReadAhead, weights: Any, name: str) -> torch.Tensor:
        self.thread.submit(lambda: None).result()  # as if the thread were always quick enough
        return get(self, weights, name)

    monkeypatch.setattr(TensorFile, "read", counting)
    monkeypatch.setattr(ReadAhead, "get", asked)
    return counted


@pytest.mark.parametrize("overlaps", [True, False])
def test_every_block_but_the_first_is_read_ahead_once(
    overlaps: bool, tmp_path: Path, reads: Counter[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    source = write_tiny_model(tmp_path / "model", num_hidden_layers=BLOCKS)
    monkeypatch.setattr(limits, "holds_neighbours", lambda *_: overlaps)
    read_by_pruning, run = list[Counter[tuple[int, bool]]](), pruning.run

    def watched(*args: Any) -> None:
        before = reads.copy()
        run(*args)
        read_by_pruning.append(reads - before)

    monkeypatch.setattr(pruning, "run", watched)
    run_on_card(tmp_path / "job", source, write_texts(texts), evaluate={"latency": False, "perplexity": []})
    matrices_and_norms = 7 + 2
    ahead = {(block, overlaps and block > 0): matrices_and_norms for block in range(BLOCKS)}
    assert read_by_pruning == [Counter(ahead)]
