"""Proof that an S3 server holds what it was sent: not every one checks the checksums that it is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sent:
    """What was sent as one object."""

    num_bytes: int
    sha256: str
    checksum: str
    """The server's own form of it: base64, and for a multipart upload that of the parts' checksums."""
    etag: str
    """What S3 computes over the bytes that it holds: MD5, and for a multipart upload that of the parts' MD5s."""

    def held(self, answer: Mapping[str, Any], read: Callable[[], Iterator[bytes]]) -> bool:
        """Tell whether the answer to a HEAD, or else the bytes themselves, prove the object whole."""
        if answer["ContentLength"] != self.num_bytes:
            return False
        if answer.get("ETag", "").strip('"') == self.etag:
            return True
        encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in answer
        if encrypted and answer.get("ChecksumSHA256") == self.checksum:
            return True  # its ETag is of the encrypted bytes; a server that does this has checked ours
        digest = hashlib.sha256()
        for chunk in read():
            digest.update(chunk)
        return digest.hexdigest() == self.sha256


class Tally:
    """Counts the parts of one object while they are sent."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._num_bytes = 0
        self._sha256s: list[bytes] = []
        self._md5s: list[bytes] = []

    def add(self, data: bytes) -> str:
        """Count a part; its SHA-256 in base64."""
        self._whole.update(data)
        self._num_bytes += len(data)
        # Of the first part both hashes are one. Of later ones S3 wants its own beside that of the whole.
        part = hashlib.sha256(data) if self._sha256s else self._whole
        self._sha256s.append(part.digest())
        self._md5s.append(_md5(data).digest())
        return base64.b64encode(self._sha256s[-1]).decode()

    @property
    def sha256(self) -> str:
        """SHA-256 of all parts so far."""
        return self._whole.hexdigest()

    def sent(self, *, in_parts: bool) -> Sent:
        """Return what was sent, as one request or as a multipart upload."""
        if not in_parts:
            (md5,), (sha256,) = self._md5s, self._sha256s
            return Sent(self._num_bytes, self.sha256, base64.b64encode(sha256).decode(), md5.hex())
        composite = hashlib.sha256(b"".join(self._sha256s)).digest()
        count = len(self._md5s)
        return Sent(
            self._num_bytes,
            self.sha256,
            f"{base64.b64encode(composite).decode()}-{count}",
            f"{_md5(b''.join(self._md5s)).hexdigest()}-{count}",
        )


def _md5(data: bytes) -> Any:  # noqa: ANN401 - hashlib's own type is private
    return hashlib.md5(data, usedforsecurity=False)
