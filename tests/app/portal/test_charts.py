"""Which series share a chart."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.db.queries.jobs.reads import SeriesPoint
from app.portal.charts import charts
from app.services.jobs.reads import Series

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def _charts(*names: str) -> dict[str, tuple[str, str, list[str]]]:
    """Chart -> its title, what its x axis shows, and its lines."""
    series = [
        Series(name, "retraining", [SeriesPoint(name, "retraining", step, 1.0, NOW) for step in (1, 2)])
        for name in names
    ]
    return {
        chart.name: (chart.title, chart.x_title, [line.name for line in chart.lines]) for chart in charts(series, [])
    }


WINDOWS = "Relative error of windows, with the mask alone and refitted"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["training_loss", "validation_loss", "learning_rate", "self_attn.error_after", "self_attn.learning_rate"],
            {
                "loss": ("Loss", "step", ["training_loss", "validation_loss"]),
                "window": (WINDOWS, "block", ["self_attn.error_after"]),
                "rate": ("Learning rate", "step", ["learning_rate"]),
            },
        ),
        (
            ["cycle-10.training_loss", "cycle-2.training_loss", "cycle-2.learning_rate", "cycle-2.mlp.error_after"],
            {
                "loss-cycle-2": ("Loss, cycle 2", "step", ["training_loss"]),
                "window-cycle-2": (f"{WINDOWS}, cycle 2", "block", ["mlp.error_after"]),
                "rate-cycle-2": ("Learning rate, cycle 2", "step", ["learning_rate"]),
                "loss-cycle-10": ("Loss, cycle 10", "step", ["training_loss"]),
            },
        ),
        (
            ["member-1.training_loss", "member-2.training_loss"],
            {"loss": ("Loss", "step", ["member 1 training_loss", "member 2 training_loss"])},
        ),
        (
            ["cycle-1-member-2.validation_loss", "cycle-1-member-2.stopped_early"],
            {
                "loss-cycle-1": ("Loss, cycle 1", "step", ["member 2 validation_loss"]),
                "other-cycle-1": ("Other measures, cycle 1", "step", ["member 2 stopped_early"]),
            },
        ),
    ],
    ids=["once", "cycles", "members", "members of cycles"],
)
def test_what_is_measured_alike_shares_a_chart_and_every_cycle_has_its_own(
    names: list[str], expected: dict[str, tuple[str, str, list[str]]]
) -> None:
    by_name = _charts(*names)
    assert by_name == expected
    assert list(by_name) == list(expected)
