"""Text that ships with Python itself; the compute side reads it from there."""

from __future__ import annotations

import hashlib
import json
import pydoc_data.topics
from typing import Any

from app.integrations.shared.sources import Access, TextSource, Use
from espalier.documents.gather import PlainText
from espalier.recipe.steps.dataset import BuiltinDataset


class BuiltinText(BuiltinDataset, TextSource):
    """The prose of CPython's `pydoc_data`, which changes with the version of Python."""

    def fetch(self, access: Access, use: Use) -> PlainText:  # noqa: ARG002 (nothing is fetched)
        """Return the hash of all topics and the split."""
        content = json.dumps([self.split, pydoc_data.topics.topics], sort_keys=True)
        return PlainText(path=None, sha256=hashlib.sha256(content.encode()).hexdigest())

    def unchanging(self) -> list[Any]:
        """Return nothing more: the fields alone pin the text."""
        return []
