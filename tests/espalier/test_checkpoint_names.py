"""Names of checkpoints are written and read in one way, and in the way of every version so far."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier.checkpoint_names import CheckpointName, Kind, RepetitionName

NUMBERS = st.integers(0, 999_999_999)
TURNS = st.builds(RepetitionName, cycle=st.none() | NUMBERS, member=st.none() | NUMBERS)


@st.composite
def names(draw: st.DrawFn) -> CheckpointName:
    kind = draw(st.sampled_from(Kind))
    block, step = (draw(NUMBERS) if name in kind.fields else None for name in ("block", "step"))
    statistics = draw(st.from_regex(r"[a-z_]+(-[a-z_]+)*", fullmatch=True)) if "statistics" in kind.fields else None
    return CheckpointName(kind, block, step, statistics, repetition=draw(TURNS))


@settings(suppress_health_check=[HealthCheck.too_slow])  # how fast a crowded machine draws is no matter of names
@given(names())
def test_a_name_that_is_written_reads_as_itself(name: CheckpointName) -> None:
    assert CheckpointName.parse(str(name)) == name


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(names(), names())
def test_two_names_are_never_written_alike(one: CheckpointName, other: CheckpointName) -> None:
    assert (str(one) == str(other)) is (one == other)


OF_BEFORE = {
    # What version 0.1.0 wrote into rows, from its source.
    "result": CheckpointName(Kind.RESULT),
    "block-00003": CheckpointName(Kind.BLOCK, block=3),
    "block-123456": CheckpointName(Kind.BLOCK, block=123_456),
    "norms": CheckpointName(Kind.NORMS),
    "norms-inputs-00001": CheckpointName(Kind.INPUTS, statistics="norms", block=1),
    "gram-inputs-00012": CheckpointName(Kind.INPUTS, statistics="gram", block=12),
    "structure-0-blocks": CheckpointName(Kind.REMOVED_BLOCKS, step=0),
    "structure-1-block-00002": CheckpointName(Kind.NARROWED_BLOCK, step=1, block=2),
    "structure-1-block-00002-choice": CheckpointName(Kind.KEPT_UNITS, step=1, block=2),
    "structure-10-experts": CheckpointName(Kind.KEPT_EXPERTS, step=10),
    "window": CheckpointName(Kind.WINDOW),
    "picked": CheckpointName(Kind.PICKED),
    "rate-search": CheckpointName(Kind.RATE_SEARCH),
    "state": CheckpointName(Kind.STATE),
    "trained": CheckpointName(Kind.TRAINED),
    "cycle-2--block-00000": CheckpointName(Kind.BLOCK, block=0, repetition=RepetitionName(cycle=2)),
    "member-1--result": CheckpointName(Kind.RESULT, repetition=RepetitionName(member=1)),
    "cycle-2-member-11--state": CheckpointName(Kind.STATE, repetition=RepetitionName(cycle=2, member=11)),
}


def test_the_table_of_old_names_has_every_kind() -> None:
    assert {name.kind for name in OF_BEFORE.values()} == set(Kind)


@pytest.mark.parametrize(("text", "name"), OF_BEFORE.items())
def test_names_of_the_version_before_are_read_and_written(text: str, name: CheckpointName) -> None:
    assert CheckpointName.parse(text) == name
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "block",  # of no block
        "block-3",  # there is one way to write a number
        "block-00003\n",
        "block-٠٠٠٠٣",  # digits, and not ours
        "../block-00003",
        "structure-0",
        "structure-01-blocks",
        "--result",
        "cycle-1member-2--result",
        "member-2-cycle-1--result",
        "turn-1--result",
    ],
)
def test_what_no_version_has_written_is_no_name(text: str) -> None:
    assert CheckpointName.parse(text) is None


@pytest.mark.parametrize("numbers", [{}, {"block": 1, "step": 1}, {"step": 1}])
def test_a_name_takes_the_numbers_of_its_kind_and_no_others(numbers: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="takes"):
        CheckpointName(Kind.BLOCK, numbers.get("block"), numbers.get("step"))


@pytest.mark.parametrize(
    ("name", "repetition", "measure"),
    [
        ("training_loss", RepetitionName(), "training_loss"),
        ("self_attn.error_after", RepetitionName(), "self_attn.error_after"),  # a point alone makes no repetition
        ("cycle-2.mlp.error_after", RepetitionName(cycle=2), "mlp.error_after"),
        ("member-3.learning_rate", RepetitionName(member=3), "learning_rate"),
        ("cycle-10-member-2.stopped_early", RepetitionName(10, 2), "stopped_early"),
        ("cycle-02.loss", RepetitionName(), "cycle-02.loss"),  # no repetition is written so
        (".loss", RepetitionName(), ".loss"),
        ("", RepetitionName(), ""),
    ],
)
def test_the_name_of_a_series_tells_its_repetition(name: str, repetition: RepetitionName, measure: str) -> None:
    assert RepetitionName.of_series(name) == (repetition, measure)
    assert repetition.series(measure) == name
