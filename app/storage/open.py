"""Choose the store that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.settings import Settings
from app.storage.base import ObjectStore
from app.storage.directory import DirectoryStore
from app.storage.s3 import S3Store


def open_store(settings: Settings) -> ObjectStore:
    """Open `file:///dir` or `s3://bucket/prefix`; raises ValueError on any other URL."""
    url = urlsplit(settings.store)
    if url.scheme == "file" and url.path and not url.netloc:
        return DirectoryStore(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc:
        return S3Store(url.netloc, url.path, endpoint_url=settings.s3_endpoint_url)
    raise ValueError("ESPALIER_STORE_URL is file:///dir or s3://bucket/prefix")
