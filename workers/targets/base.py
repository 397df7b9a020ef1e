"""What every target shares: the refusal, and the marks of our own publications."""

from __future__ import annotations

from typing import Final

MANIFEST: Final = "manifest.json"
TAG: Final = "espalier"
"""Begins every commit message and every tag: our own publications are told from others by it."""


class Refused(Exception):
    """The target did not take the result."""

    def __init__(self, message: str, hint: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.message, self.hint, self.retryable = message, hint, retryable
