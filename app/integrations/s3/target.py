"""A result below a prefix of an S3 bucket, the manifest last."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from app.errors import StorageError
from app.integrations.shared.targets import MANIFEST, PublishRequest, Refused
from app.storage.s3 import S3Store
from espalier.recipe.publish import S3Target


def publish(request: PublishRequest, target: S3Target, folder: Path) -> str:
    """Store the files and return the address of the manifest."""
    if "access_key_id" not in request.credentials:
        raise Refused("The project has no S3 keys.", "Store them with PUT /v1/credentials/s3.", retryable=False)
    url = urlsplit(target.uri)
    store = S3Store(url.netloc, url.path, endpoint_url=request.s3_endpoint_url, credentials=request.credentials)
    try:
        # The manifest last: who reads it finds everything else.
        for file in sorted(request.files, key=lambda file: file.path == MANIFEST):
            store.put_file(file.path, folder / file.path, file.sha256)
    except StorageError as error:
        final = any(
            word in error.detail for word in ("AccessDenied", "InvalidAccessKeyId", "NoSuchBucket", "Signature")
        )
        hint = "Check the bucket and the keys stored with PUT /v1/credentials/s3."
        raise Refused(error.detail, hint, retryable=not final) from None
    return f"{target.uri.rstrip('/')}/{MANIFEST}"
