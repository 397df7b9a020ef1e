"""A header is read by our own rules, and everything else is a refusal in words."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from espalier.errors import SourceNotFound, UnsafeSource
from espalier.probe.headers import read_header, read_tensors, weight_files
from tests.espalier.probe.checkpoints import FUZZ, JSON, LLAMA, header_of, safetensors, tensors_of
from tests.espalier.probe.hostile_headers import BAD, GOOD, entry


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
