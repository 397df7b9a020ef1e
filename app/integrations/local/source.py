"""A model directory on this machine, named by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from app.integrations.shared.digests import remembered_content_sha256
from app.integrations.shared.sources import Access, ModelSource, below
from espalier.model_files import model_files
from espalier.refusals import SourceNotFound


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
        return remembered_content_sha256(folder, access.cache_dir)

    def fetch(self, revision: str, access: Access) -> Path:  # noqa: ARG002 (it lies where it lies)
        """Return the directory itself."""
        return below(Path(self.path), access.roots)
