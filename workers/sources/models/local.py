"""A model directory on this machine, named by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from app.errors import SourceNotFound
from espalier.model_files import model_files
from workers.sources.base import Access, ModelSource, below
from workers.sources.digests import content_sha256


class LocalModel(ModelSource):
    """A directory below one of the allowed folders."""

    kind: Literal["local"] = "local"
    path: str

    def resolve(self, access: Access) -> str:
        """Hash the names and contents of the model's files."""
        folder = below(Path(self.path), access.roots)
        if not folder.is_dir():
            raise SourceNotFound("There is no such folder.", hint="`path` names a Hugging Face model directory.")
        for file in model_files(folder).values():
            below(file, access.roots)
        return content_sha256(folder, access.cache_dir)

    def fetch(self, revision: str, access: Access) -> Path:  # noqa: ARG002 (it lies where it lies)
        """Return the directory itself."""
        return below(Path(self.path), access.roots)
