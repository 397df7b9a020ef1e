"""Projects share the workers of a class: who used least of them in the last hour is next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import delete, select

from app.db.job import CLAIMABLE_VIEW, Attempt, Job
from app.db.queries.queue import fair_share, leases
from app.db.session import Database, clock
from app.db.tenancy import Project, RecentUsage, UsageDay
from tests.fixtures.workers.claims import claim, queue, worker
from tests.fixtures.workers.runs import Bench, job_fields


def ended(bench: Bench, job_id: str, *, seconds: float, ago: float = 0) -> None:
    """Let a held job end that ran for so long, some time ago."""
    with bench.database.unit_of_work() as session:
        job = session.get_one(Job, job_id)
        now = clock(session) - timedelta(seconds=ago)
        attempt = session.scalars(select(Attempt).where(Attempt.job_id == job_id)).one()
        attempt.started_at = now - timedelta(seconds=seconds)
        session.flush()
        leases.end_attempt(session, job, "succeeded", now=now)
        job.state, job.lease_until = "succeeded", None


def owner(bench: Bench, job_id: str | None) -> str:
    assert job_id is not None
    return bench.job(job_id).project_id


def test_the_one_job_of_a_project_is_next_beside_a_thousand_of_another(bench: Bench) -> None:
    queue(bench, "prj_many", 1000)
    assert owner(bench, claim(bench, worker("wrk_a"))) == "prj_many"
    (one,) = queue(bench, "prj_few", 1)
    assert claim(bench, worker("wrk_b")) == one


def test_who_used_least_in_the_last_hour_is_next_however_old_the_others_jobs_are(bench: Bench) -> None:
    for project, seconds in (("prj_a", 1800.0), ("prj_b", 60.0), ("prj_c", 600.0)):
        (job,) = queue(bench, project, 1)
        assert claim(bench, worker("wrk_a")) == job
        ended(bench, job, seconds=seconds)
        queue(bench, project, 2)
    assert owner(bench, claim(bench, worker("wrk_a"))) == "prj_b"
    assert owner(bench, claim(bench, worker("wrk_b"))) == "prj_b"  # seconds, not turns: still far behind the others


def test_a_running_attempt_counts_what_it_has_used_so_far(bench: Bench) -> None:
    queue(bench, "prj_a", 2)
    running = claim(bench, worker("wrk_a"))
    assert running is not None
    (job,) = queue(bench, "prj_b", 1)
    assert claim(bench, worker("wrk_b")) == job
    ended(bench, job, seconds=100)
    queue(bench, "prj_b", 1)
    with bench.database.unit_of_work() as session:
        session.scalars(select(Attempt).where(Attempt.job_id == running)).one().started_at -= timedelta(seconds=500)
    assert owner(bench, claim(bench, worker("wrk_c"))) == "prj_b"


def test_what_was_used_before_the_last_hour_or_of_another_class_does_not_count(bench: Bench) -> None:
    for project, seconds, ago, worker_class in (
        ("prj_old", 9000, 7200, "default"),
        ("prj_other", 3000, 0, "gpu"),
        ("prj_now", 10, 0, "default"),
    ):
        (job,) = queue(bench, project, 1, worker_class=worker_class)
        assert claim(bench, worker("wrk_a", worker_class=worker_class)) == job
        ended(bench, job, seconds=seconds, ago=ago)
    for project in ("prj_now", "prj_old", "prj_other"):
        queue(bench, project, 1)
    assert [owner(bench, claim(bench, worker(f"wrk_{n}"))) for n in range(3)] == ["prj_old", "prj_other", "prj_now"]


def test_a_job_that_is_deleted_has_used_what_it_used(bench: Bench) -> None:
    queue(bench, "prj_a", 2)
    first = claim(bench, worker("wrk_a"))
    assert first is not None
    ended(bench, first, seconds=600)
    with bench.database.unit_of_work() as session:
        session.execute(delete(Job).where(Job.id == first))
    (job,) = queue(bench, "prj_b", 1)
    assert claim(bench, worker("wrk_a")) == job


def test_a_long_attempt_counts_for_the_last_hour_alone_and_is_forgotten_later(bench: Bench) -> None:
    with bench.database.unit_of_work() as session:
        now = clock(session)
        fair_share.note(session, "prj_a", "default", began=now - timedelta(hours=9), ended=now)
        fair_share.note(session, "prj_a", "default", began=now - timedelta(seconds=7), ended=now)
        slots: Sequence[RecentUsage] = session.scalars(select(RecentUsage)).all()
        assert sum(slot.seconds for slot in slots) == pytest.approx(3607)
        assert max(slot.seconds for slot in slots) <= fair_share.SLOT_SECONDS + 7
        fair_share.forget(session, now=now)
        assert session.scalars(select(RecentUsage)).all() == slots
        fair_share.forget(session, now=now + timedelta(hours=4))
        assert session.scalars(select(RecentUsage)).all() == []


def test_a_project_whose_first_jobs_are_taken_or_not_due_does_not_hold_up_the_next(bench: Bench) -> None:
    with bench.database.reading() as session:
        later = clock(session) + timedelta(hours=1)
    queue(bench, "prj_a", 3, not_before=later)
    queue(bench, "prj_b", 3, wait_reason="dependency")
    (job,) = queue(bench, "prj_c", 1)
    assert [claim(bench, worker("wrk_a")) for _ in range(2)] == [job, None]


def test_a_bounded_project_starts_no_more_than_it_may_and_holds_up_nobody(bench: Bench) -> None:
    bound(bench.database, "prj_a", max_running_jobs=2)
    queue(bench, "prj_a", 5)
    others = queue(bench, "prj_b", 2)
    claimed = [claim(bench, worker(f"wrk_{number}")) for number in range(6)]
    assert [owner(bench, job) for job in claimed if job].count("prj_a") == 2
    assert {job for job in claimed if job} >= set(others)
    assert claimed[4:] == [None, None]


def bound(database: Database, project_id: str, **quotas: int) -> None:
    """Make a project with quotas."""
    with database.unit_of_work() as session:
        session.add(Project(id=project_id, name=project_id, created_at=clock(session), **quotas))


@pytest.mark.parametrize("seed", range(4))
def test_the_view_of_claimable_work_counts_what_claims_take(bench: Bench, seed: int) -> None:
    """Whoever starts workers by it starts none for a job that waits for a quota, for another job or for its time."""
    rng = random.Random(seed)
    with bench.database.unit_of_work() as session:
        now = clock(session)
        for number in range(4):
            quotas = {"max_running_jobs": rng.choice([None, 0, 1, 3]), "max_gpu_seconds": rng.choice([None, None, 50])}
            session.add(Project(id=f"prj_{number}", name="x", created_at=now, **quotas))
            used = {"gpu_seconds": rng.choice([0, 49, 50]), "cpu_seconds": 0, "attempts": 1}
            session.add(UsageDay(project_id=f"prj_{number}", day=now.date().isoformat(), **used))
        for _ in range(30):
            state = rng.choice(["queued"] * 4 + ["running", "paused", "succeeded"])
            fields = {
                "project_id": f"prj_{rng.randrange(5)}",
                "state": state,  # the last of them has no row
                "lease_until": now + timedelta(hours=1) if state == "running" else None,
                "wait_reason": rng.choice([None, "capacity", "quota", "backoff", "dependency"]),
                "not_before": rng.choice([None, now - timedelta(hours=1), now + timedelta(hours=1)]),
            }
            session.add(Job(**(job_fields("steady", now) | fields)))
    with bench.database.reading() as session:
        claimable = set(session.scalars(select(CLAIMABLE_VIEW.c.job_id)))
    taken: list[str] = []
    while (job := claim(bench, worker(f"wrk_{len(taken)}"))) is not None:
        taken.append(job)
    assert taken
    assert set(taken) == claimable
    with bench.database.reading() as session:
        assert session.execute(select(CLAIMABLE_VIEW)).all() == []


def test_no_bell_rings_for_what_a_quota_keeps(bench: Bench) -> None:
    bound(bench.database, "prj_a", max_running_jobs=0)
    queue(bench, "prj_a", 2)
    with bench.database.reading() as session:
        later = clock(session) + timedelta(hours=1)
        assert leases.unheard(session, later, older_than_seconds=1) == []
    queue(bench, "prj_b", 1)
    with bench.database.reading() as session:
        assert leases.unheard(session, later, older_than_seconds=1) == ["default"]
