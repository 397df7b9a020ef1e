"""Ids are distinct and rise, whatever the clock does."""

from __future__ import annotations

import threading

import pytest

from app.platform.ids import new_id


def test_ids_of_many_threads_are_distinct_and_each_threads_rise() -> None:
    ids_of_threads: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: ids_of_threads.append([new_id("x") for _ in range(2000)])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == sorted(ids) for ids in ids_of_threads)
    assert len({one for ids in ids_of_threads for one in ids}) == 8000
    assert {len(one) for one in ids_of_threads[0]} == {28}


def test_a_clock_set_back_does_not_turn_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id("x")
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000)
    assert new_id("x") > before
