"""Every business refusal: one class each, with its code, its HTTP status and, as docstring, its default message."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.errors import Problem, SourceRefused


class AppError(Exception):
    """The request cannot be served."""

    code: str = "error"
    status: int = 400

    def __init__(
        self, detail: str | None = None, *, items: Sequence[Problem] = (), headers: dict[str, str] | None = None
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.items = tuple(items)
        self.headers = headers or {}
        super().__init__(self.detail)


class ModelRefused(AppError):
    """The library refuses a model, its text, or what is asked of it; the answer has the library's words and code."""

    status = 422

    def __init__(self, refusal: SourceRefused) -> None:
        super().__init__(refusal.detail, items=refusal.items)
        self.code = refusal.code


class NotFound(AppError):
    """There is nothing here with this id."""

    code, status = "not-found", 404


class Unauthenticated(AppError):
    """Give a valid API key: `Authorization: Bearer esp_...`."""

    code, status = "unauthenticated", 401

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(AppError):
    """The API key lacks the required scope."""

    code, status = "forbidden", 403


class HookUnauthenticated(AppError):
    """The delivery carries no credential."""

    code, status = "unauthenticated", 401

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Webhook"})


class HookForbidden(AppError):
    """The delivery is not made with the secret of this source, or its timestamp is too far from now."""

    code, status = "forbidden", 403


class QuotaExceeded(AppError):
    """A quota of the project is used up."""

    code, status = "quota-exceeded", 429


class TooManyRequests(AppError):
    """The API key makes more requests a second than its project may."""

    code, status = "too-many-requests", 429


class ProjectInUse(AppError):
    """The project has jobs that are not over; cancel them first."""

    code, status = "project-in-use", 409


class NotAvailable(AppError):
    """Not available in this version."""

    code, status = "not-available", 422


class MalformedRequest(AppError):
    """The request is not well-formed."""

    code, status = "malformed-request", 400


class InvalidCursor(AppError):
    """The cursor is not one of ours, or belongs to a list with other filters."""

    code, status = "invalid-cursor", 400


class BodyTooLarge(AppError):
    """The body is larger than this endpoint takes."""

    code, status = "body-too-large", 413


class HeadersTooLarge(AppError):
    """A request has at most 100 headers, of 32 KiB together."""

    code, status = "headers-too-large", 431


class SlowBody(AppError):
    """The body did not arrive in time."""

    code, status = "request-timeout", 408

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class UnsupportedBody(AppError):
    """Bodies are uncompressed JSON, `Content-Type: application/json`."""

    code, status = "unsupported-media-type", 415


class InvalidRequest(AppError):
    """The request is invalid; `errors` says where and why."""

    code, status = "invalid-request", 422


class IdempotencyKeyReused(AppError):
    """This Idempotency-Key came with another body before: choose a new key."""

    code, status = "idempotency-key-reused", 422


class UploadClosed(AppError):
    """The upload is complete and takes no more parts."""

    code, status = "upload-closed", 409


class UploadIncomplete(AppError):
    """Parts of the upload are missing."""

    code, status = "upload-incomplete", 409


class IllegalTransition(AppError):
    """The job's state does not allow this."""

    code, status = "illegal-transition", 409


class AlreadyDecided(AppError):
    """The proposal was decided before."""

    code, status = "already-decided", 409


class NoEqualResult(AppError):
    """There is no equal result to reuse, and the request allows nothing else (reuse: require)."""

    code, status = "no-equal-result", 409


class GateRejected(AppError):
    """The result did not keep its gate, and such a result is never published."""

    code, status = "gate-rejected", 409


class NotFinished(AppError):
    """The job has not succeeded, so there is no report."""

    code, status = "not-finished", 409


class RangeNotSatisfiable(AppError):
    """The range lies outside of the file."""

    code, status = "range-not-satisfiable", 416


class NotReady(AppError):
    """The service cannot take work now."""

    code, status = "not-ready", 503


class StorageError(AppError):
    """The object store failed."""

    code, status = "storage-unavailable", 503


class ObjectMissing(StorageError):
    """The object is not in the store."""

    code, status = "object-missing", 410


class ObjectExists(StorageError):
    """An object with this key is already in the store."""

    code, status = "object-exists", 409


class ChecksumMismatch(StorageError):
    """The bytes do not match the checksum."""

    code, status = "checksum-mismatch", 503
