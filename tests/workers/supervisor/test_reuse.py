"""Equal work is done once, equal phases are made once, and nothing that is shared is lost with one of its users."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select

from app.db.job import Job
from app.db.result import Artifact, LayerRow, MetricPoint
from app.db.reuse import PhaseResult
from tests.fixtures.workers.reconcilers import reconciler
from tests.fixtures.workers.results import artifacts, types
from tests.fixtures.workers.runs import Bench
from workers.background.garbage import evict_phase_results

SPEC: dict[str, Any] = {"prune": {"method": "magnitude", "sparsity": 0.5}}


def add(bench: Bench, script: str = "steady", reuse: str = "auto", **spec: Any) -> str:
    """Queue a job; scripts decide how it goes and are no part of its work."""
    source = {"kind": "local", "path": f"/scripts/{script}"}
    return bench.add(script, request={"source": source, "spec": SPEC | spec, "reuse": reuse})


def layers(bench: Bench, job_id: str) -> list[str]:
    with bench.database.reading() as session:
        query = select(LayerRow.name).where(LayerRow.job_id == job_id).order_by(LayerRow.position)
        return list(session.scalars(query))


def test_an_equal_job_points_at_the_files_that_are_there(bench: Bench) -> None:
    first = bench.work(add(bench))
    # A child that always fails shows that none is started.
    second = bench.work(add(bench, "fails"))
    assert (first.state, second.state) == ("succeeded", "succeeded"), second.error
    assert second.reused_from == first.id
    assert (second.report, second.gate) == (first.report, first.gate)
    keys = [{name: row.key for name, row in artifacts(bench, job.id).items()} for job in (first, second)]
    assert keys[0] == keys[1] != {}
    assert layers(bench, second.id) == layers(bench, first.id) != []
    assert types(bench, second.id)[-1] == "job.succeeded"
    third = bench.work(add(bench))
    assert third.reused_from == first.id, "it names who did the work, not who pointed at it"


def test_other_work_and_a_wish_for_its_own_are_computed(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    bench.work(add(bench))
    assert bench.work(add(bench, reuse="never")).reused_from is None
    assert bench.work(add(bench, gate={"max_perplexity": 50.0})).reused_from is None


def test_a_job_that_may_only_reuse_fails_where_there_is_nothing(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job = bench.work(add(bench, reuse="require"))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["class"] == "invalid_spec"
    assert "reuse: auto" in job.error["hint"]


def test_the_second_of_two_in_flight_waits_without_a_slot_and_takes_the_result(bench: Bench) -> None:
    first = add(bench, "slow")
    with bench.worker_loop():
        bench.wait_for_event(first, "job.layer_completed")
        second = add(bench, "fails")
        waiting = bench.work(second)  # by a second loop
        assert (waiting.state, waiting.wait_reason, waiting.waits_for) == ("queued", "dependency", first)
        assert reconciler(bench).wake() == 0
        bench.wait(first, "succeeded")
    assert reconciler(bench).wake() == 1
    assert bench.work(second).reused_from == first
    assert [attempt.outcome for attempt in bench.attempts(second)] == ["released", "succeeded"]


def test_the_second_does_the_work_when_the_first_fails(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    work = bench.work(add(bench, reuse="never"))
    first = add(bench, "fails")
    bench.set(first, work_hash=work.work_hash, state="running", lease_until=datetime(2100, 1, 1, tzinfo=UTC))
    with bench.database.unit_of_work() as session:
        session.execute(delete(Artifact))
    second = bench.work(add(bench))
    assert (second.wait_reason, second.waits_for) == ("dependency", first)
    bench.set(first, state="failed")
    assert reconciler(bench).wake() == 1
    assert bench.work(second.id).state == "succeeded"
    assert bench.job(second.id).reused_from is None


def test_blocks_of_an_equal_prefix_are_taken_from_the_store_with_the_same_bytes(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    first = bench.work(add(bench, reuse="auto"))
    alone = bench.work(add(bench, reuse="never", gate={"max_perplexity": 50.0}))
    # It dies in its first block unless the blocks are there.
    second = bench.work(add(bench, "dies-once", gate={"max_perplexity": 50.0}, evaluate={"perplexity": []}))
    assert (second.state, second.attempt, second.reused_from) == ("succeeded", 1, None)
    assert "job.checkpoint" not in types(bench, second.id)
    model = "model.safetensors"
    digests = {artifacts(bench, job.id)[model].sha256 for job in (first, alone, second)}
    assert len(digests) == 1
    assert artifacts(bench, second.id)[model].key != artifacts(bench, first.id)[model].key
    assert layers(bench, second.id) == layers(bench, first.id), "the rows come with the blocks"
    with bench.database.reading() as session:
        assert {row.job_id for row in session.scalars(select(PhaseResult))} == {first.id}


def test_what_another_project_has_made_is_not_there(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    first = bench.work(add(bench))
    with bench.database.unit_of_work() as session:
        session.execute(Job.__table__.update().values(project_id="prj_other"))  # type: ignore[attr-defined]
        session.execute(PhaseResult.__table__.update().values(project_id="prj_other"))  # type: ignore[attr-defined]
    second = bench.work(add(bench))
    assert second.reused_from is None
    assert "job.checkpoint" in types(bench, second.id)
    assert first.id != second.id


def test_a_result_that_is_gone_from_the_store_is_computed_again(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    bench.work(add(bench))
    assert bench.store.delete_prefix("projects/prj_default/phases/") > 0
    second = bench.work(add(bench, gate={"max_perplexity": 50.0}))
    assert second.state == "succeeded"
    assert "job.checkpoint" in types(bench, second.id)


def test_files_outlive_the_job_that_made_them_while_another_points_at_them(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    first, second = bench.work(add(bench)), bench.work(add(bench))
    for job_id in (first.id, second.id):
        old = (datetime.now(UTC) - timedelta(days=2)).timestamp()
        for path in (bench.settings.home / "store").rglob("*"):
            os.utime(path, (old, old))
        with bench.database.unit_of_work() as session:
            session.execute(delete(Job).where(Job.id == job_id))
        reconciler(bench).collect_garbage()
        left = list(bench.store.list(f"projects/prj_default/jobs/{first.id}/a1/"))
        assert len(left) == (3 if job_id == first.id else 0)


def test_the_least_recently_used_results_of_phases_go_first(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    job = bench.work(add(bench))
    with bench.database.unit_of_work() as session:
        rows = list(session.scalars(select(PhaseResult).order_by(PhaseResult.name)))
        for age, row in enumerate(rows):
            row.used_at = datetime.now(UTC) - timedelta(hours=2 + age)
        total, oldest = sum(row.bytes for row in rows), [row.name for row in rows[-2:]]
    cap = total - rows[0].bytes - 1
    assert evict_phase_results(bench.database, bench.store, max_bytes=cap) == 2
    with bench.database.reading() as session:
        assert not {row.name for row in session.scalars(select(PhaseResult))} & set(oldest)
    assert len(list(bench.store.list("projects/prj_default/phases/"))) == len(rows) - 2
    bench.set(job.id, state="running")
    assert evict_phase_results(bench.database, bench.store, max_bytes=0) == 0, "its maker still works"
    with bench.database.reading() as session:
        assert session.scalars(select(MetricPoint)).first() is not None
