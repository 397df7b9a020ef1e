"""What a child may take of memory, and what it is called when it wants more."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.settings import Settings
from espalier.messages import ComputeRequest, Message
from workers.lease.retries import from_exit
from workers.processes import groups, machine, memory
from workers.processes.memory import MemoryLimits
from workers.processes.process import Child, environment

GIB = 2**30
SPEC = {"prune": {"method": "magnitude", "sparsity": 0.5}}


def request(folder: Path, **fields: object) -> ComputeRequest:
    given = {
        "spec": SPEC,
        "model_dir": str(folder),
        "revision": "r",
        "source_name": "m",
        "datasets": {},
        "workspace": str(folder),
        "artifact_dir": str(folder),
    }
    return ComputeRequest.model_validate(given | fields)


@pytest.fixture
def of_16_gib(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(machine, "host_memory_bytes", lambda: 16 * GIB)
    return Settings(threads=4, device="cpu")


def test_the_default_is_a_share_of_the_machine_and_room_for_what_is_mapped(of_16_gib: Settings, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    more = 4 * memory.STACK_BYTES + memory.MAPPED * 1000
    default = int(16 * GIB * 0.9)
    assert memory.allowed(of_16_gib, request(tmp_path)) == MemoryLimits(default, default + more)
    assert memory.allowed(of_16_gib, Message()) == MemoryLimits(4 * GIB, 4 * GIB)
    limited, capped = request(tmp_path, max_host_memory_bytes=GIB), GIB + memory.SLACK_BYTES
    assert memory.allowed(of_16_gib, limited) == MemoryLimits(capped, capped + more)
    several = request(tmp_path, max_host_memory_bytes=GIB, ranks=2)
    assert memory.allowed(of_16_gib, several) == MemoryLimits(4 * GIB + memory.SLACK_BYTES, capped + more)
    configured = of_16_gib.model_copy(update={"child_memory_bytes": 2 * GIB, "fetch_memory_bytes": 3 * GIB})
    assert memory.allowed(configured, request(tmp_path)) == MemoryLimits(2 * GIB, 2 * GIB + more)
    assert memory.allowed(configured, Message()) == MemoryLimits(3 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("bounds", "sees"), [(("max", "2097152", "4194304"), 2 * 2**20), (("max", "max", "max"), 16 * GIB)]
)
def test_the_memory_of_a_machine_is_that_of_the_tightest_group_around_the_worker(
    bounds: tuple[str, ...], sees: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "of.slice/espalier.service/espalier-worker"
    own.mkdir(parents=True)
    for group, bound in zip((own, own.parent, own.parents[1]), bounds, strict=True):
        (group / "memory.max").write_text(f"{bound}\n")
    monkeypatch.setattr(groups, "own_groups", lambda: iter([own]))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB))
    assert machine.host_memory_bytes() == sees


def ended(tmp_path: Path, code: str) -> tuple[int, list[str]]:
    child = Child(
        [sys.executable, "-c", code],
        Message(),
        env=environment("fetch", tmp_path, 1),
        cwd=tmp_path,
        offline=False,
        memory=MemoryLimits(2**27, 2**27),
    )
    try:
        while not child.finished:
            child.pipe.take(wait_seconds=0.05)
        assert child.returncode is not None
        return child.returncode, child.pipe.tail
    finally:
        child.close()


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(2**28)",
        "import os, sys; sys.stderr.write('memory allocation of 9 bytes failed'); sys.stderr.flush(); os.abort()",
    ],
)
def test_a_child_that_wants_more_is_named_by_who_made_it_want_that(code: str, tmp_path: Path) -> None:
    status, tail = ended(tmp_path, code)
    assert status != 0
    assert from_exit(status, tail, "fetching", out_of_memory=False).class_ == "source_unsafe"
    assert from_exit(status, tail, "pruning", out_of_memory=False).class_ == "host_oom"
    assert from_exit(status, tail, "fetching", out_of_memory=True).class_ == "host_oom"
