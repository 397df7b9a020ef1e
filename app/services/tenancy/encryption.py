"""Encryption of secrets at rest, by a key from the settings."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.settings import Settings


class DecryptionError(Exception):
    """None of the keys in the settings encrypted this."""


def encrypt(settings: Settings, text: str) -> str:
    """Encrypt a secret."""
    return _box(settings).encrypt(text.encode()).decode()


def decrypt(settings: Settings, sealed: str) -> str:
    """Decrypt a secret; raises DecryptionError."""
    try:
        return _box(settings).decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise DecryptionError from None


def _box(settings: Settings) -> MultiFernet:
    """Return the cipher: the first of the comma-separated keys encrypts, all of them decrypt."""
    keys = settings.credentials_key.get_secret_value().split(",")
    # Any text is a key: Fernet wants 32 bytes, and an operator's `openssl rand -hex 32` is 64 characters.
    derived = [hashlib.sha256(b"espalier credentials " + key.strip().encode()).digest() for key in keys if key.strip()]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])
