"""The application on a real port in this process, without workers: what its pages show is what a test wrote."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn

from app.db.migrate import run_migrations
from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings


@dataclass
class Site:
    """A running installation."""

    url: str
    roots: Path
    """Local models lie below."""
    resources: Resources
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask for something by the API."""
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text
        document: dict[str, Any] = answer.json() if answer.content else {}
        return document


@contextmanager
def serving(home: Path, **knobs: Any) -> Iterator[Site]:
    """Serve an embedded installation until the block ends."""
    roots = home / "roots"
    roots.mkdir(parents=True)
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'espalier.db'}", local_roots=str(roots), **knobs)
    run_migrations(settings.database)
    # A coloured trace of a failed page would hold up the server for a minute.
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    site = Site(f"http://127.0.0.1:{port}", roots, app.state.resources)
    try:
        yield site
    finally:
        site.http.close()
        server.should_exit = True
        app.state.event_streams.close()
        thread.join(10)
        assert not thread.is_alive()
