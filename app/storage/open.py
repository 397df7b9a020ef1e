"""Choose the store that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.settings import Settings
from app.storage.base import ObjectStore
from app.storage.directory import DirectoryStore
from app.storage.s3 import S3Store


def open_store(settings: Settings) -> ObjectStore:
    """Open `file:///dir` or `s3://bucket/prefix`; settings have no other URL."""
    url = urlsplit(settings.store)
    if url.scheme == "file":
        return DirectoryStore(Path(unquote(url.path)))
    return S3Store(url.netloc, url.path, endpoint_url=settings.s3_endpoint_url)
