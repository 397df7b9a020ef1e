"""Standard Webhooks 1.0.0: secrets, signatures over `id.timestamp.body`, and their verification."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Mapping

PREFIX = "whsec_"
TOLERANCE_SECONDS = 300
SECRET_BYTES = 32
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
"""The bounds of Standard Webhooks."""


class BadSignature(ValueError):
    """The message was not signed with this secret, or too long ago."""


def new_secret() -> str:
    """Return a fresh `whsec_...`."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secret_key(secret: str) -> bytes:
    """Return the key bytes of a `whsec_...`; raises ValueError on anything else."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a secret is base64") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"a secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature, `v1,<base64>`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret_key(secret), signed, hashlib.sha256).digest()).decode()


def headers(secrets_: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message; several secrets make several signatures, while one replaces the other."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets_),
    }


def verify(secrets_: Iterable[str], given: Mapping[str, str], body: bytes, *, now: float | None = None) -> str:
    """Return the id of a message that one of the secrets signed lately; raises BadSignature.

    `given` holds the headers under lower-case names. Every comparison takes constant time.
    """
    message_id, stamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not message_id or not stamp.isascii() or not stamp.isdecimal() or len(stamp) > 12:
        raise BadSignature("webhook-id or webhook-timestamp is missing")
    if abs((time.time() if now is None else now) - int(stamp)) > TOLERANCE_SECONDS:
        raise BadSignature("webhook-timestamp is too far from now")
    signatures = [word.encode() for word in given.get("webhook-signature", "").split(" ")[:20]]
    wanted = [sign(secret, message_id, int(stamp), body).encode() for secret in secrets_]
    # Sums, not any(): which of them matches takes no part in how long it takes.
    if not sum(hmac.compare_digest(one, other) for one in signatures for other in wanted):
        raise BadSignature("webhook-signature does not match")
    return message_id
