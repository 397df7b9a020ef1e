"""Serve the API: `python -m app.server`; the one place that says how it listens, for one machine and for many."""

from __future__ import annotations

import resource

import uvicorn

from app.platform.connections import PromptProtocol
from app.settings import Settings, get_settings

KEEP_ALIVE_SECONDS = 20
BACKLOG = 1024
_SPARE_FILES = 256
"""Of a process, for its database, store and broker."""


def serve(settings: Settings) -> None:
    """Listen until asked to stop."""
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.api_processes,
        http=PromptProtocol,
        ws="none",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=BACKLOG,
        limit_concurrency=connections(settings),
        timeout_graceful_shutdown=20 if settings.mode == "production" else 5,
    )


def connections(settings: Settings) -> int:
    """Return the number of connections a process keeps: as many as asked for, within the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.api_max_connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return settings.api_max_connections if soft == resource.RLIM_INFINITY else min(wanted, soft) - _SPARE_FILES


if __name__ == "__main__":
    serve(get_settings())
