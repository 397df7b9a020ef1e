"""Admit a model folder: check it against the spec, and lay out its files for the compute process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from espalier.errors import InvalidForModel
from espalier.model_files import INDEX, SINGLE, is_weights, model_files
from espalier.probe import ModelFacts, check, probe, sanitised_config
from espalier.probe.documents import refuse_disguised, refuse_large
from espalier.probe.headers import weight_files
from espalier.recipe.resolution import resolve
from espalier.recipe.spec import CompressionSpec


def admit(folder: Path, spec: CompressionSpec, roots: Sequence[Path] = ()) -> tuple[ModelFacts, CompressionSpec]:
    """Check a model against a spec; return its facts, and the spec with every default filled in.

    Links may lead anywhere unless `roots` are given. Raises SourceRefused: the model is none, cannot be compressed, or
    not so.
    """
    facts = probe(folder, roots, whole=True)
    if problems := check(spec, facts):
        first = problems[0].pointer
        reasons = "; ".join(problem.detail for problem in problems)
        raise InvalidForModel(reasons, module=first, items=problems, hint=f"Change {first}.")
    return facts, resolve(spec, facts)


def lay_out(source: Path, target: Path) -> Path:
    """Make the folder that is computed on: links to checked files, and a configuration with known keys only."""
    target.mkdir()
    weights, files = set(weight_files(source)), model_files(source)
    if SINGLE in weights:
        files.pop(INDEX, None)  # stock transformers prefers the single file to an index
    refuse_large({name: file.stat().st_size for name, file in files.items()})
    for name, file in files.items():
        if name == "config.json" or (is_weights(name) and name not in weights):
            continue
        if not is_weights(name):
            refuse_disguised(file, name)
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).symlink_to(file.resolve())
    config = sanitised_config(json.loads((source / "config.json").read_bytes()))
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return target
