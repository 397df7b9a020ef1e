"""The artifact: a model directory that stock transformers loads, its masks, its report, its card, its manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from espalier.export.card import card
from espalier.export.relative_paths import WHERE_TO, without_places
from espalier.export.report import build
from espalier.messages import ArtifactFile
from espalier.model import masks
from espalier.model.numerics import name_of, require_finite
from espalier.model.safetensors_writer import TensorEntry, sha256_of, write_file
from espalier.model.safetensors_writer import write_model as write_tensors
from espalier.model.weights import INDEX, Weights, source_files
from espalier.model_files import is_weights, model_files
from espalier.packing.pack import pack_file, packed_path
from espalier.packing.unpacking import unpack_file
from espalier.recipe.spec import SCHEMA_VERSION
from espalier.session import Session

_OURS: Final = {"config.json", INDEX, "README.md"}
_MODEL_CONFIGS: Final = {"adapter_config.json", "config.json", "generation_config.json", INDEX}


@dataclass(frozen=True)
class Written:
    """The model files of the artifact."""

    sha256: dict[str, str]
    nonzero_parameters: int


def write_model(session: Session) -> Written:
    """Write tensors in the source's order, config and tokenizer; prove that what is pruned is zero."""
    folder, weights = session.artifact_dir, session.weights
    folder.mkdir(parents=True, exist_ok=True)
    nonzero: dict[str, int] = {}

    def entry(name: str) -> TensorEntry:
        def read() -> torch.Tensor:
            tensor = weights.get(session.streamed.twins.get(name, name))
            nonzero[name] = int(torch.count_nonzero(tensor))
            if tensor.is_floating_point():
                require_finite(tensor, what="the values", module=name)
            return tensor

        return TensorEntry(name, weights.dtype(name), weights.shape(name), read)

    paths = write_tensors(folder, [entry(name) for name in weights.names])
    _write_config(session)
    _copy_small_files(session.model_dir, folder)
    _prove_zeros(session)
    return Written(
        {path.name: sha256_of(path)[0] for path in paths},
        sum(nonzero[name] for name in session.streamed.parameters),
    )


def _write_config(session: Session) -> None:
    config: dict[str, Any] = json.loads((session.model_dir / "config.json").read_text())
    if session.streamed.separate_head is not None:
        config["tie_word_embeddings"] = False
    if session.weights.cast is not None:
        config.pop("torch_dtype", None)  # the older name of the same field
        config["dtype"] = name_of(session.weights.cast)
    _write_json(session.artifact_dir / "config.json", config)


def _copy_small_files(source: Path, folder: Path) -> None:
    for name, path in model_files(source).items():
        if name not in _OURS and not is_weights(name):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


def _prove_zeros(session: Session) -> None:
    written = Weights(session.artifact_dir)
    for matrix in session.streamed.layout.matrices:
        if matrix.name in session.weights.mask_names:
            masks.prove(matrix.view(written.get(matrix.tensor)), session.mask(matrix.name), module=matrix.name)


def run(
    session: Session, written: Written, perplexity: dict[str, float]
) -> tuple[dict[str, Any], dict[str, Any] | None, list[ArtifactFile]]:
    """Write everything that goes beside the model, the manifest last; return the report, the verdict and the files."""
    folder = session.artifact_dir
    with session.reporter.phase("exporting", total=4, unit="file") as phase:
        _write_masks(session)
        unpacked = _pack(session)
        phase.progress(1)
        report = build(session, written.nonzero_parameters, perplexity, current=phase.completed())
        report = without_places(session, report)
        _write_json(folder / "report.json", report)
        phase.progress(2)
        (folder / "README.md").write_text(card(session, report), encoding="utf-8")
        if session.request.spec.output.format == "packed":
            _drop_dense(folder)
        phase.progress(3)
        others = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
        files = [_describe(folder, path) for path in others]
        _write_json(folder / "manifest.json", _manifest(session, files, unpacked))
        files.append(_describe(folder, folder / "manifest.json"))
        phase.progress(4)
    return report, report["gate"], files


def _write_masks(session: Session) -> None:
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
    write_file(session.artifact_dir / "masks.safetensors", entries, metadata={"layout": layout})


def _pack(session: Session) -> list[dict[str, Any]]:
    """Pack the model's files if asked, prove that they come back bit for bit, and tell what they unpack to."""
    if session.request.spec.output.format == "safetensors":
        return []
    described = []
    for path in source_files(session.artifact_dir):
        pack_file(path, packed_path(path))
        proof = path.with_name(f"{path.name}.proof")
        unpack_file(packed_path(path), proof)  # checks the sha256
        proof.unlink()
        described.append(_describe(session.artifact_dir, path).model_dump())
    return described


def _drop_dense(folder: Path) -> None:
    for path in source_files(folder):
        path.unlink()


def _manifest(session: Session, files: list[ArtifactFile], unpacked: list[dict[str, Any]]) -> dict[str, Any]:
    spec = session.request.spec
    seeds = {"calibration": spec.calibration.seed}
    if spec.retrain is not None:
        seeds["retrain"] = spec.retrain.seed
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"name": session.request.source_name, "revision": session.request.revision},
        # Who takes the result over may publish it elsewhere, and whom it reaches need not know where else it lies.
        "spec": without_places(session, spec.model_dump(mode="json", exclude=WHERE_TO)),
        "seeds": seeds,
        "versions": session.results.environment,
        "files": [file.model_dump() for file in files],
        **({"unpacked": unpacked} if unpacked else {}),
    }


def _describe(folder: Path, path: Path) -> ArtifactFile:
    digest, size = sha256_of(path)
    return ArtifactFile(path=str(path.relative_to(folder)), kind=_kind(path.name), bytes=size, sha256=digest)


def _kind(name: str) -> Any:  # noqa: ANN401 - the message's own literal
    ours = {"masks.safetensors": "mask", "report.json": "report", "README.md": "card", "manifest.json": "manifest"}
    if name in ours:
        return ours[name]
    return "model" if name.endswith(".safetensors") or name in _MODEL_CONFIGS else "tokenizer"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
