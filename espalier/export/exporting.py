"""The phase `exporting`: tensors, configuration, masks and packs, as stock transformers loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from espalier.export import adapter
from espalier.export.files import describe, write_json
from espalier.formats import FORMATS
from espalier.model import masks
from espalier.model.layout import Matrix
from espalier.model.numerics import dtype_name, require_finite
from espalier.model.safetensors_writer import TensorEntry, write_file
from espalier.model.safetensors_writer import write_model as write_tensors
from espalier.model.weights import INDEX, source_files
from espalier.model_files import is_weights, model_files
from espalier.session import Session
from espalier.session.results import Written

_OURS: Final = {"config.json", INDEX, "README.md"}


def run(session: Session) -> None:
    """Write the model directory, its adapter, its masks and its packs."""
    with session.reporter.phase("exporting", total=3, unit="file") as phase:
        written = write_model(session)
        if session.results.adapter is not None:
            adapter.write(session, session.results.adapter)
        phase.progress(1)
        _write_masks(session, written)
        phase.progress(2)
        _write_format(session, written)
        session.results.written = written
        phase.progress(3)


def write_model(session: Session) -> Written:
    """Write tensors in the source's order, config and tokenizer; what is pruned is proved zero on its way."""
    folder, weights = session.artifact_dir, session.weights
    folder.mkdir(parents=True, exist_ok=True)
    nonzero: dict[str, int] = {}
    pruned = _pruned(session)

    def entry(name: str) -> TensorEntry:
        source = session.streamed.twins.get(name, name)

        def read() -> torch.Tensor:
            tensor = weights.get(source)
            kept = tensor != 0
            nonzero[name] = int(np.count_nonzero(kept.numpy()))  # ten times as fast as torch's
            for matrix in pruned.get(source, []):
                part_OI = matrix.view(weights.part(kept, matrix.tensor))
                masks.prove_packed(part_OI, weights.packed_mask(matrix.name), module=matrix.name)
            if tensor.is_floating_point():
                require_finite(name, {"the values": tensor})
            return tensor

        return TensorEntry(name, weights.dtype(name), weights.shape(name), read)

    digests = write_tensors(folder, [entry(name) for name in weights.names])
    _write_config(session)
    _copy_small_files(session.model_dir, folder)
    return Written(
        {path.name: digest for path, digest in digests.items()},
        sum(nonzero[name] for name in session.streamed.parameters),
    )


def _pruned(session: Session) -> dict[str, list[Matrix]]:
    """Tensor of the files -> the pruned matrices in it."""
    homes: dict[str, list[Matrix]] = {}
    for matrix in session.streamed.layout.matrices:
        if matrix.name in session.weights.mask_names:
            homes.setdefault(session.weights.home(matrix.tensor), []).append(matrix)
    return homes


def _write_config(session: Session) -> None:
    config: dict[str, Any] = json.loads((session.model_dir / "config.json").read_text())
    if session.streamed.separate_head is not None:
        config["tie_word_embeddings"] = False
    if session.weights.cast is not None:
        config.pop("torch_dtype", None)  # the older name of the same field
        config["dtype"] = dtype_name(session.weights.cast)
    write_json(session.artifact_dir / "config.json", config)


def _copy_small_files(source: Path, folder: Path) -> None:
    for name, path in model_files(source).items():
        if name not in _OURS and not is_weights(name):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


def _write_masks(session: Session, written: Written) -> None:
    """One packed mask per pruned matrix under its module name; see `espalier/model/masks.py` for the layout."""
    weights = session.weights
    entries = []
    for matrix in session.streamed.layout.matrices:
        if matrix.name in weights.mask_names:
            shape = (matrix.shape[0], -(-matrix.shape[1] // 8))
            entries.append(
                TensorEntry(matrix.name, torch.uint8, shape, lambda name=matrix.name: weights.packed_mask(name))  # type: ignore[misc]
            )
    layout = "uint8 (outputs, ceil(inputs / 8)); bit b of byte k is input 8k + b; 1 = kept"
    path = session.artifact_dir / "masks.safetensors"
    written.others[path.name] = write_file(path, entries, metadata={"layout": layout})


def _write_format(session: Session, written: Written) -> None:
    """Write what the format keeps beside or in the place of the dense files."""
    folder = session.artifact_dir
    dense = {path: written.sha256[path.name] for path in source_files(folder)}
    written.packs = FORMATS[session.request.spec.output.format]().write(dense)
    if written.packs:
        written.unpacked = [describe(folder, path, known=written.sha256).model_dump() for path in dense]
