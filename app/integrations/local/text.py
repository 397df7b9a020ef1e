"""A text or JSONL file on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.integrations.shared.sources import Access, TextSource, Use, below, seen
from espalier.documents.gather import PlainText, gather
from espalier.errors import DatasetRefused, SourceNotFound
from espalier.recipe.steps.dataset import LocalDataset


class LocalText(LocalDataset, TextSource):
    """A file below one of the allowed folders."""

    def fetch(self, access: Access, use: Use) -> PlainText:  # noqa: ARG002 (the path names the split)
        """Read the file and keep its text."""
        try:
            path = below(Path(self.path), access.roots)
        except SourceNotFound as error:
            raise DatasetRefused(error.message, hint=error.hint) from error
        if not path.is_file():
            raise DatasetRefused(f"There is no file {path.name}.", hint="`path` names a text or JSONL file.")
        return gather([path], self.column, access.cache_dir)

    def unchanging(self) -> list[Any] | None:
        """Return name, size, times and inode of the file."""
        file = seen(Path(self.path))
        return [file] if file else None
