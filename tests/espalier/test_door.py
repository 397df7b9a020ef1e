"""The library's own functions, as a notebook calls them."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import espalier
from espalier.packing.files import PackError
from espalier.packing.pack import pack_file


def test_no_module_takes_the_place_of_a_function_and_both_work(tmp_path: Path) -> None:
    for module in pkgutil.walk_packages(espalier.__path__, "espalier."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    weight = np.arange(64, dtype=np.float32).reshape(8, 8)
    weight[::2] = 0
    dense, packed = tmp_path / "model.safetensors", tmp_path / "model.packed.safetensors"
    save_file({"weight": weight}, dense)
    whole = dense.read_bytes()
    pack_file(dense, packed)
    dense.unlink()
    (tmp_path / "config.json").write_text("{}")

    assert espalier.inspect(tmp_path)["nonzero_parameters"] == 32
    (path,) = espalier.unpack(str(tmp_path), tmp_path / "out")
    assert path.read_bytes() == whole
    assert (tmp_path / "out/config.json").read_text() == "{}"
    with pytest.raises(PackError):
        espalier.unpack(tmp_path / "out/nothing")
