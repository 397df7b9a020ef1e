"""Results travel: what is written into them names files, and never where they lay on this machine."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, Final

from espalier.recipe.steps.dataset import LocalDataset
from espalier.session import Session

WHERE_TO: Final = {"output": {"publish"}}
"""Of a spec, what says where its result is published: nothing of how it was made."""


def without_local_paths(session: Session, value: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
    """Return JSON data with every path of the job's files cut to its last part."""
    paths = sorted(_paths(session), key=len, reverse=True)
    pattern = re.compile("|".join(rf"{re.escape(path)}(?![\w.-])" for path in paths))
    return _cut(value, pattern)


def _paths(session: Session) -> set[str]:
    request, spec = session.request, session.request.spec
    read = [spec.calibration.dataset, *(item.dataset for item in spec.evaluate.perplexity)]
    if spec.retrain is not None and spec.retrain.dataset is not None:
        read.append(spec.retrain.dataset)
    local = {dataset.path for dataset in read if isinstance(dataset, LocalDataset)}
    ours = {request.model_dir, request.workspace, request.artifact_dir, *request.datasets.values()}
    return {path.rstrip("/") for path in local | ours if path.strip("/")}


def _cut(value: Any, pattern: re.Pattern[str]) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return pattern.sub(lambda match: PurePath(match[0]).name, value)
    if isinstance(value, list):
        return [_cut(item, pattern) for item in value]
    if isinstance(value, dict):
        return {name: _cut(item, pattern) for name, item in value.items()}
    return value
