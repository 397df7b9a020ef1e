"""A real worker process with scripted children whose wall clock may be wrong: `SKEW_SECONDS=3600 python -m ...`."""

from __future__ import annotations

import os
import time

SKEW = float(os.environ.get("SKEW_SECONDS", "0"))
if SKEW:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + SKEW
    time.time_ns = lambda: _time_ns() + int(SKEW * 1e9)

if __name__ == "__main__":
    from tests.fixtures.runs import SCRIPTED
    from workers.main import WorkerProcess

    WorkerProcess(commands=SCRIPTED).run()
