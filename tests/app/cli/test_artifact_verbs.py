"""`espalier unpack` and `espalier inspect` on a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from espalier.packing.pack import pack_file, packed_path
from tests.app.cli.command import Espalier


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A packed model of one half-empty matrix."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.triu(np.ones((64, 64), dtype=np.float32), 1)}, path)
    pack_file(path, packed_path(path))
    path.unlink()
    (tmp_path / "config.json").write_text('{"architectures": ["TinyForCausalLM"]}')
    return tmp_path


def test_unpack_writes_the_dense_file_and_names_it(folder: Path, espalier: Espalier) -> None:
    outcome = espalier("unpack", str(folder))
    assert outcome.status == 0, outcome.err
    assert "model.safetensors" in outcome.out
    assert (folder / "model.safetensors").exists()


def test_inspect_counts(folder: Path, espalier: Espalier) -> None:
    summary = json.loads(espalier("inspect", str(folder), "--json").out)
    assert (summary["parameters"], summary["nonzero_parameters"]) == (4096, 64 * 63 // 2)
    text = espalier("inspect", str(folder)).out
    assert "TinyForCausalLM" in text
    assert "no manifest" in text


def test_trouble_is_one_line(tmp_path: Path, espalier: Espalier) -> None:
    for verb in ("unpack", "inspect"):
        outcome = espalier(verb, str(tmp_path))
        assert outcome.status == 1
        assert "holds no" in outcome.err
        assert "Traceback" not in outcome.err
