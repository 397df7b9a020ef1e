"""What many projects share: each waits behind its own, and none behind a thousand of another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from sqlalchemy.orm import Session

from app.db import commits as group_commit
from app.db.commits import GroupCommit
from app.db.session import Database
from app.errors import TooManyRequests
from app.platform.fairness import FairQueue, FairSemaphore, KeyedLimiter, ProjectThreads


def test_lanes_are_served_by_turns_and_in_order() -> None:
    lanes, held = FairQueue[str](10), set[str]()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        lanes.put(item[0], item)
    assert [lanes.take(held, wait=False) for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]
    lanes.close()
    assert lanes.take(held) is None


def test_a_lane_is_served_by_one_at_a_time_and_one_that_is_new_by_whoever_is_idle() -> None:
    lanes, busy, idle = FairQueue[str](10), set[str](), set[str]()
    for item in ("a1", "a2", "b1"):
        lanes.put(item[0], item)
    assert lanes.take(busy) == "a1"
    assert lanes.take(idle, wait=False) == "b1"
    assert lanes.take(idle, wait=False) is None, "a2 comes after a1 has been written"
    lanes.release(idle)
    taken: list[str | None] = []
    waiting = threading.Thread(target=lambda: taken.append(lanes.take(idle)))
    waiting.start()
    while not lanes.idle:
        time.sleep(0.001)
    lanes.put("c", "c1")
    assert lanes.take(busy, wait=False) == "a2", "and c1 is left to the one who is idle"
    waiting.join(10)
    assert taken == ["c1"]
    lanes.release(busy)
    lanes.put("a", "a3")
    assert lanes.take(idle, wait=False) == "a3"


def test_lanes_are_shared_as_long_as_items_of_several_come(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = FairQueue[int](10)
    lanes.put("a", 1)
    lanes.put("a", 2)
    shared = [lanes.shared]
    lanes.put("b", 3)
    shared.append(lanes.shared)
    monkeypatch.setattr("app.platform.fairness.LATELY_SECONDS", 0)
    assert [*shared, lanes.shared] == [False, True, False]


def test_a_full_lane_refuses_its_own_alone() -> None:
    lanes: FairQueue[int] = FairQueue(2)
    for number in range(2):
        lanes.put("a", number)
    with pytest.raises(TooManyRequests) as refused:
        lanes.put("a", 2)
    assert refused.value.headers["Retry-After"] == "1"
    lanes.put("b", 0)


@pytest.fixture
def commits(sqlite_url: str) -> Iterator[GroupCommit]:
    database = Database(sqlite_url)
    commits = GroupCommit(database)
    yield commits
    commits.close()
    database.dispose()


def test_the_one_write_of_a_project_is_next_beside_a_thousand_of_another(commits: GroupCommit) -> None:
    written: list[str] = []
    started, go, committed = threading.Event(), threading.Event(), threading.Event()

    def first(_session: Session, _now: datetime) -> None:
        started.set()
        go.wait(10)

    def writes(name: str) -> group_commit.Write[None]:
        def write(_session: Session, _now: datetime) -> None:
            if len(written) == 500:
                committed.wait(10)
            written.append(name)

        return write

    commits.put(first, lane="a")
    started.wait(10)
    many = [commits.put(writes("a"), lane="a") for _ in range(999)]
    one = commits.put(writes("b"), lane="b")
    go.set()
    one.result(10)
    assert written.index("b") <= 1
    assert len(written) <= 500, "it was told after the others had been written"
    committed.set()
    for write in many:
        write.result(10)


def test_a_project_is_not_held_up_by_a_group_of_another_that_is_under_way(postgres_url: str) -> None:
    database = Database(postgres_url)
    commits, started, go = GroupCommit(database), threading.Event(), threading.Event()

    def slow(_session: Session, _now: datetime) -> None:
        started.set()
        go.wait(20)

    first = commits.put(slow, lane="a")
    started.wait(10)
    behind = commits.put(lambda _session, _now: 1, lane="a")
    assert commits.put(lambda _session, _now: 2, lane="b").result(10) == 2
    assert not behind.done()
    go.set()
    assert (first.result(10), behind.result(10)) == (None, 1)
    commits.close()
    database.dispose()


def test_a_project_with_too_many_writes_waiting_is_refused_and_the_others_are_not(
    commits: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go = threading.Event(), threading.Event()

    def first(_session: Session, _now: datetime) -> None:
        started.set()
        go.wait(10)

    commits.put(first, lane="a")
    started.wait(10)
    waiting = [commits.put(lambda _session, _now: None, lane="a") for _ in range(group_commit.MOST_WAITING)]
    with pytest.raises(TooManyRequests):
        commits.put(lambda _session, _now: None, lane="a")
    other = commits.put(lambda _session, _now: None, lane="b")
    go.set()
    assert other.result(10) is None
    assert waiting[-1].result(10) is None


def test_the_one_call_of_a_project_is_next_beside_many_slow_ones_of_another() -> None:
    go = threading.Event()

    async def scene() -> tuple[float, int]:
        rooms = ProjectThreads(6, per_project=4, waiting=1000)
        slow = [asyncio.create_task(rooms.run("a", lambda: go.wait(20))) for _ in range(1004)]
        await asyncio.sleep(0.05)
        began = time.thread_time()
        assert await rooms.run("b", lambda: 7) == 7
        spent, waiting = time.thread_time() - began, sum(not task.done() for task in slow)
        with pytest.raises(TooManyRequests):
            await rooms.run("a", lambda: go.wait(20))
        go.set()
        await asyncio.gather(*slow)
        assert rooms.lanes == {}
        return spent, waiting

    spent, waiting = asyncio.run(scene())
    assert waiting == 1004
    assert spent < 0.5


def test_turns_go_round_the_lanes_and_few_are_at_work() -> None:
    async def scene() -> list[str]:
        turns, done, at_work = FairSemaphore(2, seconds=60), [], 0

        async def work(lane: str) -> None:
            nonlocal at_work
            async with turns.acquire(lane):
                at_work += 1
                assert at_work <= 2
                await asyncio.sleep(0)
                done.append(lane)
                at_work -= 1

        await asyncio.gather(*(work("a") for _ in range(100)), work("b"), work("c"))
        await work("d")
        return done

    done = asyncio.run(scene())
    assert (len(done), done[-1]) == (103, "d")
    assert {"b", "c"} <= set(done[:6]), "behind those at work, and not behind the hundred"


def test_a_turn_ends_early_by_itself_or_with_a_caller_that_leaves() -> None:
    async def scene() -> None:
        turns = FairSemaphore(1, seconds=0.05)
        async with turns.acquire("waits for somebody else"), asyncio.timeout(10), turns.acquire("next"):
            pass
        turns = FairSemaphore(1, seconds=60)
        async with turns.acquire("a") as end, asyncio.timeout(10):
            left = asyncio.ensure_future(turns.acquire("b").__aenter__())
            called_and_left = asyncio.ensure_future(turns.acquire("b").__aenter__())
            await asyncio.sleep(0)
            left.cancel()
            end()
            end()  # once is enough
            called_and_left.cancel()
            await asyncio.gather(left, called_and_left, return_exceptions=True)
            async with turns.acquire("c"):
                assert turns.free == 0
        assert turns.free == 1

    asyncio.run(scene())


def test_a_lane_does_so_many_things_at_once_and_holds_no_other_up() -> None:
    done: list[str] = []

    async def work(shares: KeyedLimiter, name: str, until: asyncio.Event, *, early: bool = False) -> None:
        async with shares.acquire(name[0]) as end:
            done.append(name)
            if early:
                end()
            await until.wait()

    async def scene() -> list[str]:
        shares, until = KeyedLimiter(2), asyncio.Event()
        calls = [asyncio.create_task(work(shares, name, until)) for name in ("a1", "a2", "a3", "a4", "b1")]
        calls.append(asyncio.create_task(work(shares, "c1", until, early=True)))
        calls += [asyncio.create_task(work(shares, name, until)) for name in ("c2", "c3", "c4")]
        await asyncio.sleep(0.01)
        before = list(done)
        calls[2].cancel()  # its caller has left
        until.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert not shares.lanes
        return before

    assert sorted(asyncio.run(scene())) == ["a1", "a2", "b1", "c1", "c2", "c3"]
    assert {"a4", "c4"} < set(done)
    assert "a3" not in done
