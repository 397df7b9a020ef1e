"""The functions of the library, for a notebook: `import espalier; espalier.compress("./model", "fast", "./small")`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from espalier.documents.gather import gather
from espalier.errors import SourceNotFound
from espalier.intake import admit, lay_out
from espalier.messages import Checkpoint, ComputeRequest, DeviceChoice, Done, Message, Warned
from espalier.model_files import content_sha256
from espalier.packing.summary import summary
from espalier.packing.unpacking import unpack_folder
from espalier.recipe.base import fingerprint
from espalier.recipe.reading import RecipeError, read_recipe
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.dataset import BuiltinDataset, LocalDataset
from espalier.scratch import scratch

OUTPUT = "espalier-output"
"""Where a result goes for which no folder is named."""
Progress = Callable[[Message], object]


class Report(dict[str, Any]):
    """Before and after, as `GET /v1/jobs/{id}/report` shows it, and the folder of the artifact."""

    def __init__(self, report: Mapping[str, Any], folder: Path) -> None:
        super().__init__(report)
        self.folder = folder


def compress(
    model: str | PathLike[str],
    recipe: Mapping[str, Any] | str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    device: DeviceChoice = "auto",
) -> Report:
    """Compress the model in a folder, write the artifact to `output` and return its report.

    `recipe`: a spec as a mapping, the path of a YAML or JSON file, or the name of a preset. `output` must not exist or
    be empty; default: `espalier-output`. It appears whole, or not at all. `progress` is called with every message of
    the job (espalier.messages: phases, progress, metrics, pruned matrices, warnings). Everything of a spec works as in
    the service, searches and soups included, in this process; what takes a service or the network is refused by name.

    Raises RecipeError (the recipe), FileExistsError (the output), ValueError (the device), EngineError (the model, the
    text, or what shows in the run); each says what to change.
    """
    if device not in get_args(DeviceChoice):
        raise ValueError(f"device: {device!r} is none of {', '.join(get_args(DeviceChoice))}")
    spec, folder, target = read_recipe(recipe), Path(model), Path(OUTPUT if output is None else output).absolute()
    target = target.resolve() if target.is_symlink() else target
    _require_local(spec)
    if not folder.is_dir():
        raise SourceNotFound(
            f"There is no folder {folder}.", hint="Download a model of the Hub with huggingface_hub.snapshot_download."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not empty: name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target) as workspace:
        tell = _without_checkpoints(progress or _ignore)
        request = _request(spec, folder, workspace, device, tell)
        done = _run(request, tell)
        if target.is_dir():
            target.rmdir()
        shutil.move(request.artifact_dir, target)
    return Report(done.report, target)


def inspect(folder: str | PathLike[str]) -> dict[str, Any]:
    """Describe an artifact: parameters, zeros, patterns, bytes, and whether every file is as its manifest says.

    Raises PackError for a file that is not what it claims to be, and OSError where there is none.
    """
    return summary(Path(folder))


def unpack(folder: str | PathLike[str], output: str | PathLike[str] | None = None) -> list[Path]:
    """Write the dense safetensors files of a packed artifact, bit for bit, and return their paths.

    They go into `output`, together with all other files of the artifact, or beside the packed ones.
    Raises PackError where a file is damaged, or another lies in its place.
    """
    return list(unpack_folder(Path(folder), Path(folder if output is None else output)))


def _require_local(spec: CompressionSpec) -> None:
    """Refuse by name what this process does not do."""
    refused = [
        f"/{place}/kind: `{dataset.kind}` is fetched by a service or `espalier run`: use `local` or `builtin`"
        for place, dataset in spec.datasets.items()
        if not isinstance(dataset, LocalDataset | BuiltinDataset)
    ]
    if spec.output.publish:
        refused.append("/output/publish: a service or `espalier run` publishes: leave it out, and send the folder")
    if refused:
        raise RecipeError("\n".join(refused))


def _request(
    spec: CompressionSpec, folder: Path, workspace: Path, device: DeviceChoice, progress: Progress
) -> ComputeRequest:
    facts, spec = admit(folder, spec)
    return ComputeRequest(
        spec=spec,
        model_dir=str(lay_out(folder, workspace / "model")),
        revision=content_sha256(folder, _file_sha256),
        source_name=folder.absolute().name,
        datasets=_texts(spec, workspace, progress),
        sizes=facts.sizes,
        workspace=str(workspace),
        artifact_dir=str(workspace / "artifact"),
        device=device,
    )


def _texts(spec: CompressionSpec, workspace: Path, progress: Progress) -> dict[str, str]:
    """Read the local texts of a spec into plain text; fingerprint of the data set -> file."""
    paths = {}
    for dataset in spec.datasets.values():
        if not isinstance(dataset, LocalDataset):
            continue
        if not Path(dataset.path).is_file():
            raise SourceNotFound(f"There is no file {dataset.path}.", hint="Name a file of text, JSONL or parquet.")
        text = gather([Path(dataset.path)], dataset.column, workspace)
        paths[fingerprint(dataset.model_dump(mode="json"))] = str(text.path)
        for code, words in text.warnings.items():
            progress(Warned(code=code, text=words))
    return paths


def _run(request: ComputeRequest, progress: Progress) -> Done:
    try:  # here, because inspect and unpack do without
        import torch

        from espalier import pipeline  # noqa: PLC0415
        from espalier.model.numerics import deterministic  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: compress needs `pip install 'espalier-compress[compress]'`") from error
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: torch finds no GPU for `cuda` here: leave it out, or install torch for your driver")
    threads = torch.get_num_threads()
    with deterministic(threads):
        done = pipeline.run(request.model_copy(update={"threads": threads}), progress)
    assert isinstance(done, Done)  # a soup trains its members in this process
    return done


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_checkpoints(progress: Progress) -> Progress:
    """Keep from a listener what only an attempt that is resumed has a use for."""

    def tell(message: Message) -> None:
        if not isinstance(message, Checkpoint):
            progress(message)

    return tell


def _ignore(message: Message) -> None:
    """Listen to nothing."""
