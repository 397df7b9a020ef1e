"""A real worker process whose children follow a script, or prune, as their job says."""

from __future__ import annotations

import sys

from workers.main import WorkerProcess
from workers.processes.process import Commands

if __name__ == "__main__":
    mixed = (sys.executable, "-P", "-m", "tests.chaos.mixed_child")
    WorkerProcess(commands=Commands(fetch=(*mixed, "fetch"), compute=(*mixed, "compute"))).run()
