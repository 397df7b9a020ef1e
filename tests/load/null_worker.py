"""A real worker process, Celery and all, with null children; it writes down how long its claims took."""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path
from typing import Any

from app.db.job import Job
from tests.fixtures.workers.null_child import NullChild
from workers.main import WorkerProcess
from workers.supervisor import attempt
from workers.supervisor.worker_loop import WorkerLoop

attempt.Child = NullChild  # type: ignore[assignment, attr-defined]
_claims: list[float] = []
_claim: Any = WorkerLoop.claim


def timed(loop: WorkerLoop) -> Job | None:
    """Claim, and remember how long it took when there was something to claim."""
    began = time.perf_counter()
    job: Job | None = _claim(loop)
    if job is not None:
        _claims.append(time.perf_counter() - began)
    return job


if __name__ == "__main__":
    WorkerLoop.claim = timed  # type: ignore[assignment, method-assign]
    folder = Path(os.environ["ESPALIER_HOME"])
    atexit.register(lambda: (folder / f"claims-{os.getpid()}.json").write_text(json.dumps(_claims)))
    WorkerProcess().run()
