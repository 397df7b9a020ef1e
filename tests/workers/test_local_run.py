"""One job without a service."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.bodies.job import JobRequest
from app.settings import Settings
from tests.fixtures.workers.runs import SCRIPTED
from workers.local_run import main, run


def carried_out(
    tmp_path: Path,
    script: str = "steady",
    *,
    spec: dict[str, Any] | None = None,
    hang_seconds: float | None = None,
    **fields: Any,
) -> tuple[bool, list[dict[str, Any]]]:
    body = {
        "source": {"kind": "local", "path": f"/scripts/{script}"},
        "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}, **(spec or {})},
        **fields,
    }
    messages: list[BaseModel] = []
    settings = Settings(home=tmp_path / "home", threads=1)
    if hang_seconds is not None:
        settings = settings.model_copy(update={"hang_seconds": hang_seconds})
    job = JobRequest.model_validate_json(json.dumps(body))
    ended = run(job, tmp_path / "output", settings, messages.append, SCRIPTED)
    assert list((tmp_path / "home").rglob("scratch/*")) == []
    return ended, [message.model_dump(mode="json", by_alias=True) for message in messages]


def test_a_run_passes_on_what_its_children_say_and_leaves_the_result(tmp_path: Path) -> None:
    ended, messages = carried_out(tmp_path, "steady")
    assert ended
    kinds = [message["kind"] for message in messages]
    assert kinds[0] == "phase_started"
    assert kinds[-1] == "done"
    assert kinds.count("layer") == 5
    assert {path.name for path in (tmp_path / "output").iterdir()} == {
        "model.safetensors",
        "report.json",
        "manifest.json",
    }


def test_a_run_that_fails_says_why_last_and_leaves_nothing(tmp_path: Path) -> None:
    for script, error_class in (("fails", "numerical"), ("dies-always", "worker_lost"), ("mute", "internal")):
        ended, messages = carried_out(tmp_path, script)
        assert not ended
        assert messages[-1]["kind"] == "failed"
        assert messages[-1]["error"]["class"] == error_class
        assert not (tmp_path / "output").exists()


UPLOADED = {"kind": "upload", "upload_id": "upl_01"}
TO_THE_HUB = {"publish": [{"kind": "huggingface", "repo": "org/smaller"}]}


@pytest.mark.parametrize(
    ("pointer", "asked"),
    [
        ("/source/kind: `upload`", {"source": UPLOADED}),
        ("/spec/calibration/dataset/kind", {"spec": {"calibration": {"dataset": UPLOADED}}}),
        ("/spec/evaluate/perplexity/0/dataset", {"spec": {"evaluate": {"perplexity": [{"dataset": UPLOADED}]}}}),
        ("/spec/preset", {"spec": {"preset": "mine@2"}}),
        ("/spec/preset", {"spec": {"preset": "fast@7"}}),
        ("/reuse", {"reuse": "require"}),
        ("/spec/output/publish/0/kind: no token: set ESPALIER_HF_TOKEN", {"spec": {"output": TO_THE_HUB}}),
        ("/plan_id", {"plan_id": "pln_01ARZ3NDEKTSV4RRFFQ69G5FAV"}),
    ],
)
def test_a_run_refuses_by_name_what_takes_a_service(pointer: str, asked: dict[str, Any], tmp_path: Path) -> None:
    ended, (refusal,) = carried_out(tmp_path, **asked)
    assert not ended
    assert refusal["error"]["class"] == "invalid_spec"
    assert pointer in refusal["error"]["message"]
    assert not (tmp_path / "home").exists()


def test_a_run_ends_at_its_limit_of_time(tmp_path: Path) -> None:
    ended, messages = carried_out(tmp_path, "endless", limits={"max_run_seconds": 0.5})
    assert not ended
    assert messages[-1]["error"]["class"] == "timeout"
    assert not (tmp_path / "output").exists()


def test_a_run_that_hangs_is_ended_and_says_where(tmp_path: Path) -> None:
    ended, messages = carried_out(tmp_path, "hangs", hang_seconds=1.5)
    assert not ended
    error = messages[-1]["error"]
    assert error["class"] == "worker_lost"
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("sent", [b"\xff\xfe{", b"", b"[", b'{"spec": {}, "spec": {}}', b'{"n": ' + b"9" * 5000 + b"}"])
def test_a_request_that_is_no_json_is_refused(
    sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run", "--output", str(tmp_path / "out")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(sent)))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main() == 1
    assert json.loads(capsys.readouterr().out)["error"]["class"] == "invalid_spec"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_ends_without_a_traceback(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr("sys.argv", ["run", "--output", str(tmp_path / "out")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    main()
    with pytest.raises(SystemExit, match=str(status)):
        handlers[number](number, None)
