"""What is given as a model and is something else is told so, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from espalier.errors import SourceNotFound, SourceRefused, UnsafeSource, UnsupportedArchitecture
from espalier.probe import probe
from tests.espalier.probe.checkpoints import LLAMA, write_model

CONFIG = json.dumps(LLAMA)
STRAYS: dict[str, tuple[dict[str, str], type[SourceRefused], str]] = {
    "a LoRA": ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, UnsupportedArchitecture, "merge_and"),
    "an old LoRA": ({"adapter_config.json": "{}", "adapter_model.bin": ""}, UnsupportedArchitecture, "merge_and"),
    "a LoRA with the configuration of its base": (
        {"config.json": CONFIG, "adapter_config.json": "{}", "adapter_model.safetensors": ""},
        UnsupportedArchitecture,
        "merge_and_unload",
    ),
    "GGUF": ({"model.Q4_K_M.gguf": ""}, UnsupportedArchitecture, "GGUF"),
    "GGUF and a configuration": ({"config.json": CONFIG, "x.gguf": ""}, UnsupportedArchitecture, "GGUF"),
    "diffusers": ({"model_index.json": "{}"}, UnsupportedArchitecture, "diffusers"),
    "diffusers and its parts": (
        {"model_index.json": "{}", "text_encoder/config.json": CONFIG},
        UnsupportedArchitecture,
        "diffusers",
    ),
    "sentence-transformers and its parts": (
        {"modules.json": "[]", "0_Transformer/config.json": CONFIG},
        UnsupportedArchitecture,
        "sentence-transformers",
    ),
    "sentence-transformers": ({"modules.json": "[]"}, UnsupportedArchitecture, "sentence-transformers"),
    "ONNX": ({"config.json": CONFIG, "model.onnx": ""}, UnsupportedArchitecture, "ONNX"),
    "Meta's own format": ({"params.json": "{}", "consolidated.00.pth": ""}, UnsupportedArchitecture, "its authors"),
    "a pickle": ({"config.json": CONFIG, "pytorch_model.bin": ""}, UnsafeSource, "can run code"),
    "a pickle alone": ({"pytorch_model.bin": ""}, UnsafeSource, "can run code"),
    "shards without an index": (
        {"config.json": CONFIG, "model-00001-of-00002.safetensors": ""},
        SourceNotFound,
        "which says what is where",
    ),
    "a configuration alone": ({"config.json": CONFIG}, SourceNotFound, "neither"),
    "nothing": ({}, SourceNotFound, "empty"),
    "something else": ({"notes.txt": ""}, SourceNotFound, "no config.json"),
    "a folder above": ({"model/config.json": CONFIG}, SourceNotFound, "name that folder"),
    "a cache of the Hub": ({"snapshots/0123/config.json": CONFIG}, SourceNotFound, "name that folder"),
}


@pytest.mark.parametrize(("files", "kind", "words"), STRAYS.values(), ids=list(STRAYS))
def test_what_is_no_model_is_told_what_it_is(
    files: dict[str, str], kind: type[SourceRefused], words: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(kind, match=words) as caught:
        probe(tmp_path)
    assert caught.value.hint


def test_what_lies_beside_a_model_does_not_matter(tmp_path: Path) -> None:
    write_model(tmp_path)
    for files, *_ in STRAYS.values():
        for name in files.keys() - {"config.json"}:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    assert probe(tmp_path).model_type == "llama"
