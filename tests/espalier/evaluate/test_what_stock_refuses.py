"""What a loader of stock transformers raises, or would compute wrongly, has a class of its own before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils.hub import get_checkpoint_shard_files

from app.integrations.shared.checkpoint import weight_names
from espalier.diagnosis import classify
from espalier.errors import SourceRefused
from espalier.model_files import INDEX
from espalier.probe import probe
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import write_tiny_model

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
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}))


def _tokenizer(**model: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"model": model, "added_tokens": []}))

    return spoil


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
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
        "unsupported_architecture",
        _weights(lambda t: {n: v for n, v in t.items() if "up_proj" not in n}),
    ),
    "a value is none": ("numerical", _weights(lambda t: {n: v * float("nan") for n, v in t.items()})),
    # Exception, ValueError, TypeError, OSError, UnicodeDecodeError and panics of tokenizers
    "a tokenizer that is cut": ("source_unsafe", _file("tokenizer.json", lambda data: data[:-100])),
    "a tokenizer that is empty": ("source_unsafe", _file("tokenizer.json", lambda _: b"")),
    "a tokenizer that is a pointer": ("source_unsafe", _file("tokenizer.json", lambda _: POINTER)),
    "a tokenizer of another encoding": ("source_unsafe", _file("tokenizer.json", lambda d: b"\xff\xfe" + d)),
    "a tokenizer without its model": ("source_unsafe", _file("tokenizer.json", lambda _: b"{}")),
    "a tokenizer that lacks its unknown": (
        "source_unsafe",
        _tokenizer(
            type="WordPiece",
            vocab={"a": 0},
            unk_token="[UNK]",
            max_input_chars_per_word=9,
            continuing_subword_prefix="##",
        ),
    ),
    "a tokenizer that is larger than the embeddings": (
        "source_unsafe",
        _tokenizer(type="WordLevel", vocab={f"{i}": i for i in range(9)} | {"x": 5000}, unk_token="x"),
    ),
}


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


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in three files."""
    folder = write_tiny_model(tmp_path_factory.mktemp("sharded") / "model", max_shard_size="30KB")
    assert (folder / FIRST).exists()
    return folder


Index = dict[str, Any]
NO_OBJECTS: tuple[object, ...] = (None, [], "x", 3, True)
NORM, FIRST = "model.norm.weight", "model-00001-of-00003.safetensors"


def _with(**members: object) -> Callable[[Index], object]:
    return lambda index: index | members


def _without(member: str) -> Callable[[Index], object]:
    return lambda index: {name: value for name, value in index.items() if name != member}


def _mapped(change: Callable[[str], object], *names: str) -> Callable[[Index], object]:
    """What the map says of some tensors, or of all, is another thing."""

    def changed(index: Index) -> object:
        shards = index["weight_map"]
        return index | {"weight_map": shards | {name: change(shards[name]) for name in names or shards}}

    return changed


TAKEN: dict[str, Callable[[Index], object]] = {
    "as it was written": _with(),
    "empty metadata": _with(metadata={}),
    "a size that is text": _with(metadata={"total_size": "1 GB"}),
    "a size that is null": _with(metadata={"total_size": None}),
    "a wrong size": _with(metadata={"total_size": 1}),
    "a dtype that nobody knows": _with(metadata={"dtype": "espalier"}),
    "metadata that say what is where": _with(metadata={"weight_map": {}, "all_checkpoint_keys": 3}),
    "further members": _with(note=[1]),
}
STOCK_TAKES: dict[str, Callable[[Index], object]] = {
    "paths that begin here": _mapped(lambda name: f"./{name}"),
    "paths from above": _mapped(lambda name: f"../model/{name}"),
    "absolute paths": _mapped(lambda name: f"/tmp/{name}"),
    "a tensor in another shard than it says": _mapped(lambda _: FIRST, NORM),
    "a tensor that is nowhere": lambda index: index | {"weight_map": index["weight_map"] | {"x": FIRST}},
    "a tensor that it leaves out": lambda index: index | {"weight_map": _without(NORM)(index["weight_map"])},
    "a shard of other letters": _mapped(lambda name: f"M{name[1:]}", NORM),
    "one name twice": lambda index: json.dumps(index).replace('"weight_map": {', '"weight_map": {"x": "x", "x": "x", '),
    "metadata twice": lambda index: '{"metadata": null, ' + json.dumps(index)[1:],
    "half a character": _with(metadata={"note": "\ud800"}),
    "no number": _with(metadata={"total_size": float("nan")}),
}
"""Its index, that is: that the file is not there comes later."""
STOCK_REFUSES: dict[str, Callable[[Index], object]] = {
    "no metadata": _without("metadata"),
    **{f"metadata {value!r}": _with(metadata=value) for value in NO_OBJECTS},
    "no map": _without("weight_map"),
    "a map that is a list": _with(weight_map=[FIRST]),
    "a map that is null": _with(weight_map=None),
    "a shard that is a number": _mapped(lambda _: 3, NORM),
    "a shard that is a list": _mapped(lambda _: [FIRST], NORM),
    "a list": lambda index: [index],
    "a mark of byte order": lambda index: "\ufeff" + json.dumps(index),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in TAKEN.items()])
def test_an_index_that_stock_takes_is_taken(change: Callable[[Index], object], sharded: Path, tmp_path: Path) -> None:
    folder = _indexed(sharded, tmp_path / "model", change)
    get_checkpoint_shard_files(str(folder), str(folder / INDEX))
    weight_names([path.name for path in folder.iterdir()], folder, "it")
    probe(folder)


@pytest.mark.parametrize(
    ("change", "stock"),
    [
        pytest.param(change, stock, id=name)
        for cases, stock in ((STOCK_TAKES, True), (STOCK_REFUSES, False))
        for name, change in cases.items()
    ],
)
def test_an_index_that_is_not_what_it_should_be_is_refused_at_post(
    change: Callable[[Index], object], sharded: Path, tmp_path: Path, *, stock: bool
) -> None:
    folder = _indexed(sharded, tmp_path / "model", change)
    with nullcontext() if stock else pytest.raises((KeyError, TypeError, AttributeError, ValueError)):
        get_checkpoint_shard_files(str(folder), str(folder / INDEX))
    with pytest.raises(SourceRefused) as at_post:
        probe(folder)
    assert "save_pretrained" in at_post.value.hint
    assert at_post.value.module
    fetched = False
    with suppress(SourceRefused):
        weight_names([path.name for path in folder.iterdir()], folder, "it")
        fetched = True
    assert stock or not fetched, "all weights would come before the job says that nobody can load them"


def _indexed(sharded: Path, folder: Path, change: Callable[[Index], object]) -> Path:
    folder.mkdir()
    for path in sharded.iterdir():
        (folder / path.name).symlink_to(path)
    changed = change(json.loads((folder / INDEX).read_text()))
    (folder / INDEX).unlink()
    (folder / INDEX).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    return folder
