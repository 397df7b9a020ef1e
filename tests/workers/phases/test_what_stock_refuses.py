"""What a loader of stock transformers raises, or would compute wrongly, has a class of its own before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.jobs import local_job
from tests.fixtures.tiny_models import write_tiny_model
from workers.phases.failures import classify

Spoil = Callable[[Path], object]


def _config(**fields: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def _file(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return spoil


def _index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))


def _tokenizer(**model: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"model": model, "added_tokens": []}))

    return spoil


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WORDS = {"[UNK]": 0, "a": 1, "while": 5000}
CASES: dict[str, tuple[str, Spoil]] = {
    # StrictDataclassClassValidationError, TypeError, ValueError, KeyError, RuntimeError of configurations and classes
    "heads that do not divide": ("unsupported_architecture", _config(num_attention_heads=5, head_dim=None)),
    "heads that are null": ("unsupported_architecture", _config(num_attention_heads=None)),
    "a width that is text": ("unsupported_architecture", _config(hidden_size="32")),
    "a type that nobody knows": ("unsupported_architecture", _config(model_type="espalier")),
    "an activation that nobody knows": ("unsupported_architecture", _config(hidden_act="espalier")),
    "a rotation without its factor": ("unsupported_architecture", _config(rope_parameters={"rope_type": "llama3"})),
    "a rotation that nobody knows": ("unsupported_architecture", _config(rope_parameters={"rope_type": "x"})),
    "an odd head": ("unsupported_architecture", _config(head_dim=7)),
    "a number of blocks below zero": ("unsupported_architecture", _config(num_hidden_layers=-1)),
    "other shapes": ("unsupported_architecture", _config(intermediate_size=48)),
    "no JSON": ("unsupported_architecture", _file("config.json", lambda _: b"{")),
    "nested deeply": ("unsupported_architecture", _file("config.json", lambda _: b"[" * 100_000)),
    # SafetensorError, JSONDecodeError, UnicodeDecodeError, EOFError, FileNotFoundError of weights
    "weights are a pointer": ("source_unsafe", _file("model.safetensors", lambda _: POINTER)),
    "weights are empty": ("source_unsafe", _file("model.safetensors", lambda _: b"")),
    "weights have no header": ("source_unsafe", _file("model.safetensors", lambda _: b"\xff" * 64)),
    "weights are cut": ("source_unsafe", _file("model.safetensors", lambda data: data[:-100])),
    "weights are gone": ("source_not_found", lambda folder: (folder / "model.safetensors").unlink()),
    "a shard is gone": ("source_unsafe", _index),
    "a tensor is gone": (
        "unsupported_architecture", _weights(lambda t: {n: v for n, v in t.items() if "up_proj" not in n})
    ),
    "a value is none": ("numerical", _weights(lambda t: {n: v * float("nan") for n, v in t.items()})),
    # Exception, ValueError, TypeError, OSError, UnicodeDecodeError and panics of tokenizers
    "a tokenizer that is cut": ("source_unsafe", _file("tokenizer.json", lambda data: data[:-100])),
    "a tokenizer that is empty": ("source_unsafe", _file("tokenizer.json", lambda _: b"")),
    "a tokenizer that is a pointer": ("source_unsafe", _file("tokenizer.json", lambda _: POINTER)),
    "a tokenizer of another encoding": ("source_unsafe", _file("tokenizer.json", lambda d: b"\xff\xfe" + d)),
    "a tokenizer without its model": ("source_unsafe", _file("tokenizer.json", lambda _: b"{}")),
    "a tokenizer that lacks its unknown": (
        "source_unsafe", _tokenizer(type="WordPiece", vocab={"a": 0}, unk_token="[UNK]", max_input_chars_per_word=9,
                                    continuing_subword_prefix="##"),
    ),
    "a tokenizer that is larger than the embeddings": (
        "source_unsafe", _tokenizer(type="WordLevel", vocab={f"{i}": i for i in range(9)} | {"x": 5000},
                                    unk_token="x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("class_", "spoil"), CASES.values(), ids=CASES)
def test_every_loader(class_: str, spoil: Spoil, tmp_path: Path, texts: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", dtype=torch.float32)
    spoil(model_dir)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one is what is asked)
        local_job(tmp_path / "job", model_dir, texts).attempt()
    info = classify(caught.value, phase="baseline")
    assert info.class_ == class_, repr(caught.value)
    assert info.hint
    assert str(tmp_path) not in info.message + info.hint
    if class_ == "source_unsafe":
        assert info.module or "tokenizer" in info.message


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_mixture_that_is_set_to_tell_its_routing_runs_as_in_stock_transformers(
    family: str, tmp_path: Path, texts: Path
) -> None:
    model_dir = write_tiny_model(tmp_path / "model", family)
    plain = local_job(tmp_path / "a", model_dir, texts).attempt().report["dense"]["perplexity"]
    _config(output_router_logits=True)(model_dir)
    job = local_job(tmp_path / "b", model_dir, texts)
    assert job.attempt().report["dense"]["perplexity"] == plain
    assert json.loads((job.artifact / "config.json").read_text())["output_router_logits"] is True


def test_text_that_is_not_utf_8_is_of_the_data_set(tmp_path: Path, texts: Path, llama: Path) -> None:
    (tmp_path / "valid.txt").write_bytes(b"\xff\xfe" * 4000)
    (tmp_path / "train.txt").write_bytes((texts / "train.txt").read_bytes())
    with pytest.raises(Exception) as caught:  # noqa: PT011
        local_job(tmp_path / "job", llama, tmp_path).attempt()
    assert classify(caught.value, phase="baseline").class_ == "dataset_error"


def test_the_single_file_goes_before_an_index(tmp_path: Path, texts: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    expected: Any = local_job(tmp_path / "a", model_dir, texts).attempt().report["dense"]
    (model_dir / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "gone.safetensors"}})
    )
    job = local_job(tmp_path / "b", model_dir, texts)
    assert job.attempt().report["dense"]["perplexity"] == expected["perplexity"]
    assert not (job.artifact / "model.safetensors.index.json").exists()
