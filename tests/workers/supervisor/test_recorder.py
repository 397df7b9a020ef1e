"""What a child says of its phases, in rows: turns add up, attempts do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import select

from app.db.queries.queue import leases
from app.db.result import PhaseRecord
from espalier.messages import PhaseCompleted, PhaseStarted, Progress
from tests.fixtures.workers.claims import worker
from tests.fixtures.workers.runs import Bench
from workers.messages import RecordedMessage
from workers.supervisor.recorder import Recorder

STARTED = PhaseStarted(phase="pruning")


def _ended(turn: str, seconds: float, peak: int) -> PhaseCompleted:
    return PhaseCompleted(phase="pruning", seconds=seconds, peak_memory_bytes=peak, turn=turn)


def _attempt(bench: Bench, *flushes: Sequence[RecordedMessage]) -> PhaseRecord:
    """Claim the one job, write messages transaction by transaction, and let it go as a lost worker would."""
    with bench.database.unit_of_work() as session:
        job = leases.claim(session, worker("wrk_1"), lease_seconds=60)
        assert job is not None
    recorder = Recorder(bench.database, job, discard=lambda _: None)
    for messages in flushes:
        recorder.take(messages)
        with bench.database.unit_of_work() as session:
            recorder.write(session)
        recorder.written()
    bench.set(job.id, state="queued", lease_until=None, worker_id=None)
    with bench.database.reading() as session:
        return session.scalars(select(PhaseRecord)).one()


@pytest.mark.parametrize("together", [False, True])
def test_turns_of_a_phase_add_up_and_an_attempt_that_is_resumed_counts_none_twice(
    bench: Bench, *, together: bool
) -> None:
    bench.add()
    first: list[RecordedMessage] = [STARTED, _ended("cycle-1", 5.0, 300), STARTED, _ended("cycle-2", 5.0, 200), STARTED]
    killed = _attempt(bench, *([first] if together else [[message] for message in first]))
    assert (killed.attempt, killed.seconds, killed.peak_memory_bytes, killed.finished_at) == (1, 10.0, 300, None)

    # The next attempt tells every turn again: two with the seconds that they took before, the third to its end.
    again: list[RecordedMessage] = [*first, _ended("cycle-3", 7.0, 250)]
    resumed = _attempt(bench, *([again] if together else [[message] for message in again]))
    assert (resumed.attempt, resumed.seconds, resumed.peak_memory_bytes) == (2, 17.0, 300)
    assert resumed.finished_at is not None


def test_bytes_beyond_what_any_attempt_has_fetched_are_progress(bench: Bench) -> None:
    """So a long download outlives many lost machines, and one that never gets beyond a place does not."""
    job_id = bench.add()
    with bench.database.unit_of_work() as session:
        job = leases.claim(session, worker("wrk_1"), lease_seconds=60)
        assert job is not None
    recorder = Recorder(bench.database, job, discard=lambda _: None)

    def fetched(count: int) -> dict[str, int]:
        bench.set(job_id, failures={"machine_lost": 2})
        recorder.take([Progress(phase="fetching", current=count, total=100, unit="byte")])
        with bench.database.unit_of_work() as session:
            recorder.write(session)
        recorder.written()
        return bench.job(job_id).failures

    assert [fetched(count) for count in (10, 10, 5, 11)] == [{}, {"machine_lost": 2}, {"machine_lost": 2}, {}]
    assert bench.job(job_id).fetched_bytes == 11
