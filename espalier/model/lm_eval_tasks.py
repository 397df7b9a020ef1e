"""Tasks of lm-eval on a model in memory: found and checked before the work begins, with data of this machine alone."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from espalier.errors import DatasetError, MissingExtraError

BATCH_SIZE = 8


class Tasks:
    """Some tasks by name, of lm-eval itself or of a folder of task files."""

    def __init__(self, names: Sequence[str], *, folder: Path | None, scratch: Path) -> None:
        """Load the tasks and their data; `folder` may hold task files and, as `cache`, a cache of `datasets`."""
        if importlib.util.find_spec("lm_eval") is None:
            raise MissingExtraError(
                "evaluate.tasks needs lm-eval, which this worker does not have",
                hint="Install the extra `tasks` on the workers (from the checkout: pip install '.[worker,tasks]').",
            )
        _keep_offline(folder, scratch)
        self._names = list(names)
        self._manager = _manager(folder, names)
        for name in names:
            self._require(name)

    def _require(self, name: str) -> None:
        if name not in self._manager.task_index:
            raise DatasetError(
                f"lm-eval has no task {name}",
                hint="See `lm-eval ls tasks`, or put the task's file into the folder of ESPALIER_TASKS_DIR.",
            )
        try:
            self._manager.load([name])
        except Exception as error:  # whatever the loaders of lm-eval and of `datasets` raise
            raise DatasetError(
                f"the data of the task {name} are not on this machine ({type(error).__name__})",
                hint="Workers have no network: put the data into the cache of ESPALIER_TASKS_DIR, or name local files.",
            ) from error

    def score(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, float]]:
        """Score a model; return every task's numbers by the names that lm-eval gives them (`acc`, `acc_stderr`)."""
        adapter = import_late("lm_eval.models.huggingface").HFLM
        wrapped = adapter(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE)
        # No bootstrap: where a standard error has a formula it is given, elsewhere it is left out.
        output = import_late("lm_eval").simple_evaluate(
            wrapped, tasks=self._names, task_manager=self._manager, bootstrap_iters=0, log_samples=False
        )
        return {name: _numbers(row) for name, row in sorted(output["results"].items())}

    def versions(self) -> dict[str, str]:
        """Return the version of lm-eval."""
        return {"lm_eval": version("lm_eval")}


def _manager(folder: Path | None, names: Sequence[str]) -> Any:  # noqa: ANN401 - an optional package without types
    """Look into the folder first: the index of all that lm-eval brings along takes many seconds."""
    manager = import_late("lm_eval.tasks").TaskManager
    if folder is not None:
        folder_manager = manager(include_path=str(folder), include_defaults=False)
        if set(names) <= folder_manager.task_index.keys():
            return folder_manager
    return manager(include_path=str(folder) if folder else None)


def import_late(module: str) -> Any:  # noqa: ANN401 - an optional package without types
    """Import when it is needed: the package is optional, and `datasets` reads the environment as it loads."""
    return importlib.import_module(module)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        key.removesuffix(",none"): float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and "," in key
    }


def _keep_offline(folder: Path | None, scratch: Path) -> None:
    cache = folder / "cache" if folder else None
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ["HF_DATASETS_CACHE"] = str(cache if cache is not None and cache.is_dir() else scratch / "datasets")
