"""A result as a new version of a registered model at MLflow: a run with the numbers, the files, the lineage as tags.

The version is made last, with all its tags at once, so that nobody hears of one that is not whole or not marked as
ours. Sent again, the version of this job or of an equal result is found by its tags.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field

from app.errors import InvalidRequest
from app.integrations.mlflow.client import Mlflow, MlflowError, as_tags
from app.integrations.mlflow.credentials import no_server
from app.integrations.mlflow.mlmodel import layout
from app.integrations.mlflow.names import MlflowAlias, MlflowName
from app.integrations.shared.sources import ModelSource
from app.integrations.shared.targets import MANIFEST, TAG, PublishRequest, ResultTarget, TargetRefused
from app.settings import Settings
from espalier.errors import Problem

REPORT: Final = "report.json"


_NO_NAME: Final = "the model does not come from MLflow: name the registered model that takes the new version"


class MlflowTarget(ResultTarget):
    """A new version of a model registered at ESPALIER_MLFLOW_TRACKING_URI; the model is made when it is not there.

    Takes the project's MLflow login, or the service's where the project shares it.
    """

    kind: Literal["mlflow"] = "mlflow"
    name: MlflowName | None = Field(None, description="Null: the registered model that the job's source is of.")
    alias: MlflowAlias | None = Field(None, description="Set on the new version.")
    experiment: str = Field(
        "espalier", min_length=1, max_length=256, pattern=r"^[^\x00-\x1f'\x7f]+$", description="Holds the run."
    )

    @property
    def place(self) -> str:
        """The registered model."""
        return self.name or ""

    def problems(self, settings: Settings, source: ModelSource) -> Iterator[Problem]:
        """Refuse a target without a name for a model from elsewhere, and all of them where there is no server."""
        if self.name is None and source.kind != self.kind:
            yield Problem("", "no-name", _NO_NAME)
        if problem := no_server(settings):
            yield problem

    def beside(self, source: ModelSource) -> Self:
        """Name the registered model of the source where the target names none."""
        if self.name is not None:
            return self
        if source.kind != self.kind:
            raise InvalidRequest("The target names no model.", items=[Problem("/name", "no-name", _NO_NAME)])
        return self.model_copy(update={"name": source.model_name})

    def publish(self, request: PublishRequest, folder: Path) -> str:
        """Register the result and return `models:/name/version`."""
        assert self.name is not None
        if not request.credentials.get("tracking_uri"):
            raise TargetRefused(
                "This service knows no MLflow server.", "Set ESPALIER_MLFLOW_TRACKING_URI.", retryable=False
            )
        tags = {f"{TAG}.{key}": value for key, value in request.lineage.items()} | {
            f"{TAG}.job": request.job_id,
            f"{TAG}.manifest": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        }
        with _refusals(self.name), Mlflow(request.credentials) as server:
            version = _existing_version(server, self.name, tags)
            if version is None:
                _made(server, "registered-models/create", {"name": self.name})
                version = _Version(server, self.name, self.experiment, tags, folder).make()
            if self.alias is not None and not _points_at(server, self.name, self.alias, version):
                pointed = {"name": self.name, "alias": self.alias, "version": version}
                server.post("registered-models/alias", pointed)
        return f"models:/{self.name}/{version}"


def _existing_version(server: Mlflow, name: str, tags: Mapping[str, str]) -> str | None:
    """Return the version that an earlier attempt created, or that holds an equal result."""
    for key in (f"{TAG}.job", f"{TAG}.manifest"):
        for model_version in server.versions(f"name = '{name}' AND tags.`{key}` = '{tags[key]}'"):
            return str(model_version["version"])
    return None


def _points_at(server: Mlflow, name: str, alias: str, version: str) -> bool:
    try:
        return str(server.by_alias(name, alias)["version"]) == version
    except MlflowError as error:
        if error.missing:
            return False
        raise


def _made(server: Mlflow, path: str, body: Mapping[str, Any]) -> None:
    """Make something that may be there already."""
    try:
        server.post(path, body)
    except MlflowError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise


@dataclass(frozen=True)
class _Version:
    server: Mlflow
    name: str
    experiment: str
    tags: Mapping[str, str]
    folder: Path

    def make(self) -> str:
        """Write run, logged model and files, then the version; what an attempt that died left is gone on with."""
        server, report = self.server, json.loads((self.folder / REPORT).read_bytes())
        experiment = self._experiment_id()
        run = self._run(experiment)
        model = self._logged_model(experiment, run["run_id"])
        root = server.proxied(model["artifact_uri"])
        for path, file in layout(self.folder, self.folder.parent / "mlflow").items():
            server.upload(f"{root}/{path}", file)
        server.upload(f"{server.proxied(run['artifact_uri'])}/{REPORT}", self.folder / REPORT)
        now = int(time.time() * 1000)
        numbers = [
            {"key": key, "value": value, "timestamp": now, "step": 0, "model_id": model["model_id"]}
            for key, value in metrics(report).items()
        ]
        server.post("runs/log-batch", {"run_id": run["run_id"], "metrics": numbers})
        ready = {"model_id": model["model_id"], "status": "LOGGED_MODEL_READY"}
        server.post(f"logged-models/{model['model_id']}", ready, method="PATCH")
        server.post("runs/update", {"run_id": run["run_id"], "status": "FINISHED", "end_time": now})
        made = server.post(
            "model-versions/create",
            {
                "name": self.name,
                "source": f"models:/{model['model_id']}",
                "run_id": run["run_id"],
                "model_id": model["model_id"],
                "tags": as_tags(self.tags),
                "description": describe(self.tags, report),
            },
        )
        return str(made["model_version"]["version"])

    def _experiment_id(self) -> str:
        _made(self.server, "experiments/create", {"name": self.experiment})
        experiment = self.server.get("experiments/get-by-name", experiment_name=self.experiment)["experiment"]
        if experiment.get("lifecycle_stage") == "deleted":
            raise MlflowError(f"the experiment {self.experiment} was deleted: restore it", status=400)
        return str(experiment["experiment_id"])

    def _run(self, experiment: str) -> dict[str, Any]:
        mine = {"experiment_ids": [experiment], "filter": f"tags.`{TAG}.job` = '{self._job}'", "max_results": 1}
        runs = self.server.post("runs/search", mine).get("runs", [])
        if not runs:
            asked = {
                "experiment_id": experiment,
                "run_name": f"{TAG} {self._job}",
                "start_time": int(time.time() * 1000),
                "tags": as_tags(self.tags),
            }
            runs = [self.server.post("runs/create", asked)["run"]]
        info: dict[str, Any] = runs[0]["info"]
        return info

    def _logged_model(self, experiment: str, run_id: str) -> dict[str, Any]:
        mine = {"experiment_ids": [experiment], "filter": f"source_run_id = '{run_id}'", "max_results": 1}
        models = self.server.post("logged-models/search", mine).get("models", [])
        if not models:
            # A logged model's name is stricter than a registered one's.
            asked = {
                "experiment_id": experiment,
                "name": re.sub(r"[^\w-]", "-", self.name),
                "source_run_id": run_id,
                "tags": as_tags(self.tags),
            }
            models = [self.server.post("logged-models", asked)["model"]]
        info: dict[str, Any] = models[0]["info"]
        return info

    @property
    def _job(self) -> str:
        return self.tags[f"{TAG}.job"]


def metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report under names that MLflow takes."""
    values: dict[str, float | None] = {"sparsity": report.get("sparsity", {}).get("achieved")}
    for side in ("dense", "compressed"):
        numbers = report.get(side) or {}
        values |= {f"{side}/{key}": numbers.get(key) for key in ("bytes", "packed_bytes", "parameters")}
        values[f"{side}/nonzero_parameters"] = numbers.get("nonzero_parameters")
        for name, value in (numbers.get("perplexity") or {}).items():
            values[f"{side}/perplexity/{re.sub(r'[^A-Za-z0-9_. -]', '_', name)}"] = value
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def describe(tags: Mapping[str, str], report: Mapping[str, Any]) -> str:
    """Describe the version in one line."""
    source, version = tags.get(f"{TAG}.source", "?"), tags.get(f"{TAG}.source_version", "?")
    sparsity = report.get("sparsity", {}).get("achieved")
    pruned = f", {sparsity:.1%} of the pruned matrices are zero" if isinstance(sparsity, int | float) else ""
    return f"Compressed by Espalier from {source} version {version}{pruned}; report.json has the measurements."


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except MlflowError as error:
        if error.forbidden:
            raise TargetRefused(
                f"MLflow does not let this login write {name}.",
                "Store a login that may with PUT /v1/credentials/mlflow.",
                retryable=False,
            ) from None
        hint = "It is tried again." if error.retryable else "MLflow 3.15 or newer with --serve-artifacts takes results."
        raise TargetRefused(f"MLflow refused: {error.message}.", hint, retryable=error.retryable) from None
