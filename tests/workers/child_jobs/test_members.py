"""A parent waits for its children without a loop, goes on when the last is over, and takes them along when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from app.bodies.control import Retry
from app.db.commits import GroupCommit
from app.db.job import Job
from app.db.queries.jobs import reuse
from app.services.jobs import control
from app.services.resources import Resources
from tests.fixtures.workers.reconcilers import RecordedNotifier, reconciler
from tests.fixtures.workers.results import artifacts, types
from tests.fixtures.workers.runs import Bench
from workers.supervisor.worker_loop import WorkerLoop

SOUP: dict[str, Any] = {
    "prune": {"method": "magnitude", "sparsity": 0.5},
    "retrain": {"steps": 4},
    "soup": {"members": 3},
}


def add(bench: Bench, script: str = "steady", **fields: Any) -> str:
    source = {"kind": "local", "path": f"/scripts/{script}"}
    return bench.add(script, request={"source": source, "spec": SOUP, "reuse": "never", **fields})


def children(bench: Bench, parent: str) -> list[Job]:
    with bench.database.reading() as session:
        return reuse.children(session, parent)


@pytest.fixture
def resources(sqlite_bench: Bench) -> Resources:
    bench = sqlite_bench
    return Resources(bench.settings, bench.database, bench.store, RecordedNotifier(), GroupCommit(bench.database))  # type: ignore[arg-type]


def test_one_slot_carries_a_parent_and_its_children_to_the_end(bench: Bench) -> None:
    parent, loop = add(bench), WorkerLoop(bench.services)
    assert loop.work_once()
    waiting = bench.job(parent)
    assert (waiting.state, waiting.wait_reason, waiting.worker_id) == ("queued", "dependency", None)
    members = children(bench, parent)
    assert [child.initiator for child in members] == [{"type": "job", "id": parent}] * 3
    assert len({child.request["spec"]["retrain"]["seed"] for child in members}) == 3
    assert {child.request["spec"]["soup"] for child in members} == {None}
    for child in members:
        started_from = {(item["phase"], item["name"], item["origin"]) for item in child.checkpoints}
        assert {phase for phase, _, _ in started_from} == {"pruning"}
        assert child.request["spec"]["retrain"]["rate_factor"] == 0.316, "every member would search a rate of its own"

    assert reconciler(bench).wake() == 0
    assert [loop.work_once() for _ in range(4)] == [True, True, True, False]
    for child in children(bench, parent):
        assert child.state == "succeeded"
        assert "job.checkpoint" not in types(bench, child.id), "a member computed what its parent had stored"
    assert reconciler(bench).wake() == 1
    assert loop.work_once()

    done = bench.job(parent)
    assert done.state == "succeeded", done.error
    assert [attempt.outcome for attempt in bench.attempts(parent)] == ["released", "succeeded"]
    whole = b"".join(bench.store.open(artifacts(bench, parent)["model.safetensors"].key))
    part = b"".join(bench.store.open(artifacts(bench, members[0].id)["model.safetensors"].key))
    assert whole == part + 3 * part


def test_cancelling_a_parent_cancels_its_children(sqlite_bench: Bench, resources: Resources) -> None:
    bench = sqlite_bench
    parent, loop = add(bench), WorkerLoop(bench.services)
    loop.work_once()
    loop.work_once()
    control.cancel(resources, "prj_default", parent)
    assert bench.job(parent).state == "cancelled"
    assert [child.state for child in children(bench, parent)] == ["succeeded", "cancelled", "cancelled"]
    assert not loop.work_once()


def test_children_of_a_parent_that_failed_are_ended_by_the_reconciler(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    parent = add(bench)
    WorkerLoop(bench.services).work_once()
    bench.set(parent, state="expired")
    assert reconciler(bench).end_orphans() == 3
    assert {child.state for child in children(bench, parent)} == {"cancelled"}


def test_a_soup_of_those_that_are_left_says_who_is_missing(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    parent, loop = add(bench), WorkerLoop(bench.services)
    loop.work_once()
    first = children(bench, parent)[0]
    bench.set(first.id, state="failed", error={"class": "numerical", "message": "it diverged", "hint": "lower it"})
    while loop.work_once():
        pass
    reconciler(bench).wake()
    done = bench.work(parent)
    assert done.state == "succeeded"
    assert [warning["code"] for warning in done.warnings] == ["member_left_out"]
    assert first.id in done.warnings[0]["text"]


def test_too_few_members_fail_the_parent_and_a_retry_tries_them_again(
    sqlite_bench: Bench, resources: Resources
) -> None:
    bench = sqlite_bench
    parent, loop = add(bench), WorkerLoop(bench.services)
    loop.work_once()
    for child in children(bench, parent):
        bench.set(child.id, state="failed", error={"class": "numerical", "message": "it diverged", "hint": "lower it"})
    reconciler(bench).wake()
    failed = bench.work(parent)
    assert failed.state == "failed"
    assert failed.error is not None
    assert (failed.error["class"], failed.error["hint"]) == ("numerical", "lower it")

    control.retry(resources, "prj_default", parent, Retry())
    assert {child.state for child in children(bench, parent)} == {"queued"}
    for _ in range(6):
        loop.work_once()
        reconciler(bench).wake()
    assert bench.job(parent).state == "succeeded"


def test_deleted_members_fail_the_parent_by_name_and_are_made_again_once_all_are_gone(
    sqlite_bench: Bench, resources: Resources
) -> None:
    bench = sqlite_bench
    parent, loop = add(bench), WorkerLoop(bench.services)
    while loop.work_once():
        pass
    first, *others = children(bench, parent)
    for child in others:
        control.delete(resources, "prj_default", child.id)
    reconciler(bench).wake()
    failed = bench.work(parent)
    assert failed.error is not None
    assert (failed.error["class"], "deleted" in failed.error["message"]) == ("invalid_spec", True)

    control.delete(resources, "prj_default", first.id)
    control.retry(resources, "prj_default", parent, Retry())
    while loop.work_once() or reconciler(bench).wake():
        pass
    assert bench.job(parent).state == "succeeded"
