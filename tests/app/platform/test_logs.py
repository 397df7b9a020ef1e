"""The service's log says what went wrong, and no more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from app.platform.logs import setup_logs
from app.settings import Settings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_trace_holds_no_values(log_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs(Settings(home=tmp_path, log_format=log_format))
    sent = "Bearer " + "esp_1"
    try:
        raise ValueError(len(sent))
    except ValueError:
        structlog.get_logger("a-trace").exception("request failed")
    log = capsys.readouterr().err
    assert "ValueError: 12" in log
    assert "Bearer esp_1" not in log
