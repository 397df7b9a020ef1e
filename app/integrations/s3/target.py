"""A result below a prefix of an S3 bucket, the manifest last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from app.errors import StorageError
from app.integrations.s3.names import S3Uri
from app.integrations.shared.hooks import RegistryEvent
from app.integrations.shared.targets import MANIFEST, PublishRequest, ResultTarget, TargetRefused
from app.storage.s3 import S3Store


class S3Target(ResultTarget):
    """A prefix of a bucket; takes the project's S3 keys. The server is AWS, or ESPALIER_PUBLISH_S3_ENDPOINT_URL."""

    kind: Literal["s3"] = "s3"
    uri: S3Uri

    @property
    def place(self) -> str:
        """The prefix."""
        return self.uri

    @classmethod
    def made(cls, event: RegistryEvent) -> Iterator[dict[str, str]]:
        """Yield the prefix with and without a slash at its end."""
        uri = str((event.source or {})["uri"]).rstrip("/")
        yield {"kind": "s3", "uri": uri}
        yield {"kind": "s3", "uri": f"{uri}/"}

    def publish(self, request: PublishRequest, folder: Path) -> str:
        """Store the files and return the address of the manifest."""
        keys = request.credentials
        if "access_key_id" not in keys:  # or boto3 would look for keys of the machine
            raise TargetRefused(
                "The project has no S3 keys.", "Store them with PUT /v1/credentials/s3.", retryable=False
            )
        url = urlsplit(self.uri)
        store = S3Store(url.netloc, url.path, endpoint_url=keys.get("endpoint_url"), credentials=keys)
        try:
            # The manifest last: who reads it finds everything else.
            for file in sorted(request.files, key=lambda file: file.path == MANIFEST):
                store.put_file(file.path, folder / file.path, file.sha256)
        except StorageError as error:
            final = any(
                word in error.detail for word in ("AccessDenied", "InvalidAccessKeyId", "NoSuchBucket", "Signature")
            )
            hint = "Check the bucket and the keys stored with PUT /v1/credentials/s3."
            raise TargetRefused(error.detail, hint, retryable=not final) from None
        return f"{self.uri.rstrip('/')}/{MANIFEST}"
