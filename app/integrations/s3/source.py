"""A model below a prefix of an S3 bucket, read with the project's own keys and pinned to its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.integrations.s3.names import S3Uri
from app.integrations.shared.cache import Place
from app.integrations.shared.digests import CHUNK_BYTES, remembered_content_sha256
from app.integrations.shared.filling import RemoteFile, fill
from app.integrations.shared.sources import Access, ModelSource, SourceUnreachable
from espalier.errors import SourceGated, SourceNotFound
from espalier.model_files import TEMPLATES, belongs_to_model

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_OBJECTS: Final = 10_000
_KEYS: Final = "Check the keys stored with PUT /v1/credentials/s3."
_CONVERT: Final = "Save the weights with save_pretrained, which writes safetensors, and upload them again."
_DENIED: Final = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_MISSING: Final = {"404", "NoSuchBucket", "NoSuchKey", "NotFound"}


class S3Source(ModelSource):
    """A model below a prefix of a bucket; takes the project's S3 keys. The server is that of `s3` publications."""

    title: ClassVar[str] = "a prefix in a bucket"

    kind: Literal["s3"] = "s3"
    uri: S3Uri

    @property
    def model_name(self) -> str:
        """The last part of the prefix."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def address(self) -> str:
        """The prefix."""
        return self.uri

    def resolve(self, access: Access) -> str:
        """Hash names, sizes and entity tags."""
        return hashlib.sha256(repr(sorted(self._objects(access).items())).encode()).hexdigest()

    def fetch(self, revision: str, access: Access) -> Path:
        """Download the small files, then the weights, each only while its entity tag is the one that was listed."""
        place = hashlib.sha256(f"{access.of(self.kind).get('endpoint_url')}|{self.uri}".encode()).hexdigest()[:16]
        files = {
            name: RemoteFile(size, partial(self._read, access, name, tag), partial(self._ask_for, access, name, tag))
            for name, (size, tag) in self._objects(access).items()
        }
        return fill(Place.of(access.cache_dir, f"s3-{place}", revision[:40]), files, self.uri, access, convert=_CONVERT)

    def pin(self, revision: str, folder: Path, access: Access) -> str:  # noqa: ARG002 (entity tags differ by upload)
        """Return a hash of the content: the same files below another prefix are the same model."""
        return remembered_content_sha256(folder, access.cache_dir)

    @property
    def _place(self) -> tuple[str, str]:
        url = urlsplit(self.uri)
        return url.netloc, f"{url.path.strip('/')}/" if url.path.strip("/") else ""

    def _objects(self, access: Access) -> dict[str, tuple[int, str]]:
        """Return name -> size and entity tag of the objects."""
        bucket, prefix = self._place
        objects: dict[str, tuple[int, str]] = {}
        with self.client(access) as client:
            lists = client.get_paginator("list_objects_v2")
            for place in (prefix, f"{prefix}{TEMPLATES}/"):
                for page in lists.paginate(Bucket=bucket, Prefix=place, Delimiter="/"):
                    for item in page.get("Contents", []):
                        objects[item["Key"].removeprefix(prefix)] = (item["Size"], item["ETag"])
                    if len(objects) > MAX_OBJECTS:
                        hint = "Give the model a prefix of its own."
                        raise SourceNotFound(f"More than {MAX_OBJECTS} objects lie at {self.uri}.", hint=hint)
        if not any(belongs_to_model(name) for name in objects):
            raise SourceNotFound(f"There is no model at {self.uri}.", hint="The prefix names a Hugging Face directory.")
        return objects

    def _read(self, access: Access, name: str, tag: str) -> Iterator[bytes]:
        bucket, prefix = self._place
        with self.client(access) as client:
            body = client.get_object(Bucket=bucket, Key=f"{prefix}{name}", IfMatch=tag)["Body"]
            yield from body.iter_chunks(CHUNK_BYTES)

    def _ask_for(self, access: Access, name: str, tag: str) -> None:
        """Take the right to read an object: whoever may list it need not have that."""
        bucket, prefix = self._place
        with self.client(access) as client:
            client.head_object(Bucket=bucket, Key=f"{prefix}{name}", IfMatch=tag)

    @contextmanager
    def client(self, access: Access) -> Iterator[S3Client]:
        """Return a client with the project's keys that connects to no address which the network rules forbid."""
        keys = access.of(self.kind)
        endpoint_url = keys.get("endpoint_url")
        if "access_key_id" not in keys:  # or boto3 would look for keys of the machine
            raise SourceGated("The project has no S3 keys.", hint="Store them with PUT /v1/credentials/s3.")
        client = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=keys.get("region", "us-east-1"),
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys.get("secret_access_key", ""),
            aws_session_token=keys.get("session_token"),  # of a role or a sign-in, in a run without a service
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=5,
                read_timeout=60,
            ),
        )
        try:
            yield client
        except ClientError as error:
            raise self._refusal(error.response.get("Error", {}).get("Code", "")) from None
        except (BotoCoreError, OSError) as error:
            reason = type(error).__name__
            raise SourceUnreachable(f"The S3 server did not answer ({reason}).") from None

    def _refusal(self, code: str) -> Exception:
        if code in _DENIED:
            return SourceGated(f"The project's S3 keys do not open {self.uri}.", hint=_KEYS)
        if code in _MISSING:
            return SourceNotFound(f"There is nothing at {self.uri}.", hint="Check bucket and prefix.")
        if code in {"412", "PreconditionFailed"}:
            return SourceUnreachable(f"A file at {self.uri} changed while it was read.")
        return SourceUnreachable(f"The S3 server refused ({code or 'no code'}).")
