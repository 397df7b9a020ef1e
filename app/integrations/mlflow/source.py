"""A version of a model registered at MLflow, pinned to the content of its files; safetensors only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app.integrations.mlflow.client import FileInfo, Mlflow, MlflowError, tags_of
from app.integrations.mlflow.credentials import no_server
from app.integrations.mlflow.names import MlflowAlias, MlflowName
from app.integrations.shared.cache import Place
from app.integrations.shared.digests import remembered_content_sha256
from app.integrations.shared.filling import RemoteFile, fill
from app.integrations.shared.sources import Access, AtHand, ModelSource, SourceUnreachable
from espalier.errors import Problem, SourceGated, SourceNotFound
from espalier.export.outputs import refuse_tagged
from espalier.model_files import TEMPLATES

_MODEL: Final = "model"
_TOKENIZER: Final = "components/tokenizer"
"""Where MLflow's transformers flavour keeps the two."""
_CONVERT: Final = "Log the model with safe_serialization=True, as transformers does by itself, and register it again."


class MlflowSource(ModelSource):
    """A version of a model registered at ESPALIER_MLFLOW_TRACKING_URI; read with the project's login, if it has one."""

    title: ClassVar[str] = "a version of a model in the MLflow registry"

    kind: Literal["mlflow"] = "mlflow"
    name: MlflowName
    version: str | None = Field(None, pattern=r"^[1-9][0-9]{0,17}$", description="A version's number, or null.")
    alias: MlflowAlias | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> MlflowSource:
        if (self.version is None) == (self.alias is None):
            raise PydanticCustomError("version_or_alias", "give either `version` or `alias`", {"at": "version"})
        return self

    @property
    def model_name(self) -> str:
        """The registered model."""
        return self.name

    def resolve(self, access: Access) -> str:
        """Ask which version it is, and whether its tags call it an output of ours."""
        with self._server(access) as server:
            if self.version is not None:
                model_version = server.version(self.name, self.version)
            else:
                model_version = server.by_alias(self.name, self.alias or "")
        if model_version.get("status", "READY") != "READY":
            raise SourceUnreachable(f"{self._what} is not ready at MLflow yet.")
        if access.refuse_outputs:
            refuse_tagged(self._what, tags_of(model_version))
        return str(model_version["version"])

    def fetch(self, revision: str, access: Access) -> Path:
        """Download the small files, then the weights, through MLflow's artifact proxy."""
        with self._server(access) as server:
            root = server.location(self.name, revision)
            remote = _files(server, root)
            files = {name: _remote(server, path, entry) for name, (path, entry) in remote.items()}
            listed = sorted((path, entry.bytes) for path, entry in remote.values())
            place = hashlib.sha256(f"{access.of(self.kind)['tracking_uri']}|{self.name}".encode()).hexdigest()[:16]
            content = hashlib.sha256(repr((revision, root, listed)).encode()).hexdigest()[:40]
            kept = Place.of(access.cache_dir, f"mlflow-{place}", content)
            return fill(kept, files, f"{self.name} version {revision}", access, convert=_CONVERT)

    def pin(self, revision: str, folder: Path, access: Access) -> str:
        """Return the revision with a hash of the content: MLflow keeps none, and files can be overwritten."""
        return f"{revision}-{remembered_content_sha256(folder, access.cache_dir)}"

    def at(self, revision: str) -> Self:
        """Return the same model at a version: an alias may point elsewhere by now."""
        return self.model_copy(update={"version": self.version_at(revision), "alias": None})

    def version_at(self, revision: str) -> str:
        """Return the version's number."""
        return revision.partition("-")[0]

    def problems(self, at_hand: AtHand) -> Iterator[Problem]:
        """Refuse every version where the service knows no server."""
        if problem := no_server(at_hand.settings):
            yield problem

    @property
    def _what(self) -> str:
        return f"{self.name} version {self.version}" if self.version else f"{self.name}@{self.alias}"

    @contextmanager
    def _server(self, access: Access) -> Iterator[Mlflow]:
        if not access.of(self.kind).get("tracking_uri"):
            raise SourceNotFound("This service knows no MLflow server.", hint="Set ESPALIER_MLFLOW_TRACKING_URI.")
        try:
            with Mlflow(access.of(self.kind)) as server:
                yield server
        except MlflowError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: MlflowError) -> Exception:
        if error.forbidden:
            hint = "Store a login that may read it with PUT /v1/credentials/mlflow."
            return SourceGated(f"MLflow does not let this login read {self._what}.", hint=hint)
        if error.missing:
            hint = "Check name, version and alias in the registry."
            return SourceNotFound(f"MLflow has no {self._what}.", hint=hint)
        if error.retryable:
            return SourceUnreachable(f"MLflow did not answer: {error.message}.")
        hint = "Run the server with --serve-artifacts (its default), log the model again, and register it."
        return SourceNotFound(f"{self._what} cannot be read: {error.message}.", hint=hint)


def _files(server: Mlflow, root: str) -> dict[str, tuple[str, FileInfo]]:
    """File name -> where it lies: a logged folder as it is, or the parts of the transformers flavour joined."""
    top = server.listing(root)
    folders = {entry.name for entry in top if entry.is_folder}
    if any(entry.name == "config.json" for entry in top) or _MODEL not in folders:
        return _at(server, root, top)
    model = _at(server, f"{root}/{_MODEL}", server.listing(f"{root}/{_MODEL}"))
    if "components" not in folders:
        return model
    return _at(server, f"{root}/{_TOKENIZER}", server.listing(f"{root}/{_TOKENIZER}")) | model


def _at(server: Mlflow, path: str, entries: list[FileInfo]) -> dict[str, tuple[str, FileInfo]]:
    files = {entry.name: (f"{path}/{entry.name}", entry) for entry in entries if not entry.is_folder}
    if any(entry.is_folder and entry.name == TEMPLATES for entry in entries):
        below = (entry for entry in server.listing(f"{path}/{TEMPLATES}") if not entry.is_folder)
        files |= {f"{TEMPLATES}/{entry.name}": (f"{path}/{TEMPLATES}/{entry.name}", entry) for entry in below}
    return files


def _remote(server: Mlflow, path: str, entry: FileInfo) -> RemoteFile:
    read: Any = partial(server.download, path)
    # Rights are those of the whole model, and some servers fetch a file whole before they send its first byte.
    ask_for: Any = partial(server.ask_for, path) if entry.name == "config.json" else lambda: None
    return RemoteFile(entry.bytes, read, ask_for)
