"""A header is read by our own rules, and everything else is a refusal in words."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from espalier.probe.headers import read_header, read_tensors, weight_files
from espalier.refusals import SourceNotFound, UnsafeSource
from tests.espalier.probe.checkpoints import FUZZ, JSON, LLAMA, header_of, safetensors, tensors_of

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": GOOD["a"] | changes}


BAD: dict[str, bytes] = {
    "empty file": b"",
    "shorter than the length": b"\x08\x00\x00",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "length of 2**63": struct.pack("<Q", 2**63) + b"{}",
    "length beyond 16 MiB": struct.pack("<Q", 16 * 2**20 + 1) + bytes(17 * 2**20),
    "zero length": struct.pack("<Q", 0),
    "not JSON": safetensors(b"{'a': 1}", 0),
    "not UTF-8": safetensors(b'{"\xff": 1}', 0),
    "a list": safetensors(b"[]", 0),
    "NaN": safetensors(b'{"a": NaN}', 0),
    "deep nesting": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 0),
    "a number of 5000 digits": safetensors(b'{"a": ' + b"9" * 5000 + b"}", 0),
    "duplicate tensor": safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(GOOD["a"]).encode(),) * 2), 8),
    "duplicate key in an entry": safetensors(
        b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', 8
    ),
    "duplicate metadata": safetensors(b'{"__metadata__":{"a":"1","a":"2"}}', 0),
    "metadata that is a list": safetensors({"__metadata__": [], **GOOD}, 8),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}, **GOOD}, 8),
    "path as a name": safetensors({"../../etc/x": GOOD["a"]}, 8),
    "dots in a name": safetensors({"a..b": GOOD["a"]}, 8),
    "empty name": safetensors({"": GOOD["a"]}, 8),
    "newline at the end of a name": safetensors({"a\n": GOOD["a"]}, 8),
    "name of 201 characters": safetensors({"a" * 201: GOOD["a"]}, 8),
    "null byte in a name": safetensors({"a\0": GOOD["a"]}, 8),
    "entry that is a list": safetensors({"a": [1]}, 8),
    "entry without a shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "entry with more": safetensors(entry(extra=1), 8),
    "unknown dtype": safetensors(entry(dtype="F99"), 8),
    "F64": safetensors(entry(dtype="F64", shape=[1]), 8),
    "dtype that is a list": safetensors(entry(dtype=["F32"]), 8),
    "shape that is text": safetensors(entry(shape="2"), 8),
    "shape of booleans": safetensors(entry(shape=[True, 2]), 8),
    "shape of floats": safetensors(entry(shape=[2.0]), 8),
    "negative shape": safetensors(entry(shape=[-1, -2]), 8),
    "shape of nine dimensions": safetensors(entry(shape=[1] * 8 + [2]), 8),
    "shape that overflows 64 bits": safetensors(entry(shape=[2**62, 4, 2]), 8),
    "zero size": safetensors(entry(shape=[0], data_offsets=[0, 0]), 0),
    "offsets reversed": safetensors(entry(data_offsets=[8, 0]), 8),
    "negative offsets": safetensors(entry(data_offsets=[-8, 0]), 8),
    "three offsets": safetensors(entry(data_offsets=[0, 8, 8]), 8),
    "offsets of text": safetensors(entry(data_offsets=["0", "8"]), 8),
    "shape beyond its bytes": safetensors(entry(shape=[3]), 8),
    "gap at the start": safetensors(entry(data_offsets=[4, 12]), 12),
    "two tensors on one place": safetensors(GOOD | {"b": GOOD["a"]}, 8),
    "overlap": safetensors(GOOD | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
    "gap between": safetensors(GOOD | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}, 20),
    "bytes missing at the end": safetensors(GOOD, 7),
    "bytes left at the end": safetensors(GOOD, 9),
}


def test_a_good_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"__metadata__": {"format": "pt"}} | GOOD, 8))
    (tensor,) = read_header(path)
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.bytes) == ("a", "F32", (2,), 8)


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_bad_header_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnsafeSource):
        read_header(path)


HALVES: dict[str, bool] = {
    r"\ud83d\ude00": False,  # one character
    r"\\ud800": False,  # a backslash and five letters
    r"\u00e9\uE000\uFFFF": False,
    r"\ud800": True,
    r"\uDFFF": True,
    r"a\uD83Da": True,
    r"\ude00\ud83d": True,
    r"\ud83d\ud83d\ude00": True,
    r"\ud83d\ude00\ude00": True,
    r"\\\ud800": True,  # a backslash before it
    r"\\ud83d\ude00": True,  # six letters before it
}
"""JSON strings -> whether they hold half a character."""


@pytest.mark.parametrize(("text", "half"), HALVES.items())
@pytest.mark.parametrize("place", ['"__metadata__": {"x": "%s"}, "a"', '"__metadata__": {"%s": ""}, "a"', '"%s"'])
def test_half_a_character_is_refused_wherever_it_stands(place: str, text: str, tmp_path: Path, *, half: bool) -> None:
    content = safetensors(f"{{{place % text}: {json.dumps(GOOD['a'])}}}".encode(), 8)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SafetensorError) if half else nullcontext():
        deserialize(content)  # type: ignore[no-untyped-call]
    why = "lone surrogate" if half else "unsafe name" if place == '"%s"' else None
    with pytest.raises(UnsafeSource, match=why) if why else nullcontext():
        read_header(path)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert [tensor.name for tensor in read_header(path)] == ["w"]


def test_other_formats_are_recognised_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}, protocol=protocol))
        with pytest.raises(UnsafeSource, match=r"a pickle, not safetensors\. Convert"):
            read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(UnsafeSource, match="zip archive"):
        read_header(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UnsafeSource, match="git lfs pull"):
        read_header(path)


@FUZZ
@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_refusal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{os.getpid()}.safetensors"
    for data in (content, safetensors(content, 0)):
        path.write_bytes(data)
        try:
            read_header(path)
        except UnsafeSource:
            continue
        assert data[8:].startswith(b"{")


@FUZZ
@given(st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), JSON, max_size=4))
def test_no_entry_raises_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"entry-{os.getpid()}.safetensors"
    path.write_bytes(safetensors(json.dumps(entry(**changes)).encode(), 8))
    try:
        (tensor,) = read_header(path)
    except UnsafeSource:
        assert changes
    else:
        assert tensor.bytes == 8


def sharded(folder: Path) -> dict[str, str]:
    tensors = tensors_of(LLAMA)
    names = list(tensors)
    halves = {"model-1.safetensors": names[:7], "model-2.safetensors": names[7:]}
    for file, part in halves.items():
        (folder / file).write_bytes(safetensors(header_of({name: tensors[name] for name in part})))
    return {name: file for file, part in halves.items() for name in part}


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    write_index(tmp_path, sharded(tmp_path))
    assert weight_files(tmp_path) == ["model-1.safetensors", "model-2.safetensors"]
    assert read_tensors(tmp_path).keys() == tensors_of(LLAMA).keys()


@pytest.mark.parametrize(
    "value", ["../model-1.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", ".safetensors", 3, None]
)
def test_an_index_names_plain_files_only(value: object, tmp_path: Path) -> None:
    weight_map: dict[str, Any] = sharded(tmp_path)
    write_index(tmp_path, weight_map | {"lm_head.weight": value})
    with pytest.raises(UnsafeSource, match="plain"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("value", [None, [], {}, "x"])
def test_an_index_has_a_map(value: object, tmp_path: Path) -> None:
    write_index(tmp_path, value)
    with pytest.raises(UnsafeSource, match="weight_map"):
        read_tensors(tmp_path)


def test_an_index_agrees_with_the_headers(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path)
    write_index(tmp_path, weight_map | {"ghost": "model-1.safetensors"})
    with pytest.raises(UnsafeSource, match="disagree about tensor ghost"):
        read_tensors(tmp_path)
    write_index(tmp_path, weight_map | {"lm_head.weight": "model-1.safetensors"})
    with pytest.raises(UnsafeSource, match=r"disagree about tensor lm_head\.weight"):
        read_tensors(tmp_path)


def test_a_tensor_lies_in_one_file(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path)
    (tmp_path / "model-3.safetensors").write_bytes((tmp_path / "model-2.safetensors").read_bytes())
    write_index(tmp_path, weight_map | {"other": "model-3.safetensors"})
    with pytest.raises(UnsafeSource, match=r"is in model-2\.safetensors and in model-3\.safetensors"):
        read_tensors(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, sharded(tmp_path))
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(SourceNotFound, match=r"model-2\.safetensors"):
        read_tensors(tmp_path)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceNotFound, match="neither"):
        read_tensors(tmp_path)
