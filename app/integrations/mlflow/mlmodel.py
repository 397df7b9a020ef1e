"""The folder of an MLflow model: our files below `model/`, beside them what `mlflow.transformers.load_model` needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from espalier.model_files import goes_with_tokenizer

MLMODEL: Final = "MLmodel"
_WEIGHTS: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


def layout(folder: Path, scratch: Path) -> dict[str, Path]:
    """Return path at MLflow -> file here; what is written for MLflow alone goes into `scratch`.

    A result without dense weights, or that names no architecture, is files only: no flavour could load it.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    laid_out = {f"model/{name}": path for name, path in files.items()}
    tokenizer = {name: path for name, path in files.items() if goes_with_tokenizer(name)}
    flavour = _transformers(folder / "config.json", has_tokenizer=bool(tokenizer))
    if flavour is not None and any(_WEIGHTS.fullmatch(name) for name in files):
        laid_out |= {f"components/tokenizer/{name}": path for name, path in tokenizer.items()}
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / MLMODEL).write_text(yaml.safe_dump({"flavors": {"transformers": flavour}}), encoding="utf-8")
        laid_out[MLMODEL] = scratch / MLMODEL
    return laid_out


def _transformers(config: Path, *, has_tokenizer: bool) -> dict[str, Any] | None:
    try:
        document = json.loads(config.read_bytes())
        architecture = document["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    tokenizer = {"components": ["tokenizer"], "tokenizer_type": "AutoTokenizer"} if has_tokenizer else {}
    return {
        "code": None,
        "framework": "pt",
        "instance_type": "TextGenerationPipeline",
        "model_binary": "model",
        "pipeline_model_type": architecture,
        "source_model_name": "",
        "task": "text-generation",
        "torch_dtype": f"torch.{document.get('dtype') or document.get('torch_dtype') or 'float32'}",
        **tokenizer,
    }
