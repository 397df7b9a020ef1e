"""How often, and how late, a failed attempt is followed by another."""

from __future__ import annotations

import random

import pytest

from espalier.messages import ErrorInfo
from workers.lease.retries import backoff_seconds, budget


def test_a_source_that_stays_away_is_asked_again_for_half_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 1.0)
    away = ErrorInfo(class_="source_unreachable", retryable=True, hint="h", message="m")
    pauses = [backoff_seconds(away.class_, failures) for failures in range(1, budget(away) + 1)]
    assert pauses == [5, 10, 20, 40, 80, 160, *[300] * 6]
