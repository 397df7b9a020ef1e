"""Few bytes that ask for many, through HTTP: each ends in its word, and the service lives on in the memory it had."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.service.launch import launching
from tests.fixtures.suite.figures import load, record
from tests.load.bombs import BOMBS, MIB, Bomb

pytestmark = [pytest.mark.load, pytest.mark.timeout(3600)]

API_BYTES = 300 * MIB
"""What the API may take beyond what it takes idle."""
LIMITS = {"ESPALIER_FETCH_MEMORY_BYTES": str(2**30), "ESPALIER_CHILD_MEMORY_BYTES": str(3 * 2**30)}
API, PROBE, FETCHER, CHILD = "app.server", "app.services.admission.reader", "workers.fetcher", "workers.child"
SERVICE = (API, "workers.main", "workers.reconciler")
DEMO = {"kind": "local", "path": str(DEMO_MODEL)}


@dataclass
class Peak:
    """The most that a process had in memory, and what it may have."""

    module: str
    bomb: str
    bytes: int = 0
    limit: float = float("inf")

    def __str__(self) -> str:
        return f"{self.bytes >> 20} of {int(self.limit) >> 20} MiB ({self.bomb})"


class Watch(threading.Thread):
    """Looks at the memory of the processes of an installation, 20 times a second."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(daemon=True)
        self.bomb = ""
        """What is going on."""
        self.peaks: dict[psutil.Process, Peak] = {}
        self._deployment, self._ended = deployment, threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._ended.wait(0.05):
            for process in self._deployment.tree():
                with contextlib.suppress(psutil.Error, OSError):
                    self._look(process)

    def _look(self, process: psutil.Process) -> None:
        words = process.cmdline()
        module = next((each for each in (PROBE, FETCHER, CHILD) if each in words), None)
        if module is None or "-S" in words:  # not yet what it will be
            return
        peak = self.peaks.setdefault(process, Peak(module, self.bomb))
        peak.bytes = max(peak.bytes, most_bytes(process))
        for number in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            room, _ = process.rlimit(number)
            peak.limit = min(peak.limit, room if room != resource.RLIM_INFINITY else peak.limit)

    def stop(self) -> None:
        """Stop."""
        self._ended.set()
        self.join()

    def largest(self, module: str) -> Peak:
        """The process of a module that had the most."""
        return max((peak for peak in self.peaks.values() if peak.module == module), key=lambda peak: peak.bytes)


def most_bytes(process: psutil.Process) -> int:
    """The most that a process ever had in memory (VmHWM)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


class Refused(Exception):
    """The service answered with a problem; the text is its code."""


def _told(answer: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = answer.json()
    if answer.is_error:
        assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
        raise Refused(document["code"])
    return document


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _upload(http: httpx.Client, path: Path) -> dict[str, Any]:
    """Send a model's folder or a text as any client may, and return it as a source or data set."""
    files = {each.name: each.read_bytes() for each in (path.iterdir() if path.is_dir() else [path])}
    body = {
        "kind": "model" if path.is_dir() else "dataset",
        "files": [{"name": name, "bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()],
    }
    upload = _told(http.post("/v1/uploads", json=body))
    address, size = f"/v1/uploads/{upload['id']}", upload["part_bytes"]
    for name, data in files.items():
        for number, begin in enumerate(range(0, len(data), size), 1):
            part = data[begin : begin + size]
            headers = {"X-Content-SHA256": _sha256(part)}
            answer = http.put(f"{address}/files/{name}/parts/{number}", content=part, headers=headers)
            assert answer.status_code == 204, answer.text
    _told(http.post(f"{address}/complete"))
    return {"kind": "upload", "upload_id": upload["id"]}


def _run(deployment: Deployment, source: dict[str, Any], **calibration: Any) -> str:
    """Run a job and return how it ended."""
    spec = {
        "prune": {"method": "wanda", "sparsity": 0.5},
        "evaluate": {"perplexity": []},
        "calibration": {"samples": 8, "sequence_length": 128, **calibration},
    }
    job = _told(deployment.http.post("/v1/jobs", json={"source": source, "spec": spec, "reuse": "never"}))
    ended = deployment.finish(job["id"])
    return str(ended["error"]["class"] if ended["error"] else ended["state"])


def _meet(deployment: Deployment, bomb: Bomb, folder: Path) -> str:
    """Give the service a bomb, and return what became of it."""
    path, http = bomb.write(folder), deployment.http
    try:
        if bomb.kind == "model":
            return _run(deployment, _upload(http, path))
        if bomb.kind == "text":
            return _run(deployment, DEMO, dataset=_upload(http, path))
        body = path.read_bytes()
        return str(_told(http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}))["state"])
    except Refused as refusal:
        return str(refusal)


def test_few_bytes_that_ask_for_many_end_in_their_word_and_the_service_lives_on(tmp_path: Path) -> None:
    ended: dict[str, str] = {}
    with launching(tmp_path) as start:
        deployment = start(**LIMITS)
        assert _run(deployment, DEMO) == "succeeded"
        parts = [deployment.find(module) for module in SERVICE]
        api = parts[0]
        assert api is not None
        idle = most_bytes(api)
        watch = Watch(deployment)
        watch.start()
        for number, (name, bomb) in enumerate(BOMBS.items()):
            watch.bomb, folder = name, tmp_path / f"bomb-{number}"
            folder.mkdir()
            ended[name] = _meet(deployment, bomb, folder)
        watch.stop()
        assert _run(deployment, DEMO) == "succeeded"
        assert all(part is not None and part.is_running() for part in parts), "a part of the service came to its end"
        grown = most_bytes(api) - idle
    right = [name for name, bomb in BOMBS.items() if ended[name] == bomb.ends]
    largest = "; ".join(f"{module} {watch.largest(module)}" for module in (PROBE, FETCHER, CHILD))
    record(
        "bad input",
        f"memory under {len(BOMBS)} bombs: uploads of models and texts, bodies",
        "each ends in its word, the service lives on, API < 300 MiB over its idle size, no child above its limit",
        f"{len(right)} of {len(BOMBS)}, then an honest job succeeded; API {idle >> 20} MiB idle, {grown >> 20} more "
        f"at most; largest children: {largest}; {load()}",
    )
    assert ended == {name: bomb.ends for name, bomb in BOMBS.items()}
    assert grown < API_BYTES
    assert not [str(peak) for peak in watch.peaks.values() if peak.bytes > peak.limit]
