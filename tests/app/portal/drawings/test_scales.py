"""Ticks are round, colours tell values apart, and their numbers can be read on them."""

from __future__ import annotations

import pytest

from app.portal.drawings.scales import CIVIDIS, Axis, Shades, percent, plain, seconds, size


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (31.2, 54.3, [35, 40, 45, 50]),
        (0.48, 0.72, [0.5, 0.55, 0.6, 0.65, 0.7]),
        (-3.0, 3.0, [-2, 0, 2]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert Axis(low, high, 0, 100).ticks() == pytest.approx(expected)


def test_ticks_of_a_logarithmic_axis_are_ones_twos_and_fives() -> None:
    axis = Axis.over([10.0, 900.0], 0, 100, spread=20)
    assert axis.logarithmic
    assert axis.ticks() == pytest.approx([10, 20, 50, 100, 200, 500, 1000])


def test_an_axis_keeps_all_values_inside_and_never_begins_below_zero_for_a_count() -> None:
    axis = Axis.over([0.0, 0.5], 50, 650)
    assert axis.low == 0
    assert [axis(value) for value in (0.0, axis.high)] == [50, 650]
    upright = Axis.over([30.0, 60.0], 300, 0)
    assert 0 < upright(60.0) < upright(30.0) < 300


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1.0]])
def test_an_axis_of_one_value_has_a_width(values: list[float]) -> None:
    axis = Axis.over(values, 0, 100)
    assert 0 <= axis(values[0]) <= 100
    assert axis.ticks()


def test_shades_cover_their_range_and_hold_beyond_it() -> None:
    shades = Shades.over([0.2, 0.8])
    assert [shades.step(value) for value in (0.1, 0.2, 0.5, 0.8, 0.9)] == [0, 0, 4, 8, 8]
    assert Shades(0.5, 0.5).step(0.5) == 0


def test_numbers_on_colours_have_contrast() -> None:
    shades = Shades(0, len(CIVIDIS))
    for step in range(len(CIVIDIS)):
        behind, ink = _luminance(shades.colour(step + 0.5)), {"light": 1.0, "dark": 0.0}[shades.ink(step + 0.5)]
        light, dark = max(behind, ink), min(behind, ink)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_colours_grow_lighter_step_by_step() -> None:
    lights = [_luminance(colour) for colour in CIVIDIS]
    assert lights == sorted(lights)


def _luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (31.829, "31.8"), (0.0123456, "0.0123"), (1234.5, "1,234"), (100, "100"), (1e-7, "1e-07")],
)
def test_numbers_have_three_digits_that_count(value: float, expected: str) -> None:
    assert plain(value) == expected


def test_units() -> None:
    assert [percent(0.5), percent(0.4999)] == ["50 %", "50 %"]
    assert [size(0), size(999), size(5.13e6), size(3.2e13)] == ["0 B", "999 B", "5.13 MB", "32 TB"]
    assert [seconds(2.5), seconds(300), seconds(7200)] == ["2.5 s", "5 min", "2 h"]
