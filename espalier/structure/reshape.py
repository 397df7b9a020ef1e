"""A smaller model directory from a larger one: fewer blocks, narrower matrices, the same stock class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from espalier.errors import UnsupportedArchitectureError
from espalier.model.safetensors_writer import TensorEntry, write_model
from espalier.model.streamed import StreamedModel
from espalier.model.weights import INDEX, Weights
from espalier.model_files import is_weights, model_files


@dataclass(frozen=True)
class Shape:
    """The shape of the smaller model: blocks kept, in order, and changed settings of the configuration, by field."""

    blocks: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    cuts: Mapping[str, tuple[int, torch.Tensor]] = field(default_factory=dict)
    """Tensor in the files -> (dimension, indices that stay)."""
    names: Mapping[str, str | None] = field(default_factory=dict)
    """Tensor in the files -> its new name, None when it goes."""
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors that the source does not have: biases that a setting brings."""


def write_reshaped(folder: Path, source: StreamedModel, weights: Weights, shape: Shape) -> Path:
    """Write `weights` without what goes, blocks under their new numbers, with a configuration that says so.

    Whether the stock class has room for these shapes shows when the folder is opened.
    """
    _check_blocks(shape.blocks)
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_entry(weights, old, new, shape) for old, new in _new_names(source, weights, shape).items()]
    for name, tensor in shape.added.items():
        entries.append(TensorEntry(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor))  # type: ignore[misc]
    write_model(folder, entries)
    config = json.loads((weights.model_dir / "config.json").read_text())
    if source.separate_head is not None:
        config["tie_word_embeddings"] = False
    for name, value in {**_depth_settings(source, shape.blocks), **shape.settings}.items():
        _set(config, source, name, value)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, path in model_files(weights.model_dir).items():
        if not is_weights(name) and name not in {"config.json", INDEX}:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    return folder


def _entry(weights: Weights, old: str, new: str, shape: Shape) -> TensorEntry:
    cut = shape.cuts.get(old)
    if cut is None:
        return TensorEntry(new, weights.dtype(old), weights.shape(old), lambda: weights.get(old))
    dim, stay = cut
    size = list(weights.shape(old))
    size[dim] = len(stay)
    return TensorEntry(new, weights.dtype(old), tuple(size), lambda: weights.get(old).index_select(dim, stay))


def _check_blocks(kept: Sequence[int]) -> None:
    """Refuse an empty model."""
    if not kept:
        raise UnsupportedArchitectureError("no block would be left", hint="Remove fewer blocks.")
    assert list(kept) == sorted(set(kept))


def _set(config: dict[str, Any], source: StreamedModel, name: str, value: object) -> None:
    """Set one value under the stock class's own name, and drop what it is called elsewhere."""
    for other in [key for key in config if _spelled(source, key) == _spelled(source, name)]:
        del config[other]
    config[_spelled(source, name)] = value


def _spelled(source: StreamedModel, name: str) -> str:
    """The name under which the stock class saves a setting (`n_layer` for `num_hidden_layers`): read off the class."""
    mapped: str = source.config.attribute_map.get(name, name)
    return mapped


def _depth_settings(source: StreamedModel, kept: Sequence[int]) -> dict[str, Any]:
    """The number of blocks, which of them are of which kind, and the lists that have one item per block."""
    family = source.family
    if len(kept) == family.count("depth"):
        return {}
    # Where config.json leaves such a list out, the stock class derives it from a depth that no longer holds.
    lists = {name: getattr(source.config, name) for name in family.per_block}
    return family.shortened(kept) | {name: [value[index] for index in kept] for name, value in lists.items()}


def _new_names(source: StreamedModel, weights: Weights, shape: Shape) -> dict[str, str]:
    """Name in the files -> name in the smaller model, in the order of the source."""
    owner: dict[str, int] = {}
    for block in source.layout.blocks:
        owner.update({weights.home(tensor): block.index for tensor in block.tensors.values()})
    stack = source.layout.blocks[0].name.split(".")[-2]
    numbers = {old: new for new, old in enumerate(shape.blocks)}
    names: dict[str, str] = {}
    for name in weights.names:
        index, spelled_now = owner.get(name), shape.names.get(name, name)
        if spelled_now is None:
            continue
        if index is None:
            names[name] = spelled_now
        elif index in numbers:
            before, after = f"{stack}.{index}.", f"{stack}.{numbers[index]}."
            assert name.count(before) == 1, name
            names[name] = spelled_now.replace(before, after)
    return names


def open_reshaped(folder: Path, *, compute_dtype: torch.dtype, device: torch.device) -> StreamedModel:
    """Open the smaller model; an error of the shapes means that no stock configuration can carry them."""
    try:
        return StreamedModel(folder, compute_dtype=compute_dtype, device=device)
    except UnsupportedArchitectureError as error:
        raise UnsupportedArchitectureError(
            f"no stock configuration of this family has such shapes: {error.message}",
            hint="Prune another part; per-layer widths and odd head counts need code of their own to load.",
            module=error.module,
        ) from error
