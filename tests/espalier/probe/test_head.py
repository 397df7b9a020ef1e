"""A head beside `tie_word_embeddings: true` is the embeddings where the files say so, as in stock transformers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from espalier.errors import UnsafeSource
from espalier.probe import check, probe
from espalier.recipe.spec import CompressionSpec
from tests.espalier.probe.checkpoints import LLAMA, OPT, tensors_of, write_model

TIED = LLAMA | {"tie_word_embeddings": True}
ROWS = "model.embed_tokens.weight"


def with_head(folder: Path, config: dict[str, Any], rows: str, head: str, *, equal: bool, last: bool = False) -> Path:
    """A model with both tensors; where they differ, in their first or their last value."""
    tensors = tensors_of(config)
    shape = tensors.pop(rows if rows in tensors else f"model.{rows}")
    write_model(folder, config, {rows: shape, head: shape, **tensors})
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    size = json.loads(data[8:begin])[rows]["data_offsets"][1]
    data[begin : begin + 2 * size] = b"\x3f" * (2 * size)
    if not equal:
        data[begin + 2 * size - 1 if last else begin + size] = 0
    path.write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("config", "rows", "head"),
    [
        (TIED, ROWS, "lm_head.weight"),
        (TIED, ROWS, "model.lm_head.weight"),
        (OPT, "model.decoder.embed_tokens.weight", "lm_head.weight"),
        (OPT | {"tie_word_embeddings": True}, "decoder.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_values_decide_whether_the_two_are_one(config: dict[str, Any], rows: str, head: str, tmp_path: Path) -> None:
    tied = probe(write_model(tmp_path / "tied", config)).parameters
    for equal, last in ((True, False), (False, False), (False, True)):
        folder = with_head(tmp_path / f"{equal}{last}", config, rows, head, equal=equal, last=last)
        for whole in (True, False):
            facts = probe(folder, whole=whole)
            assert facts.tied_embeddings is equal
            assert facts.parameters == tied + (0 if equal else 48 * 16)


def test_an_own_head_can_be_trained(tmp_path: Path) -> None:
    spec = CompressionSpec.model_validate(
        {"prune": {"method": "magnitude", "sparsity": 0.5}, "retrain": {"trainable": ["head"], "rank": 4}}
    )
    with_head(tmp_path / "own", TIED, ROWS, "lm_head.weight", equal=False)
    with_head(tmp_path / "one", TIED, ROWS, "lm_head.weight", equal=True)
    assert "tied-head" not in {problem.code for problem in check(spec, probe(tmp_path / "own"))}
    assert "tied-head" in {problem.code for problem in check(spec, probe(tmp_path / "one"))}


def test_a_tied_head_may_stand_for_the_embeddings(tmp_path: Path) -> None:
    tensors = tensors_of(TIED)
    tensors["lm_head.weight"] = tensors.pop(ROWS)
    assert probe(write_model(tmp_path, TIED, tensors)).tied_embeddings


def test_a_head_that_is_nowhere_is_missed_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsafeSource, match="tie_word_embeddings: true"):
        probe(write_model(tmp_path, LLAMA, tensors_of(TIED)))


def test_a_model_of_which_the_beginning_alone_is_here_may_have_a_head_of_its_own(tmp_path: Path) -> None:
    assert not probe(write_model(tmp_path, TIED, tensors_of(LLAMA))).tied_embeddings
