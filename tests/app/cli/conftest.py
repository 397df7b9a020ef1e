"""The command line in this process, against the real application on a real port."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import uvicorn

from app.cli.main import main
from app.db.migrate import run_migrations
from app.main import create_app
from app.settings import Settings, get_settings
from tests.app.cli.command import Espalier, Outcome
from tests.fixtures.library.demo_model import copy_demo_model


@pytest.fixture
def espalier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Espalier]:
    """Run the command and return its exit status and what it printed."""
    on_term = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Outcome:
        get_settings.cache_clear()
        monkeypatch.setattr(sys, "argv", ["espalier", *arguments])
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        assert isinstance(status, int)
        printed = capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    yield run
    get_settings.cache_clear()
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model below the service's roots."""
    return copy_demo_model(tmp_path / "roots/model")


@pytest.fixture
def service(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A running API without workers; the command line's settings point to it."""
    settings = Settings(home=tmp_path / "home", local_roots=str(model.parent))
    # The service speaks in this process too, and what it logs is nothing that a command prints.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))  # open for longer than a test
    run_migrations(settings.database)
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setenv("ESPALIER_URL", f"http://127.0.0.1:{port}")
    yield settings
    server.should_exit = True
    thread.join(60)
    structlog.reset_defaults()
