"""The table of what each phase of each job cost on the pretend card, behind a run of `make standin`."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.name
COSTS = "costs"
"""The property of a test that holds rows: phase, waits, bytes each way, peak."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, where whole jobs were run and little else."""
    reports = [report for report in terminalreporter.stats.get("passed", []) if f"/{FOLDER}/" in report.nodeid]
    rows = [
        (report.nodeid.partition("[")[2].rstrip("]"), *row)
        for report in reports
        for row in dict(report.user_properties).get(COSTS, ())
    ]
    if not rows or len(reports) < len(terminalreporter.stats["passed"]):
        return
    terminalreporter.write_sep("=", "what each phase cost on the pretend card")
    line = "{:24} {:16} {:>6} {:>12} {:>12} {:>12}"
    terminalreporter.write_line(line.format("job", "phase", "waits", "to it, B", "from it, B", "peak, B"))
    for row in sorted(rows):
        terminalreporter.write_line(line.format(*row))
