"""The walks of the architecture are those of the running code: which files a request's body and a step pass through."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final, cast

from fastapi.testclient import TestClient

from app.bodies.job import JobRequest
from app.db.job import Event
from app.db.session import Database
from app.main import create_app
from app.settings import Settings
from espalier.messages import Progress
from espalier.recipe.spec import CompressionSpec
from espalier.session.reporter import PhaseRun, Reporter
from tests.fixtures.library.demo_model import copy_demo_model
from tests.fixtures.service import rows
from tests.fixtures.suite.pages import ROOT
from tests.fixtures.suite.patience import Patience
from tests.fixtures.workers.runs import Bench
from workers.processes.pipe import MessageWriter

PAGE: Final = "docs/architecture.md"
MARK: Final = "a name that no other text has"
SPEC: Final = {
    "prune": {"method": "wanda", "sparsity": 0.5},
    "calibration": {"samples": 8, "sequence_length": 64},
    "evaluate": {"perplexity": [{"sequence_length": 64, "max_windows": 4}]},
}
Holds = Callable[[object], bool]


class Walk:
    """The files of the product whose functions give or are given a thing."""

    def __init__(self, holds: Holds) -> None:
        self.files: set[str] = set()
        self._holds, self._on = holds, False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the calls of this thread, and of those that begin inside."""
        threading.setprofile(self._seen)
        sys.setprofile(self._seen)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def walking(self) -> Iterator[None]:
        """Note files; what is watched before and after is not part of the walk."""
        self._on = True
        yield
        self._on = False

    def _seen(self, frame: FrameType, event: str, _argument: object) -> None:
        if not self._on or event != "call" or (file := _file(frame)) is None:
            return
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
        if any(self._holds(frame.f_locals.get(name)) for name in code.co_varnames[:count]):
            giver = _file(frame.f_back) if frame.f_back else None
            self.files |= {file, giver} if giver else {file}


def _file(frame: FrameType) -> str | None:
    path = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
    return path if path.startswith(("app/", "espalier/", "workers/")) else None


def is_body(value: object) -> bool:
    """Tell whether something is the whole of what was sent, or of the spec in it, in any form but a row's."""
    if isinstance(value, bytes | bytearray):
        return MARK.encode() in value
    if isinstance(value, dict):
        return value.get("name") == MARK or {"prune", "calibration", "evaluate"} <= value.keys()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(is_body(getattr(value, field.name, None)) for field in dataclasses.fields(value))
    return isinstance(value, JobRequest | CompressionSpec)


def is_step(value: object) -> bool:
    """Tell whether something is a message of a child's progress or the event of one, or holds one."""
    if isinstance(value, bytes):
        return b"progress" in value and b'"pruning"' in value
    if isinstance(value, dict):
        return value.get("type") == "job.progress"
    if isinstance(value, list | tuple):
        return value[:1] == ("job.progress",) or any(map(is_step, value))
    if isinstance(value, Progress):
        return value.phase == "pruning"  # files are uploaded by the worker itself
    return isinstance(value, Event) and value.type == "job.progress"


def section(title: str) -> str:
    """The text of a walk in the architecture."""
    match = re.search(rf"\*\*{title}\*\*(.*?)(?=\n\*\*|\Z)", (ROOT / PAGE).read_text(), re.DOTALL)
    assert match
    return match[1]


def table(text: str) -> list[str]:
    """The paths of a walk's table, in order; their number stands before it."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    paths = [f"{where.strip(' `')}/{name}.py" for _, where, names, *_ in rows for name in re.findall("`(.+?)`", names)]
    assert f"({len(paths)} files)" in text
    return paths


def outside(text: str) -> set[str]:
    """The paths that the prose of a walk names in full."""
    return set(re.findall(r"`([a-z_/]+\.py)`", text))


def test_the_body_of_a_request_passes_the_files_that_the_architecture_names(tmp_path: Path, sqlite_url: str) -> None:
    model = copy_demo_model(tmp_path / "roots/model")
    settings = Settings(home=tmp_path / "home", database_url=sqlite_url, local_roots=str(tmp_path / "roots"))
    body: dict[str, Any] = {"name": MARK, "source": {"kind": "local", "path": str(model)}, "spec": SPEC}
    text, plain, rich = section("The body of a request"), Walk(is_body), Walk(is_body)
    app = create_app(settings)
    with plain.watched(), TestClient(app) as client, plain.walking():
        assert client.post("/v1/jobs", json=body).status_code == 202
    assert sorted(plain.files) == sorted(table(text))
    with rich.watched(), TestClient(create_app(settings)) as client:
        rows.meet(Database(sqlite_url), body["source"], SPEC, at=model)
        plan = client.post("/v1/plans", json=body).json()["id"]
        with rich.walking():
            answer = client.post("/v1/jobs", json={**body, "plan_id": plan}, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 202
    assert rich.files - plain.files <= outside(text)
    assert len(rich.files - plain.files) == 4


def test_a_step_of_progress_passes_the_files_that_the_architecture_names(tmp_path: Path, sqlite_url: str) -> None:
    bench, walk, text = Bench(sqlite_url, tmp_path), Walk(is_step), section("A step of progress")
    job_id, streams = bench.add(), list[str]()
    sent = io.BytesIO()
    with walk.watched(), TestClient(create_app(bench.settings)) as client, walk.walking():
        writer = cast("Reporter", SimpleNamespace(send=MessageWriter(sent).send))
        PhaseRun("pruning", writer, total=2, unit="block").progress(2)
        stream = f"/v1/jobs/{job_id}/events/stream"
        watching = threading.Thread(target=lambda: streams.append(client.get(stream).text))
        watching.start()
        patience = Patience(20)
        while client.app.state.event_streams.queries < 3:  # type: ignore[attr-defined]
            patience.pause(0.02, "the stream knows where the job stands")
        assert bench.work(job_id).state == "succeeded"
        watching.join(60)
    assert json.loads(sent.getvalue())["current"] == 2
    assert '"job.progress"' in streams[0]
    assert sorted(walk.files - outside(text)) == sorted(table(text))
    bench.database.dispose()
