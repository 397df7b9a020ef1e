"""The fetcher as a process, and a hub for it to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bodies.job import JobRequest
from app.integrations.systems import LOGINS
from app.storage.s3 import S3Store
from espalier.messages import Failed
from tests.app.integrations.fetches import KEYS, SPEC, Fetch, Read
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub, hub
from workers import fetcher
from workers.messages import MESSAGES, AnyMessage, FetchRequest
from workers.processes.process import environment

__all__ = ["hub"]


def _as_child(line: str, workspace: Path) -> list[AnyMessage]:
    """As the supervisor runs it."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers.fetcher"],
        input=f"{line}\n",
        env=environment("fetch", workspace, 1),
        cwd=workspace,
        capture_output=True,
        text=True,
        check=False,
    )
    messages = [MESSAGES.validate_json(line) for line in done.stdout.splitlines()]
    assert messages, done.stderr
    assert isinstance(messages[-1], Failed) == (done.returncode == 1), done.stderr
    return messages


def _here(line: str, _workspace: Path) -> list[AnyMessage]:
    """In this process, which spares the start of another."""
    messages: list[AnyMessage] = []
    status = fetcher.serve(line, messages.append)  # type: ignore[arg-type]
    assert isinstance(messages[-1], Failed) == (status == 1)
    return messages


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Fetch:
    """Run the fetcher for a source and a spec in this process; return what it said; a login goes by its kind."""
    return _fetch(hub, tmp_path, _here)


@pytest.fixture
def fetch_as_child(hub: Hub, tmp_path: Path) -> Fetch:
    """The same in a process of its own, which takes a second to start."""
    return _fetch(hub, tmp_path, _as_child)


def _fetch(hub: Hub, tmp_path: Path, run_fetcher: Callable[[str, Path], list[AnyMessage]]) -> Fetch:
    runs = iter(range(1000))

    def run(
        source: dict[str, Any],
        spec: dict[str, Any] | None = None,
        *,
        token: str | None = None,
        systems: dict[str, dict[str, str]] | None = None,
        **fields: Any,
    ) -> list[AnyMessage]:
        workspace = tmp_path / f"workspace-{next(runs)}"
        workspace.mkdir()
        logins = {kind: fields.pop(kind) for kind in LOGINS if kind in fields}
        at_hub = {"endpoint": hub.url, **({"token": token} if token else {})}
        request = FetchRequest(
            job=JobRequest.model_validate_json(json.dumps({"source": source, "spec": spec or SPEC})),
            cache_dir=str(tmp_path / "cache"),
            cache_max_bytes=2**30,
            workspace=str(workspace),
            roots=[str(tmp_path / "roots"), str(DEMO_MODEL)],
            systems={"huggingface": at_hub, **logins},
            **fields,
        )
        return run_fetcher(request.model_dump_json(by_alias=True), workspace)

    (tmp_path / "roots").mkdir()
    return run


@pytest.fixture
def read(fetch: Fetch, s3_server: str, s3_store: S3Store) -> Read:
    """Put files below a prefix and fetch it."""

    def run(files: dict[str, bytes], prefix: str = "model", **fields: Any) -> list[AnyMessage]:
        for name, data in files.items():
            s3_store.put_bytes(f"{prefix}/{name}", data)
        source = {"kind": "s3", "uri": f"s3://{s3_store.bucket}/{s3_store.prefix}{prefix}"}
        return fetch(source, **{"s3": {**KEYS, "endpoint_url": s3_server}, **fields})

    return run
