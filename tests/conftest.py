"""Fixtures that every test may use, the tiers of the suite, and the honest count of what was not run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: tests share their cores with children

pytest_plugins = ["tests.fixtures.services", "tests.fixtures.figures"]

_ROOT = Path(__file__).resolve().parents[1]
TIERS = ("chaos", "load", "numbers")
"""Slow proofs, by marker: each runs only when `-m` names it (`make chaos`, `make load`, `make numbers`)."""
_left_out: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tiers that nobody asked for."""
    asked = str(config.getoption("markexpr"))
    off = {item: tier for item in items for tier in TIERS if tier not in asked and item.get_closest_marker(tier)}
    _left_out.update(off.values())
    if off:
        config.hook.pytest_deselected(items=list(off))
        items[:] = [item for item in items if item not in off]


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of the reference models and texts."""
    given = os.environ.get("ESPALIER_REFERENCE_DIR")
    places = [Path(given)] if given else [_ROOT.parent / "shared/reference", _ROOT / "shared/reference"]
    for place in places:
        if place.is_dir():
            return place.resolve()
    pytest.skip("no reference models: set ESPALIER_REFERENCE_DIR")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped, and why, and how many were left to a tier of their own."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    terminalreporter.write_sep("=", f"{reasons.total()} tests skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5d}  {reason}")
    for tier, count in _left_out.items():
        terminalreporter.write_line(f"{count:5d}  left to `make {tier}`")
