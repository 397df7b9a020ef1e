"""A result is never taken over from a job that is being deleted, however the two meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings
from tests.fixtures.library.demo_model import copy_demo_model
from tests.fixtures.service import races
from tests.fixtures.suite.figures import record

ROUNDS = 500


@pytest.mark.parametrize("rounds", [6, pytest.param(ROUNDS, marks=[pytest.mark.load, pytest.mark.timeout(1800)])])
def test_who_takes_a_result_over_has_its_files(database_url: str, tmp_path: Path, rounds: int) -> None:
    model = copy_demo_model(tmp_path / "roots/model")
    settings = Settings(home=tmp_path / "home", database_url=database_url, local_roots=str(tmp_path / "roots"))
    counts = races.run(settings, model, rounds=rounds, seed=10)
    assert counts["without files"] == 0, counts
    assert counts["took over"] > 0 or rounds < ROUNDS, counts  # of few, all may come after the DELETE
    if rounds == ROUNDS:
        record(
            "tenants",
            f"{ROUNDS} randomised rounds on {database_url.partition(':')[0]}: four POSTs of equal work and "
            "one worker that settles, beside a DELETE of the job that did it",
            "0 jobs without files",
            f"{counts['took over']:,} took over, {counts['on its own']:,} worked on their own, 0 without files",
        )
