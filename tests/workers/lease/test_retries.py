"""How often, and how late, a failed attempt is followed by another."""

from __future__ import annotations

import random
import signal
from typing import get_args

import pytest

from espalier.errors import ErrorClass
from espalier.messages import ErrorInfo
from workers.lease.retries import MACHINE_LOST, RETRIES, backoff_seconds, budget, from_exit


def test_a_source_that_stays_away_is_asked_again_for_half_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 1.0)
    away = ErrorInfo(class_="source_unreachable", retryable=True, hint="h", message="m")
    pauses = [backoff_seconds(away, failures) for failures in range(1, budget(away) + 1)]
    assert pauses == [5, 10, 20, 40, 80, 160, *[300] * 6]


def test_every_way_to_fail_has_its_retries() -> None:
    assert set(RETRIES) == {*get_args(ErrorClass), MACHINE_LOST}


@pytest.mark.parametrize("class_", get_args(ErrorClass))
def test_what_is_not_retryable_is_not_tried_again(class_: ErrorClass) -> None:
    assert budget(ErrorInfo(class_=class_, retryable=False, hint="h", message="m")) == 0


@pytest.mark.parametrize(("outside", "allowed"), [(False, 3), (True, 12)], ids=["its own crash", "the machine's"])
def test_a_lost_machine_is_forgiven_more_often_than_a_crash(outside: bool, allowed: int) -> None:
    assert budget(ErrorInfo(class_="worker_lost", retryable=True, hint="h", message="m", outside=outside)) == allowed


@pytest.mark.parametrize(
    ("status", "words", "class_"),
    [
        (-signal.SIGABRT, "what():  CUDA error: an illegal memory access was encountered", "device_lost"),
        (-signal.SIGABRT, "[Rank 1] Watchdog caught collective operation timeout", "device_lost"),
        (-signal.SIGABRT, "what():  CUDA error: out of memory", "gpu_oom"),
        (-signal.SIGABRT, "double free or corruption", "worker_lost"),
        (-signal.SIGKILL, "UserWarning: CUDA initialization: Found no NVIDIA driver", "worker_lost"),
    ],
)
def test_a_child_that_aborts_says_last_whether_it_was_the_device(status: int, words: str, class_: str) -> None:
    error = from_exit(status, [words, "terminated"], "pruning", out_of_memory=False)
    assert (error.class_, error.retryable, error.phase) == (class_, True, "pruning")
