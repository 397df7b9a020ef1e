"""A production set of services on this machine: API processes, null workers and a reconciler over one database."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.db.session import Database
from espalier.parent_death import die_with_parent
from tests.fixtures.servers.processes import await_port, free_port

OURS = "app.main:create_app"
ROOT = Path(__file__).resolve().parents[2]
BODY = json.dumps(
    {
        "source": {"kind": "huggingface", "repo": "org/model"},
        "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
        "reuse": "never",
    }
)


class Stack:
    """Processes over one database; all of them end with the test."""

    def __init__(self, home: Path, url: str, broker: str) -> None:
        self.home, self.url = home, url
        home.mkdir()
        self.database = Database(url)
        mine = {
            "ESPALIER_HOME": home,
            "ESPALIER_DATABASE_URL": url,
            "ESPALIER_BROKER_URL": broker,
            "PYTHONPATH": ROOT,
            "ESPALIER_LOG_FORMAT": "json",
            "ESPALIER_LEASE_SECONDS": 30,
        }
        self.env = {**os.environ, **{name: str(value) for name, value in mine.items()}}

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one of our modules until the block ends."""
        with (self.home / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                die_with_parent([sys.executable, "-m", *command]),
                env=self.env,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def api(self, factory: str = OURS, processes: int = 2) -> Iterator[str]:
        """Serve an application and yield its address."""
        port = free_port()
        options = ["--factory", "--port", str(port), "--no-access-log", "--workers", str(processes)]
        self.env |= {"ESPALIER_PORT": str(port), "ESPALIER_API_PROCESSES": str(processes)}
        command = ["app.server"] if factory == OURS else ["uvicorn", factory, *options]
        with self.running(*command) as process:
            await_port(process, port)
            yield f"http://127.0.0.1:{port}"

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """Run null workers and a reconciler."""
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(self.running("tests.load.null_worker"))
            stack.enter_context(self.running("workers.reconciler"))
            yield

    def count(self, sql: str) -> int:
        """Count something."""
        with self.database.reading() as session:
            return int(session.scalar(text(sql)) or 0)

    def clients(self, url: str, path: str, *, clients: int, seconds: float, key: str = "") -> dict[str, Any]:
        """Post from many clients at once, in a process of their own."""
        command = ["tests.load.clients", url, path, str(clients), str(seconds), BODY]
        command += [key] if key else []
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=True)
        counts: dict[str, Any] = json.loads(done.stdout)
        return counts
