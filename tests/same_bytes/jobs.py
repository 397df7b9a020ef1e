"""The jobs: one for every spec of `every_spec`, as it is posted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.fixtures.library.every_spec import MODELS, SPECS, Spec
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model

Body = dict[str, Any]


def write_inputs(folder: Path) -> None:
    """Write every model and text that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(folder)
    (folder / "more.jsonl").write_text("".join(f'{{"body": "Line {n} of {n * n}."}}\n' for n in range(400)))
    for name, fields in MODELS.items():
        if not (folder / name).exists():
            half = folder / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            write_tiny_model(half, **fields).rename(folder / name)


def bodies(folder: Path) -> dict[str, Body]:
    """Return every job by its name, as it is posted, on the inputs in a folder."""
    return {
        name: {
            "name": name,
            "reuse": "never",
            "source": {"kind": "local", "path": str(folder / spec.get("model", "llama"))},
            "spec": _placed(_usual(spec), folder),
        }
        for name, spec in SPECS.items()
    }


def _usual(spec: Spec) -> Spec:
    """Put what every job has below what this one says."""
    train, valid = ({"kind": "local", "path": path, "column": "text"} for path in ("train.txt", "valid.txt"))
    text = {"name": "text", "dataset": valid, "sequence_length": 32, "max_windows": 2}
    whole = {
        **spec,
        "calibration": {"dataset": train, "samples": 4, "sequence_length": 32} | spec.get("calibration", {}),
        "evaluate": {"latency": False, "perplexity": [text]} | spec.get("evaluate", {}),
    }
    return {key: value for key, value in whole.items() if key != "model"}


def _placed(value: Any, folder: Path) -> Any:
    """Let paths of texts lead into the folder."""
    if isinstance(value, dict):
        return {key: str(folder / item) if key == "path" else _placed(item, folder) for key, item in value.items()}
    return [_placed(item, folder) for item in value] if isinstance(value, list) else value
