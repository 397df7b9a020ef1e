"""A model directory on this machine, named by its content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.integrations.local.paths import refusal
from app.integrations.shared.digests import remembered_content_sha256
from app.integrations.shared.sources import Access, AtHand, ModelSource, below, seen
from espalier.errors import Problem, SourceNotFound
from espalier.model_files import model_files
from espalier.probe import ModelFacts
from espalier.recipe.steps.dataset import LocalPath


class LocalSource(ModelSource):
    """A directory below one of the roots in ESPALIER_LOCAL_ROOTS."""

    title: ClassVar[str] = "a folder on the service's machine"

    kind: Literal["local"] = "local"
    path: LocalPath = Field(description="Absolute path of a Hugging Face model directory.")

    @property
    def model_name(self) -> str:
        """The folder's own name."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def resolve(self, access: Access) -> str:
        """Hash the names and contents of the model's files."""
        folder = below(Path(self.path), access.roots)
        if not folder.is_dir():
            raise SourceNotFound("There is no such folder.", hint="`path` names a Hugging Face model directory.")
        for file in model_files(folder).values():
            below(file, access.roots)
        return remembered_content_sha256(folder, access.cache_dir)

    def fetch(self, revision: str, access: Access) -> Path:  # noqa: ARG002 (it lies where it lies)
        """Return the directory itself."""
        return below(Path(self.path), access.roots)

    def unchanging(self) -> list[Any] | None:
        """Return names, sizes, times and inodes of the files."""
        files = seen(Path(self.path))
        return [files] if files else None

    def problems(self, at_hand: AtHand) -> Iterator[Problem]:
        """Refuse a path outside of the roots, or none of a folder."""
        if problem := refusal("/path", self.path, at_hand.settings, folder=True):
            yield problem

    def facts(self, at_hand: AtHand) -> ModelFacts:
        """Probe the folder."""
        return at_hand.probe(Path(self.path).resolve(), at_hand.settings.roots)
