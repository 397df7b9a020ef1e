"""Fixtures that every test may use, the tiers of the suite, and the honest count of what was not run."""

from __future__ import annotations

import gc
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.library.reference import reference_folder

gc.set_threshold(20_000, 50, 10)  # as in the processes of the service: `app/__init__.py` says why
# Before torch loads: tests share their cores with children, and with the other processes of a parallel run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

PLUGINS = ("suite.patience", "suite.canaries", "servers.services", "servers.killable", "servers.skew", "suite.figures")
"""Each before those that import it."""
pytest_plugins = [f"tests.fixtures.{name}" for name in PLUGINS]

TIERS = ("browser", "chaos", "load", "numbers", "registry")
"""Slow proofs, by marker: each runs only when `-m` names it (`make chaos`, `make load`, ...)."""
SAMPLED = "deep"
"""The tier of which an ordinary run takes a tenth, always the same one: those whose id hashes to 0."""
_left_out: Counter[str] = Counter()


def _in_the_tenth(item: pytest.Item) -> bool:
    return zlib.crc32(item.nodeid.encode()) % 10 == 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tiers that nobody asked for, and nine tenths of the one that is sampled."""
    asked = str(config.getoption("markexpr"))
    off = {item: tier for item in items for tier in TIERS if tier not in asked and item.get_closest_marker(tier)}
    if SAMPLED not in asked and any("::" not in str(argument) for argument in config.args):
        deep = (item for item in items if item.get_closest_marker(SAMPLED) and not _in_the_tenth(item))
        off |= dict.fromkeys(deep, SAMPLED)
    _left_out.update(off.values())
    if off:
        config.hook.pytest_deselected(items=list(off))
        items[:] = [item for item in items if item not in off]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        items[:] = _long_ones_first(items, processes)


def pytest_collection_finish() -> None:
    """Keep modules and tests, which live as long as the run, out of every later collection.

    Collecting them again and again took a seventh of the CPU of a whole run.
    """
    gc.collect()
    gc.freeze()


def _long_ones_first(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Let every process of a parallel run begin with its share of the long tests: one left for last is waited for.

    Each process is given as many tests as any other, in this order. Those that share an installation stay together.
    """
    long = [item for item in items if item.path.parent.name == "flows" or item.get_closest_marker("slow")]
    alone = [item for item in long if "shared" not in getattr(item, "fixturenames", ())]
    hands = [[item for item in long if item not in alone], *(alone[n :: processes - 1] for n in range(processes - 1))]
    rest, share = [item for item in items if item not in long], -(-len(items) // processes)
    order: list[pytest.Item] = []
    for hand in hands:
        missing = max(share - len(hand), 0)
        order += hand + rest[:missing]
        del rest[:missing]
    return order + rest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a process of a parallel run left out to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of a parallel run left out: all of them collect, and leave out, the same tests."""
    _left_out.update(Counter(getattr(node, "workeroutput", {}).get("left_out", {})) - _left_out)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of the reference models and texts."""
    return reference_folder() or pytest.skip("no reference models: set ESPALIER_REFERENCE_DIR")


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
