"""A model directory on this machine, named by its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from app.errors import SourceNotFound
from workers.sources.base import Access, ModelSource, belongs_to_model, below
from workers.sources.digests import remembered_sha256


class LocalModel(ModelSource):
    """A directory below one of the allowed folders."""

    kind: Literal["local"] = "local"
    path: str

    def resolve(self, access: Access) -> str:
        """Hash the names and contents of the model's files."""
        folder = below(Path(self.path), access.roots)
        if not folder.is_dir():
            raise SourceNotFound("There is no such folder.", hint="`path` names a Hugging Face model directory.")
        digest = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            if belongs_to_model(file.name) and file.is_file():
                below(file, access.roots)
                digest.update(f"{file.name} {remembered_sha256(file.resolve(), access.cache_dir)}\n".encode())
        return digest.hexdigest()

    def fetch(self, revision: str, access: Access) -> Path:  # noqa: ARG002 (it lies where it lies)
        """Return the directory itself."""
        return below(Path(self.path), access.roots)
