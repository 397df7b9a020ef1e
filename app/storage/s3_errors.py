"""Errors of an S3 server, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from app.errors import ChecksumMismatch, ObjectExists, ObjectMissing, StorageError

_MISSING = {"404", "NoSuchKey", "NotFound"}
_EXISTS = {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}
_BAD_BYTES = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}


class Spoiled(ChecksumMismatch):
    """The server refused bytes that changed on the way."""


class BrokenOff(StorageError):
    """An answer ended before its last byte."""


@contextmanager
def typed() -> Iterator[None]:
    """Turn what boto3 raises into a StorageError."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING:
            raise ObjectMissing from error
        if code in _EXISTS:
            raise ObjectExists from error
        if code in _BAD_BYTES:
            raise Spoiled from error
        raise StorageError(f"The object store refused: {code or 'unknown error'}.") from error
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
        raise BrokenOff("The object store broke off within an answer.") from error
    except BotoCoreError as error:
        raise StorageError(f"The object store cannot be reached: {type(error).__name__}.") from error
