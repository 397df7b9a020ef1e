"""Files of an artifact: what each is, its size and hash; JSON as all of them hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from espalier.messages import ArtifactFile
from espalier.model.safetensors_writer import sha256_of
from espalier.model.weights import INDEX

_MODEL_CONFIGS: Final = {"adapter_config.json", "config.json", "generation_config.json", INDEX}


def describe(folder: Path, path: Path, *, known: Mapping[str, str] | None = None) -> ArtifactFile:
    """Describe one file of an artifact folder as the manifest does; `known`: hashes by path."""
    name = str(path.relative_to(folder))
    digest = (known or {}).get(name) or sha256_of(path)[0]
    return ArtifactFile(path=name, kind=_kind(path.name), bytes=path.stat().st_size, sha256=digest)


def _kind(name: str) -> Any:  # noqa: ANN401 - the message's own literal
    ours = {"masks.safetensors": "mask", "report.json": "report", "README.md": "card", "manifest.json": "manifest"}
    if name in ours:
        return ours[name]
    return "model" if name.endswith(".safetensors") or name in _MODEL_CONFIGS else "tokenizer"


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
