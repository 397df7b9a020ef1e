"""The store of production: a prefix of a bucket of any S3 server; credentials come from boto3's usual chain."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import boto3
from botocore.config import Config

from app.errors import ChecksumMismatch, ObjectExists, ObjectMissing, StorageError
from app.storage.base import CHUNK_BYTES, Between, ObjectStore, PutUrl, StoredObject, attachment, checked_key, nothing
from app.storage.proof import Sent, Tally
from app.storage.s3_errors import BrokenOff, Spoiled, typed

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_PART_BYTES = 64 * 2**20
_MAX_PARTS = 9_000  # S3 takes 10,000
_TRIES = 3


class S3Store(ObjectStore):
    """Objects below `prefix` in a bucket that somebody else made."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        part_bytes: int = _PART_BYTES,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._part_bytes = part_bytes
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=(credentials or {}).get("access_key_id"),
            aws_secret_access_key=(credentials or {}).get("secret_access_key"),
            aws_session_token=(credentials or {}).get("session_token"),
            region_name=(credentials or {}).get("region")
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or "us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=5,
                read_timeout=60,
                max_pool_connections=32,
                # We send our own SHA-256; servers that are not AWS stumble over the CRC trailers of newer SDKs.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put_file(self, key: str, path: Path, sha256: str, *, between: Between = nothing) -> None:
        """Upload in parts, each with its checksum; the whole is verified before it becomes visible, and once there."""
        size = path.stat().st_size
        part_bytes = max(self._part_bytes, -(-size // _MAX_PARTS))
        if size <= part_bytes:
            data, tally = path.read_bytes(), Tally()
            checksum = tally.add(data)
            if tally.sha256 != sha256:
                raise ChecksumMismatch
            self._put_whole(key, data, tally, checksum)
            return

        def put() -> Sent:
            with path.open("rb") as source:
                return self._put_parts(key, source, part_bytes, sha256, between)

        self._put_until_held(key, put)

    def _put_parts(self, key: str, source: BinaryIO, part_bytes: int, sha256: str, between: Between) -> Sent:
        at = self._key(key)
        with typed():
            upload = self.client.create_multipart_upload(
                Bucket=self.bucket, Key=at, ChecksumAlgorithm="SHA256", Metadata={"sha256": sha256}
            )["UploadId"]
        tally = Tally()
        parts: list[CompletedPartTypeDef] = []
        try:
            with typed():
                while data := source.read(part_bytes):
                    number, checksum = len(parts) + 1, tally.add(data)
                    answer = self.client.upload_part(
                        Bucket=self.bucket,
                        Key=at,
                        UploadId=upload,
                        PartNumber=number,
                        Body=data,
                        ChecksumSHA256=checksum,
                    )
                    parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
                    between(source.tell())
                if tally.sha256 != sha256:
                    raise ChecksumMismatch
                self.client.complete_multipart_upload(
                    Bucket=self.bucket, Key=at, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            with typed():
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=at, UploadId=upload)
            raise
        return tally.sent(in_parts=True)

    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> None:
        """Upload in one request; the server verifies the checksum, and the stored object is verified after it."""
        tally = Tally()
        self._put_whole(key, data, tally, tally.add(data), if_none_match=if_none_match)

    def _put_whole(self, key: str, data: bytes, tally: Tally, checksum: str, *, if_none_match: bool = False) -> None:
        put = partial(
            self.client.put_object,
            Bucket=self.bucket,
            Key=self._key(key),
            Metadata={"sha256": tally.sha256},
            ChecksumSHA256=checksum,
            Body=data,
        )

        def once() -> Sent:
            with typed():
                if if_none_match:
                    put(IfNoneMatch="*")
                else:
                    put()
            return tally.sent(in_parts=False)

        self._put_until_held(key, once)

    def _put_until_held(self, key: str, put: Callable[[], Sent]) -> None:
        spoiled: Spoiled | None = None
        for _ in range(_TRIES):
            try:
                sent = put()
            except Spoiled as error:
                spoiled = error
                continue
            try:
                with typed():
                    answer = self.client.head_object(Bucket=self.bucket, Key=self._key(key), ChecksumMode="ENABLED")
                    if sent.held(answer, partial(self.open, key)):
                        return
            except ObjectMissing:
                continue
            self.delete(key)  # nobody may read it
        raise spoiled or ChecksumMismatch("The object store holds other bytes than it was sent, three times in a row.")

    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Download to a temporary neighbour, verify, rename; bytes that were changed on the way are asked for again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{secrets.token_hex(8)}.part"
        try:
            for _ in range(_TRIES):
                digest = self._download(key, temporary)
                if sha256 is None or digest == sha256:
                    temporary.replace(path)
                    return
            raise ChecksumMismatch
        finally:
            temporary.unlink(missing_ok=True)

    def _download(self, key: str, path: Path) -> str:
        """Write an object to a path; its SHA-256."""
        chunks, digest = self.open(key), hashlib.sha256()
        with path.open("wb") as target:
            for chunk in chunks:
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()

    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Ask now, read while the caller iterates; where an answer breaks off, ask for the rest."""
        if end is not None and end <= start:
            return iter(())
        whole = start == 0 and end is None
        get = partial(self.client.get_object, Bucket=self.bucket, Key=self._key(key))
        with typed():
            answer = get() if whole else get(Range=f"bytes={start}-{'' if end is None else end - 1}")

        def chunks() -> Iterator[bytes]:
            body, at, stop, tries = answer["Body"], start, start + answer["ContentLength"], _TRIES
            while at < stop:
                try:
                    with typed():
                        for chunk in body.iter_chunks(CHUNK_BYTES):
                            at, tries = at + len(chunk), _TRIES
                            yield chunk
                except BrokenOff:
                    tries -= 1
                    if not tries:
                        raise
                    try:
                        with typed():
                            body = get(Range=f"bytes={at}-{stop - 1}", IfMatch=answer["ETag"])["Body"]
                    except ObjectExists:  # what a failed precondition says to one who writes
                        raise StorageError("The object was replaced while it was read.") from None

        return chunks()

    def head(self, key: str) -> int | None:
        """Return the size of the object."""
        try:
            with typed():
                return self.client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"]
        except ObjectMissing:
            return None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Page through the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{prefix}"
        )
        with typed():
            for page in pages:
                for item in page.get("Contents", []):
                    yield StoredObject(item["Key"].removeprefix(self.prefix), item["Size"], item["LastModified"])

    def delete(self, key: str) -> None:
        """Remove the object."""
        with typed():
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def delete_unfinished(self, before: datetime) -> int:
        """Abort multipart uploads of processes that were killed: their parts cost money and no listing shows them."""
        aborted = 0
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
        with typed():
            for page in pages:
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < before:
                        self.client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        aborted += 1
        return aborted

    def presign(self, key: str, *, filename: str, expires_seconds: int) -> str | None:
        """Sign a GET."""
        with typed():
            return self.client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": self._key(key),
                    "ResponseContentDisposition": attachment(filename),
                },
                ExpiresIn=expires_seconds,
            )

    def presign_put(self, key: str, *, num_bytes: int, sha256: str, expires_seconds: int) -> PutUrl | None:
        """Sign a PUT of so many bytes with this checksum, which the server verifies."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        parameters = {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "ContentLength": num_bytes,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": checksum,
        }
        with typed():
            url = self.client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=expires_seconds)
        headers = {"x-amz-checksum-sha256": checksum, "x-amz-sdk-checksum-algorithm": "SHA256"}
        return PutUrl(url, {**headers, "Content-Length": str(num_bytes)})

    def locate(self, key: str, *, expires_seconds: int) -> str:
        """Sign a GET."""
        url = self.presign(key, filename=key, expires_seconds=expires_seconds)
        assert url is not None
        return url

    def check(self) -> None:
        """Ask for the bucket."""
        try:
            with typed():
                self.client.head_bucket(Bucket=self.bucket)
        except ObjectMissing:
            raise StorageError("The bucket of the store does not exist.") from None

    def _key(self, key: str) -> str:
        return f"{self.prefix}{checked_key(key)}"
