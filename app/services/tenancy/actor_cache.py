"""Who a key or a cookie belongs to, as it was read a moment ago: most requests read no database for it."""

from __future__ import annotations

import time

from app.platform.actor import Actor

CACHE_SECONDS = 4.0
"""How long an answer is believed: the contract promises that a revoked key is refused within 5 s."""
MAX_CACHED = 10_000


class ActorCache:
    """Actors by token, each for a few seconds; of this process."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[float, Actor]] = {}

    def get(self, token: str) -> Actor | None:
        """Return whose token it is, if that was read a moment ago."""
        cached = self._read.get(token)
        return cached[1] if cached and time.monotonic() - cached[0] < CACHE_SECONDS else None

    def put(self, token: str, actor: Actor) -> None:
        """Remember whose token it is."""
        if len(self._read) > MAX_CACHED:
            self._read.clear()
        self._read[token] = (time.monotonic(), actor)

    def drop(self, token: str) -> None:
        """Forget a token."""
        self._read.pop(token, None)
