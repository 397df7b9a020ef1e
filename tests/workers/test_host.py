"""A host with several GPUs: a worker for each, which a real parent starts and drains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import select

from app.db.job import Worker
from app.settings import Settings
from tests.fixtures.suite.patience import Patience
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.cards import GIB, Cards
from tests.fixtures.workers.runs import Bench
from workers import host
from workers.processes import machine
from workers.processes.placement import wanted
from workers.processes.process import ROOT

AUTO = Settings(device="auto")


def test_each_worker_has_a_card_and_cores_and_a_part_of_the_memory(
    nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi.are(80, 80)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "host_memory_bytes", lambda: 100 * GIB)
    parts = host.workers(wanted("auto", AUTO), "gpu")
    assert [part.command[-6:] for part in parts] == [
        ["--worker-class", "gpu", "--gpus", "GPU-00000000", "--cpus", "0,1"],
        ["--worker-class", "gpu", "--gpus", "GPU-00000001", "--cpus", "2,3"],
    ]
    assert host.environment(AUTO, 2)["ESPALIER_CHILD_MEMORY_BYTES"] == str(45 * GIB)
    told = AUTO.model_copy(update={"child_memory_bytes": GIB})
    assert host.environment(told, 2)["ESPALIER_CHILD_MEMORY_BYTES"] == str(GIB)


@pytest.mark.deep
def test_the_workers_of_a_host_start_and_drain_together(sqlite_bench: Bench, nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, 80)
    settings = {"HOME": sqlite_bench.settings.home, "DATABASE_URL": sqlite_bench.database.url, "DEVICE": "auto"}
    env = os.environ | {f"ESPALIER_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "workers.main", "--gpus", "auto"]
    parent = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    patience = Patience(120)
    rows: list[Worker] = []
    try:
        while len(rows) < 2 or any(row.device_lost_at is None for row in rows):  # no card answers here
            with sqlite_bench.database.reading() as session:
                rows = list(session.scalars(select(Worker)))
            assert parent.poll() is None
            patience.pause(0.1, [(row.pid, row.device_lost_at) for row in rows])
        assert {(row.device, row.memory_bytes) for row in rows} == {("cuda", 80 * GIB)}
        assert len({row.pid for row in rows} - {parent.pid}) == 2
        parent.send_signal(signal.SIGTERM)
        _, log = parent.communicate(timeout=120)
    finally:
        parent.kill()
    assert parent.returncode == 0
    assert log.count("worker drained") == 2
    assert all(running(uuid) == [] for uuid in ("GPU-00000000", "GPU-00000001"))
