"""Packing loses nothing, for any tensors; it reaches the size that its documentation states."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from espalier.packing.files import PackError, RawTensorFile
from espalier.packing.pack import CHUNK, PARTS, pack_file, packed_path
from espalier.packing.unpacking import Pack, unpack_file, unpacked_path

DOCUMENT = Path(__file__).parents[3] / "docs" / "packed-format.md"


def sparse(shape: tuple[int, ...], *, zeros: float, dtype: Any = np.uint16, seed: int = 0) -> Any:
    """Random bits of which a share is zero."""
    draws = np.random.default_rng(seed)
    values = draws.integers(1, np.iinfo(dtype).max, shape, dtype=dtype)
    return np.where(draws.random(shape) < zeros, dtype(0), values)


def two_of_four(shape: tuple[int, ...], *, seed: int = 0) -> Any:
    """Random bits of which two in every four are zero."""
    draws = np.random.default_rng(seed)
    values = draws.integers(1, 60_000, shape, dtype=np.uint16).reshape(-1, 4)
    return np.where(draws.random(values.shape).argsort(axis=1) < 2, values, 0).astype(np.uint16).reshape(shape)


def there_and_back(folder: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Pack:
    """Pack and unpack; the file must come back byte for byte."""
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata)
    pack_file(path, packed_path(path))
    whole = path.read_bytes()
    path.unlink()
    unpack_file(packed_path(path), unpacked_path(packed_path(path)))
    assert path.read_bytes() == whole
    return Pack(packed_path(path))


def test_every_kind_of_tensor_comes_back_byte_for_byte(tmp_path: Path) -> None:
    tensors = {
        "many_chunks": sparse((5, CHUNK // 4 + 3), zeros=0.6),
        "wide": sparse((64, 64), zeros=0.7, dtype=np.uint32),
        "bytes": sparse((64, 64), zeros=0.9, dtype=np.uint8),
        "long": sparse((64, 64), zeros=0.9, dtype=np.uint64),
        "two_of_four": two_of_four((96, 4 * 1001)),
        "odd_groups": two_of_four((1, 4)),
        "dense": sparse((64, 65), zeros=0.0),
        "nothing_but_zeros": np.zeros((8, 8), dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(3.0, dtype=np.float32),
    }
    pack = there_and_back(tmp_path, tensors, {"format": "pt", "note": "é"})
    assert pack.codes["two_of_four"] == "2:4"
    assert {pack.codes[name] for name in ("many_chunks", "wide", "bytes", "long", "nothing_but_zeros")} == {"bitmask"}
    assert not {"dense", "empty", "scalar", "odd_groups"} & set(pack.codes)


def test_negative_zero_and_nan_keep_their_bits(tmp_path: Path) -> None:
    values = np.zeros((16, 16), dtype=np.float32)
    values[0, 0], values[3, 5], values[7, 7] = -0.0, np.nan, np.inf
    assert there_and_back(tmp_path, {"w": values}).codes == {"w": "bitmask"}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    zeros=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
    grouped=st.booleans(),
)
def test_any_matrix_comes_back(
    rows: int, columns: int, zeros: float, seed: int, grouped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = two_of_four((rows, 4 * columns), seed=seed) if grouped else sparse((rows, columns), zeros=zeros, seed=seed)
    there_and_back(tmp_path_factory.mktemp("pack"), {"w": values, "v": sparse((columns,), zeros=zeros, seed=seed)})


@pytest.mark.parametrize("zeros", [0.5, 0.6, 0.7])
def test_an_unstructured_matrix_is_within_three_percent_of_the_entropy_bound(zeros: float, tmp_path: Path) -> None:
    values = sparse((1024, 1024), zeros=zeros)
    pack = there_and_back(tmp_path, {"w": values})
    bits = 8 * sum(pack.parts[f"w.{part}"].end - pack.parts[f"w.{part}"].begin for part in PARTS["bitmask"])
    kept = np.count_nonzero(values) / values.size
    bound = 16 * kept - kept * np.log2(kept) - (1 - kept) * np.log2(1 - kept)
    assert bound <= bits / values.size <= 1.03 * bound


def test_a_two_of_four_matrix_takes_nine_bits_an_element(tmp_path: Path) -> None:
    values = two_of_four((64, 256))
    values[0, :4] = 0  # a kept weight may be zero: its group is filled
    pack = there_and_back(tmp_path, {"w": values})
    assert pack.codes == {"w": "2:4"}
    parts = pack.parts["w.values"], pack.parts["w.positions"]
    assert 8 * sum(part.end - part.begin for part in parts) == 9 * values.size


def test_memory_is_bounded_by_a_chunk_whatever_the_size_of_shards(tmp_path: Path) -> None:
    """Three shards of 8 MB each way; mapped files are no allocations, all that is copied is."""
    shards = [tmp_path / f"model-{number:05d}-of-00003.safetensors" for number in range(3)]
    for seed, path in enumerate(shards):
        save_file({"a": sparse((2048, 1024), zeros=0.6, seed=seed), "b": two_of_four((2048, 1024), seed=seed)}, path)
    whole = [path.read_bytes() for path in shards]
    tracemalloc.start()
    for path in shards:
        pack_file(path, packed_path(path))
        path.unlink()
        unpack_file(packed_path(path), path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [path.read_bytes() for path in shards] == whole
    assert peak < shards[0].stat().st_size
    assert peak < 24 * CHUNK, "of a chunk: its elements, a byte and an index for each, and what is written"


def test_equal_files_give_equal_packs(tmp_path: Path) -> None:
    packs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        there_and_back(tmp_path / name, {"w": sparse((64, 64), zeros=0.5)})
        packs.append((tmp_path / name / "model.packed.safetensors").read_bytes())
    assert packs[0] == packs[1]


def test_the_documented_unpacker_gives_the_same_file(tmp_path: Path) -> None:
    many_chunks = sparse((5, CHUNK // 4 + 3), zeros=0.6)
    there_and_back(tmp_path, {"a": many_chunks, "b": two_of_four((96, 400)), "c": np.ones(7)})
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(code) == 1
    assert len(code[0].splitlines()) <= 50
    names: dict[str, Any] = {}
    exec(code[0], names)
    names["unpack"](tmp_path / "model.packed.safetensors", tmp_path / "by_hand.safetensors")
    assert (tmp_path / "by_hand.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert set(load_file(tmp_path / "by_hand.safetensors")) == {"a", "b", "c"}


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    for index, data in enumerate((b"", b"\x00" * 8, b"\xff" * 64, (4).to_bytes(8, "little") + b"[1] ")):
        path = tmp_path / f"{index}.safetensors"
        path.write_bytes(data)
        with pytest.raises(PackError):
            _ = RawTensorFile(path).entries


def _damage(path: Path, *, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("zeros", [0.6, None])
def test_a_damaged_pack_is_refused_and_leaves_nothing(zeros: float | None, tmp_path: Path) -> None:
    values = two_of_four((64, 64)) if zeros is None else sparse((64, 64), zeros=zeros)
    there_and_back(tmp_path, {"w": values})
    path, target = tmp_path / "model.packed.safetensors", tmp_path / "again.safetensors"
    whole = path.read_bytes()
    for at in range(9, len(whole), len(whole) // 97):
        path.write_bytes(whole)
        _damage(path, at=at)
        with pytest.raises((PackError, OSError)):
            unpack_file(path, target)
        assert sorted(item.name for item in tmp_path.iterdir()) == ["model.packed.safetensors", "model.safetensors"]
