"""A child that follows a script where its source names one, and prunes in earnest elsewhere: `fetch` or `compute`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from tests.fixtures.workers import scripted_child


def main() -> int:
    """Read the request, and become the child that it is for."""
    side, line = sys.argv[1], sys.stdin.readline()
    request = json.loads(line)
    source = request["job"]["source"].get("path", "") if side == "fetch" else request["source_name"]
    if Path(source).name in scripted_child.SCRIPTS:
        {"fetch": scripted_child.fetch, "compute": scripted_child.compute}[side](request)
        return 0
    sys.stdin = io.StringIO(line)
    if side == "fetch":
        from workers.fetcher import main as run  # noqa: PLC0415 - a scripted child costs nothing of it
    else:
        from workers.child import main as run  # noqa: PLC0415 - it loads torch
    return run()


if __name__ == "__main__":
    sys.exit(main())
