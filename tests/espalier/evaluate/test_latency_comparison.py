"""When a result is called faster, in every place that tells of it."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.report import facts
from app.portal.report_table import comparisons
from espalier.evaluate.latency_comparison import compare_latency, regressions
from tests.fixtures.service.timings import latency, report

NOISE = "no difference beyond noise"


@pytest.mark.parametrize(
    ("dense", "result", "verdict", "words"),
    [
        (latency(0.040, 0.054, 0.060), latency(0.030, 0.038, 0.041), "none", NOISE),
        (latency(0.040, 0.054, 0.060), latency(0.030, 0.038, 0.039), "better", "1.42 x as fast"),
        (latency(0.030, 0.038, 0.039), latency(0.040, 0.054, 0.060), "worse", "0.70 x as fast"),
        (latency(0.054, 0.054, 0.054), latency(0.054, 0.054, 0.054), "none", NOISE),
        (latency(0.054, 0.054, 0.054, repeats=1), latency(0.010, 0.010, 0.010), "none", "told by 1 repeats"),
    ],
    ids=["overlapping", "faster", "slower", "equal", "one repeat"],
)
def test_a_result_is_faster_only_where_the_spreads_lie_apart(
    dense: dict[str, Any], result: dict[str, Any], verdict: str, words: str
) -> None:
    whole = report(dense, result)
    assert {speed.verdict for speed in compare_latency(whole)} == {verdict}
    assert [row["verdict"] for row in regressions(compare_latency(whole))] == [verdict, verdict]
    lines = [line for line in facts(whole) if line.startswith("speed")]
    cells = [row.verdict for row in comparisons(whole) if row.unit == "milliseconds"]
    assert len(lines) == len(cells) == 2
    assert all(words in text for text in (*lines, *cells))
    spread = f"({1e3 * result['decode_seconds_per_token']['least']:.3f} to"
    assert all(spread in line for line in lines)
    assert all(spread in row.texts[1] for row in comparisons(whole) if row.unit == "milliseconds")


def test_what_was_timed_on_one_model_alone_has_no_verdict() -> None:
    whole = report(None, latency(0.030, 0.038, 0.041))
    assert compare_latency(whole) == []
    row = next(row for row in comparisons(whole) if row.unit == "milliseconds")
    assert (row.before, row.verdict) == (None, "")
